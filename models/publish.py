"""A trained network → a bundle: capture, verify, write."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.mc.capture import capture
from dropout_core.mc.engine import Engine
from dropout_core.mc.estimate import Estimate
from dropout_core.mc.measures import OutputKind, Task
from dropout_core.mc.probe import two_rows
from dropout_core.mc.program import Program
from dropout_core.mc.verify import is_the_model, verify
from models.manifest import InputSpec, Manifest, OutputScaling, sealed, sha256
from models.predictor import PROBE_INPUT, PROBE_MEAN, PROBE_VARIANCE, site_specs
from models.program_json import to_json
from models.repository import Repository, checked_name

_DEFAULT_OUTPUT: Mapping[str, OutputKind] = {"classification": "logits", "regression": "mean"}
_PROBE_ROWS = 8


@dataclass(frozen=True)
class Published:
    """What was written, and where."""

    path: Path
    version: int
    manifest: Manifest


def publish(  # noqa: PLR0913 - what a bundle says of itself
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor],
    *,
    name: str,
    task: Task,
    output: OutputKind | None = None,
    labels: Sequence[str] | None = None,
    root: Path | str = "bundles",
    output_scaling: tuple[Sequence[float], Sequence[float]] | None = None,
    passes: int = 32,
    seed: int = 0,
    metrics: Mapping[str, float] | None = None,
) -> Published:
    """Publish a network as the next version of a name. The model is left as it was.

    example_inputs: [b, *F], real rows where there are some; the first of them are stored as the bundle's probe, whose
    answer every load is checked against, and the first one is shown to users. output: what the network's numbers are;
    where it is not said, logits for classification and mean for regression. labels: one for each class.
    output_scaling: scale and shift from the network's unit to the caller's, for regression. passes, seed: used where a
    request names none. metrics: facts to show beside the model.

    Raises CaptureError, VerificationError, InvalidInput, or InvalidBundle for an operator bundles may not use.
    """
    checked_name(name)
    if task not in _DEFAULT_OUTPUT:
        raise InvalidInput(f"the task is {task!r}; choose one of {', '.join(_DEFAULT_OUTPUT)}.")
    example = two_rows(_single(example_inputs))[:_PROBE_ROWS].detach()
    chosen = output or _DEFAULT_OUTPUT[task]
    program = capture(model, example)
    engine = Engine(program)
    is_the_model(program, model, example)
    answer = verify(program, engine, example, chosen)
    program_bytes = to_json(program.graph)
    weights_bytes = safetensors.torch.save(_tensors(program, example, answer))
    try:
        manifest = sealed(
            {
                "name": name,
                "task": task,
                "output": chosen,
                "num_outputs": answer.mean.shape[-1],
                "labels": tuple(labels) if labels is not None else None,
                "inputs": _inputs(program),
                "output_scaling": _scaling(output_scaling),
                "sites": site_specs(program),
                "passes": passes,
                "seed": seed,
                "program": sha256(program_bytes),
                "weights": sha256(weights_bytes),
                "metrics": dict(metrics or {}),
                "provenance": _provenance(),
            }
        )
    except ValidationError as error:
        found = [
            (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()
        ]
        reasons = "; ".join(f"{field}: {message}" if field else message for field, message in found)
        raise InvalidInput(f"{name} cannot be published: {reasons}") from error
    repository = Repository(root)
    version = repository.publish(manifest, program_bytes, weights_bytes)
    return Published(repository.root / name / str(version), version, manifest)


def _single(example_inputs: Tensor | tuple[Tensor]) -> Tensor:
    if not isinstance(example_inputs, tuple):
        return example_inputs
    if len(example_inputs) != 1:
        raise InvalidInput(f"the example has {len(example_inputs)} inputs; networks of one input can be published.")
    return example_inputs[0]


def _inputs(program: Program) -> tuple[InputSpec, ...]:
    specs = program.graph.inputs
    return tuple(
        InputSpec(name=spec.name, shape=spec.shape, dtype=str(spec.dtype).removeprefix("torch.")) for spec in specs
    )


def _scaling(pair: tuple[Sequence[float], Sequence[float]] | None) -> OutputScaling | None:
    return None if pair is None else OutputScaling(scale=tuple(pair[0]), shift=tuple(pair[1]))


def _tensors(program: Program, example: Tensor, answer: Estimate) -> dict[str, Tensor]:
    """All tensors of a bundle. Tied weights are stored once for each name."""
    known = answer.statistics["value"]
    probe = {PROBE_INPUT: example, PROBE_MEAN: known.mean, PROBE_VARIANCE: known.variance}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in {**program.weights, **probe}.items()}


def _provenance() -> dict[str, str]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mcdrop": package_version("mcdrop"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
