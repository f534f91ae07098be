"""A verified network and what is said of it, as the files of a bundle."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from dropout_core.capture.outputs import Result
from dropout_core.engine.scheme import Scheme
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from dropout_core.measures.measures import OutputKind, Task
from mcdrop_models.bundle.contents import (
    PROBE_MEAN,
    PROBE_VARIANCE,
    free_specs,
    input_specs,
    position_specs,
    probe_names,
    site_specs,
)
from mcdrop_models.bundle.manifest import BackendChoice, Manifest, OutputScaling, seal_manifest, sha256
from mcdrop_models.bundle.program_json import graph_to_json
from mcdrop_models.bundle.repository import Repository

PROBE_ROWS = 8
_DEFAULT_OUTPUT: Mapping[str, OutputKind] = {
    "classification": "logits",
    "multilabel": "multilabel_logits",
    "regression": "mean",
}


@dataclass(frozen=True)
class PublishedBundle:
    """What was written, and where."""

    path: Path
    version: int
    manifest: Manifest


@dataclass(frozen=True)
class BundleSpec:
    """What a publisher says of a network, see mcdrop_models.publishing.torch."""

    name: str
    task: Task
    output: OutputKind
    labels: Sequence[str] | None
    result: Result
    output_scaling: tuple[Sequence[float], Sequence[float]] | None
    passes: int
    seed: int
    scheme: Scheme
    metrics: Mapping[str, float]
    backend: BackendChoice


def output_of(task: Task, output: OutputKind | None) -> OutputKind:
    """What a network's numbers are: as said, or the usual of a task. Raises InvalidInput for another task."""
    if task not in _DEFAULT_OUTPUT:
        raise InvalidInput(f"the task is {task!r}; choose one of {', '.join(_DEFAULT_OUTPUT)}.")
    return output or _DEFAULT_OUTPUT[task]


def write_bundle(
    root: Path | str,
    told: BundleSpec,
    program: Program,
    example: NamedTensors,
    answer: Estimate,
    halves: tuple[bytes | None, bytes] | None = None,
) -> PublishedBundle:
    """Write a bundle. answer: of 64 passes over the example, which every load is checked against.

    halves: the network in ONNX. Raises InvalidInput for what no manifest may say.
    """
    program_bytes = graph_to_json(program.graph)
    weights_bytes = safetensors.torch.save(_tensors(program, example, answer))
    prefix, suffix = halves or (None, None)
    try:
        manifest = seal_manifest(
            {
                "name": told.name,
                "task": told.task,
                "output": told.output,
                "num_outputs": answer.mean.shape[-1],
                "labels": tuple(told.labels) if told.labels is not None else None,
                "inputs": input_specs(program),
                "free": free_specs(program),
                "result": None if told.result is None else str(told.result),
                "positions": position_specs(program),
                "output_scaling": _scaling(told.output_scaling),
                "sites": site_specs(program),
                "passes": told.passes,
                "seed": told.seed,
                "sampling": told.scheme.sampling,
                "masks": told.scheme.masks,
                "branches": told.scheme.branches,
                "program": sha256(program_bytes),
                "weights": sha256(weights_bytes),
                "backend": told.backend,
                "onnx_prefix": None if prefix is None else sha256(prefix),
                "onnx_suffix": None if suffix is None else sha256(suffix),
                "metrics": dict(told.metrics),
                "provenance": _provenance(),
            }
        )
    except ValidationError as error:
        found = [
            (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()
        ]
        reasons = "; ".join(f"{field}: {message}" if field else message for field, message in found)
        raise InvalidInput(f"{told.name} cannot be published: {reasons}") from error
    repository = Repository(root)
    version = repository.publish(manifest, program_bytes, weights_bytes, prefix, suffix)
    return PublishedBundle(repository.root / told.name / str(version), version, manifest)


def _scaling(pair: tuple[Sequence[float], Sequence[float]] | None) -> OutputScaling | None:
    return None if pair is None else OutputScaling(scale=tuple(pair[0]), shift=tuple(pair[1]))


def _tensors(program: Program, example: NamedTensors, answer: Estimate) -> dict[str, Tensor]:
    """All tensors of a bundle. Tied weights are stored once for each name."""
    known = answer.statistics["value"]
    probe = {place: example[name] for name, place in probe_names(list(example)).items()}
    probe |= {PROBE_MEAN: known.mean, PROBE_VARIANCE: known.variance}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in {**program.weights, **probe}.items()}


def _provenance() -> dict[str, str]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mcdrop": package_version("mcdrop"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
