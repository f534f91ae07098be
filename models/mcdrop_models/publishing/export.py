"""Exports a bundle as one ONNX file that contains its passes."""

from collections.abc import Mapping
from importlib.metadata import version

import torch
from onnx import ModelProto
from torch import Tensor

from dropout_core.engine.options import PassOptions
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.graph.inputs import sizes_of
from mcdrop_models.bundle.repository import BundleFiles
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.onnx.ensemble.assemble import Wanted, blocks_of, ensemble, refuse_sizes
from mcdrop_models.onnx.ensemble.masks import noise_of
from mcdrop_models.onnx.ensemble.thinning import thinned
from mcdrop_models.onnx.graph.halves import Halves
from mcdrop_models.onnx.runtime.network import halves_in
from mcdrop_models.onnx.runtime.observe import Seeing
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.to_onnx.halves import halves_of

_THINNED_BYTES = "thinned_bytes"


def export_onnx(
    predictor: Predictor,
    options: PassOptions,
    sizes: Mapping[str, int],
    files: BundleFiles | None = None,
    *,
    thin: bool = False,
) -> ModelProto:
    """Return an ONNX model that takes rows and returns the measures of their passes, in the caller's unit.

    Args:
        predictor: The bundle in memory.
        options: The passes that the file contains.
        sizes: The size of each free dimension.
        files: The content of the bundle, which may hold the network in ONNX. A network imported from ONNX has no other
            form, and needs it.
        thin: Whether to leave out the units that are dropped, in each pass.

    Returns:
        The ONNX model.

    Raises:
        InvalidInput: A file cannot have these sizes or these options, or there is nothing to thin.
        NotExportable: ONNX lacks an operator of the network.
    """
    graph, manifest = predictor.program.graph, predictor.manifest
    refuse_sizes(graph, sizes)
    options = predictor.engine.allowed(options)
    row = {spec.name: _resized(predictor.probe[spec.name][:1], spec.shape, sizes) for spec in graph.inputs}
    halves = _halves(predictor, files)
    see = Seeing(graph, halves, Runtime()) if graph.is_outline else TorchNetwork(predictor.program).see
    seen = see(predictor.program.weights, row, sizes_of(graph, row))
    noise = noise_of(graph, seen.suffix.likes, options)
    blocks = blocks_of(
        seen.prefix.row_bytes(),
        seen.suffix.row_bytes(),
        options.passes,
        one_pass_at_a_time=bool(predictor.engine.looped),
    )
    thinning = thinned(halves.suffix, graph, noise) if thin else None
    facts = _facts(predictor, options) | {_THINNED_BYTES: str(0 if thinning is None else thinning.nbytes)}
    wanted = Wanted(manifest.output, manifest.output_scaling, facts)
    return ensemble(halves, graph, noise, wanted, sizes, blocks, thinning)


def thinned_bytes(model: ModelProto) -> int:
    """Return the bytes that a runtime needs for thinned weights once it has loaded a model, beside the file itself.

    Args:
        model: A model from `export_onnx`.

    Returns:
        A number of bytes; 0 where nothing is thinned.
    """
    return next(int(one.value) for one in model.metadata_props if one.key == _THINNED_BYTES)


def _halves(predictor: Predictor, files: BundleFiles | None) -> Halves:
    """Return the two halves of the network in ONNX: those of the bundle, or converted now."""
    if files is not None and files.suffix is not None:
        return halves_in(files.prefix, files.suffix)
    return halves_of(predictor.program, predictor.probe)


def _facts(predictor: Predictor, options: PassOptions) -> dict[str, str]:
    """Return the metadata of the file. Its passes and seed may differ from those of the manifest in it."""
    return {
        "manifest": predictor.manifest.model_dump_json(by_alias=True),
        "mcdrop": version("mcdrop"),
        "version": str(predictor.version),
        "passes": str(options.passes),
        "seed": str(options.seed),
        "sampling": options.sampling,
        "branches": str(options.branches),
    }


def _resized(row: Tensor, shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> Tensor:
    """Return a row repeated or cut to the sizes of its free dimensions."""
    for axis, size in enumerate(shape, 1):
        if isinstance(size, str):
            row = row.index_select(axis, torch.arange(sizes[size], device=row.device) % row.shape[axis])
    return row
