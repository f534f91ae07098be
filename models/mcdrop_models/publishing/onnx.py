"""Publishes an ONNX file, whose random operators become sites; or a network of torch in ONNX as well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from torch import Tensor

from dropout_core.capture.probe import two_rows
from dropout_core.engine.engine import Engine
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate
from dropout_core.graph.inputs import NamedTensors, select_rows
from dropout_core.graph.program import Program
from dropout_core.verify import agree, verify
from mcdrop_models.bundle.spec import BundleSpec, OnnxBundleFields
from mcdrop_models.bundle.write import PROBE_ROWS, PublishedBundle, VerifiedNetwork, write_bundle
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.from_onnx.read import imported
from mcdrop_models.onnx.graph.halves import Halves
from mcdrop_models.onnx.runtime.network import onnx_network
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.to_onnx.halves import halves_of


def publish_onnx(
    model: bytes,
    example_inputs: Tensor | Mapping[str, Tensor] | None = None,
    *,
    root: Path | str = "bundles",
    **fields: Unpack[OnnxBundleFields],
) -> PublishedBundle:
    """Publish an ONNX model as the next version of a name. onnxruntime computes it; none of it runs in torch.

    Args:
        model: The content of the file, of opset 12 or newer, with Dropout, Bernoulli, RandomUniformLike or
            RandomNormalLike nodes. Any exporter will do.
        example_inputs: Rows as in `mcdrop_models.publishing.torch.publish`. By default standard normal rows of the
            shapes that the model declares.
        root: The folder of bundles.
        **fields: The fields of a `mcdrop_models.bundle.spec.BundleSpec`; `result` is the name of an output. The file
            itself says which dimensions are dynamic.

    Returns:
        The bundle on disk.

    Raises:
        InvalidBundle: The file cannot be published; the message says why.
        VerificationError: The network mixes its rows, or its passes all agree.
        InvalidInput: The example or a field has a value that it may not have.
    """
    return publish_onnx_network(model, example_inputs, BundleSpec(**fields, backend="onnx"), root)


def publish_onnx_network(
    model: bytes, example_inputs: Tensor | Mapping[str, Tensor] | None, spec: BundleSpec, root: Path | str
) -> PublishedBundle:
    """Publish an ONNX model as a spec describes it; see `publish_onnx`.

    Args:
        model: The content of the file.
        example_inputs: Rows that the model takes, or None for standard normal ones.
        spec: The description of the bundle; its backend is "onnx".
        root: The folder of bundles.

    Returns:
        The bundle on disk.
    """
    if isinstance(spec.result, int):
        raise InvalidInput(f"the result is {spec.result}; name an output of the ONNX model.")
    found = imported(model, example_inputs, spec.result)
    example = select_rows(two_rows(found.example), slice(PROBE_ROWS))
    program = Program(found.graph, {})
    prefix, suffix = _serialized(found.halves)
    answer = verify(program, _onnx_engine(program, prefix, suffix), example, spec.output_kind)
    return write_bundle(root, spec, VerifiedNetwork(program, example, answer, prefix, suffix))


def with_onnx_halves(program: Program, example: NamedTensors, answer: Estimate) -> VerifiedNetwork:
    """Convert a verified network to ONNX, and check that onnxruntime answers as torch does.

    Args:
        program: The network.
        example: Rows by input, [b, *F] each.
        answer: The estimate of 64 passes over the example, computed by torch.

    Returns:
        The network with its prefix and suffix in ONNX.

    Raises:
        NotExportable: ONNX lacks an operator of the network, or onnxruntime answers differently.
    """
    prefix, suffix = _serialized(halves_of(program, example))
    found = verify(program, _onnx_engine(program, prefix, suffix), example, answer.output)
    if not agree(found.mean, answer.mean):
        raise NotExportable(
            f"onnxruntime and torch answer differently, by up to {(found.mean - answer.mean).abs().max():.3g}. Publish "
            "with backend='torch', and report this network as a fault of mcdrop."
        )
    return VerifiedNetwork(program, example, answer, prefix, suffix)


def _onnx_engine(program: Program, prefix: bytes | None, suffix: bytes) -> Engine:
    return Engine(program, network=onnx_network(prefix, suffix, program, Runtime()))


def _serialized(halves: Halves) -> tuple[bytes | None, bytes]:
    prefix = None if halves.prefix is None else halves.prefix.SerializeToString(deterministic=True)
    return prefix, halves.suffix.SerializeToString(deterministic=True)
