"""Writes a verified network and its description as a bundle."""

import datetime
import platform
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from mcdrop_models.bundle.contents import PROBE_MEAN, PROBE_VARIANCE, probe_names, program_facts
from mcdrop_models.bundle.manifest import Manifest, OutputScaling, seal_manifest, sha256
from mcdrop_models.bundle.program_json import graph_to_json
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.bundle.spec import BundleSpec

PROBE_ROWS = 8


@dataclass(frozen=True)
class PublishedBundle:
    """A bundle on disk.

    Attributes:
        path: Its folder.
        version: Its version among the bundles of its name.
        manifest: Its manifest.
    """

    path: Path
    version: int
    manifest: Manifest


@dataclass(frozen=True)
class VerifiedNetwork:
    """A network that passed the checks of `dropout_core.verify`.

    Attributes:
        program: The network.
        example: Rows by input, [b, *F] each; they are stored as the probe.
        answer: The estimate of 64 passes over the example. Every load must reproduce it.
        prefix: The ONNX file of what runs once, where the network has one.
        suffix: The ONNX file of what runs in each pass, where the network has one.
    """

    program: Program
    example: NamedTensors
    answer: Estimate
    prefix: bytes | None = None
    suffix: bytes | None = None


def write_bundle(root: Path | str, spec: BundleSpec, network: VerifiedNetwork) -> PublishedBundle:
    """Write a bundle as the next version of its name, all or nothing.

    Args:
        root: The folder of bundles.
        spec: What the publisher says of the bundle.
        network: The network.

    Returns:
        The bundle on disk.

    Raises:
        InvalidInput: The manifest cannot hold what the spec says of this network.
        InvalidBundle: The network uses an operator that bundles may not use.
    """
    program = graph_to_json(network.program.graph)
    weights = safetensors.torch.save(_tensors(network))
    try:
        manifest = _manifest(spec, network, program, weights)
    except ValidationError as error:
        raise InvalidInput(f"{spec.name} cannot be published: {_reasons(error)}") from error
    repository = Repository(root)
    version = repository.publish(manifest, program, weights, network.prefix, network.suffix)
    return PublishedBundle(repository.root / spec.name / str(version), version, manifest)


def _manifest(spec: BundleSpec, network: VerifiedNetwork, program: bytes, weights: bytes) -> Manifest:
    scaling = spec.output_scaling
    return seal_manifest(
        {
            **program_facts(network.program),
            "name": spec.name,
            "task": spec.task,
            "output": spec.output_kind,
            "num_outputs": network.answer.mean.shape[-1],
            "labels": None if spec.labels is None else tuple(spec.labels),
            "result": None if spec.result is None else str(spec.result),
            "output_scaling": None if scaling is None else OutputScaling(scale=scaling[0], shift=scaling[1]),
            "passes": spec.passes,
            "seed": spec.seed,
            "sampling": spec.sampling,
            "masks": spec.masks,
            "branches": spec.branches,
            "program": sha256(program),
            "weights": sha256(weights),
            "backend": spec.backend,
            "onnx_prefix": None if network.prefix is None else sha256(network.prefix),
            "onnx_suffix": None if network.suffix is None else sha256(network.suffix),
            "metrics": dict(spec.metrics),
            "provenance": _provenance(),
        }
    )


def _reasons(error: ValidationError) -> str:
    found = [(".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()]
    return "; ".join(f"{field}: {message}" if field else message for field, message in found)


def _tensors(network: VerifiedNetwork) -> dict[str, Tensor]:
    """Return all tensors of a bundle. Tied weights are stored once for each of their names."""
    known = network.answer.statistics["value"]
    probe = {place: network.example[name] for name, place in probe_names(list(network.example)).items()}
    tensors = {**network.program.weights, **probe, PROBE_MEAN: known.mean, PROBE_VARIANCE: known.variance}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _provenance() -> dict[str, str]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mcdrop": package_version("mcdrop"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
