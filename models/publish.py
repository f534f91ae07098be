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
from dropout_core.mc.arguments import Inputs, bind
from dropout_core.mc.capture import capture
from dropout_core.mc.engine import Engine
from dropout_core.mc.estimate import Estimate
from dropout_core.mc.free import Dynamic
from dropout_core.mc.inputs import Named, rows_of
from dropout_core.mc.measures import OutputKind, Task
from dropout_core.mc.outputs import Result
from dropout_core.mc.plan import DEFAULT_PASSES
from dropout_core.mc.probe import two_rows
from dropout_core.mc.program import Program
from dropout_core.mc.scheme import DEFAULT, Scheme
from dropout_core.mc.verify import is_the_model, verify
from models.manifest import Manifest, OutputScaling, sealed, sha256
from models.predictor import (
    PROBE_MEAN,
    PROBE_VARIANCE,
    free_specs,
    input_specs,
    position_specs,
    probe_names,
    site_specs,
)
from models.program_json import to_json
from models.repository import Repository, checked_name

_DEFAULT_OUTPUT: Mapping[str, OutputKind] = {
    "classification": "logits",
    "multilabel": "multilabel_logits",
    "regression": "mean",
}
_PROBE_ROWS = 8


@dataclass(frozen=True)
class Published:
    """What was written, and where."""

    path: Path
    version: int
    manifest: Manifest


def publish(  # noqa: PLR0913 - what a bundle says of itself
    model: nn.Module,
    example_inputs: Inputs,
    *,
    name: str,
    task: Task,
    output: OutputKind | None = None,
    labels: Sequence[str] | None = None,
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
    root: Path | str = "bundles",
    output_scaling: tuple[Sequence[float], Sequence[float]] | None = None,
    passes: int = DEFAULT_PASSES,
    seed: int = 0,
    scheme: Scheme = DEFAULT,
    metrics: Mapping[str, float] | None = None,
) -> Published:
    """Publish a network as the next version of a name. The model is left as it was.

    example_inputs: [b, *F], a tuple of the first arguments of forward, or a mapping by their names; real rows where
    there are some: the first of them are stored as the bundle's probe, whose answer every load is checked against, and
    the first one is shown to users. output: what the network's numbers are; where it is not said, logits for
    classification, multilabel_logits for multilabel and mean for regression. labels: one for each class, or each label.
    result: the name or the place of the output that is served, where forward returns several. class_axis: of that
    output, the axis of its classes or targets (see dropout_core.predict); the bundle answers with it last. dynamic: the
    axes in which inputs may differ from the example, such as {"ids": {1: "length"}} (see dropout_core.mc.capture).
    output_scaling: scale and shift from the network's unit to the caller's, for regression. passes, seed,
    scheme: used where a request names none. metrics: facts to show beside the model.

    Raises CaptureError, VerificationError, InvalidInput, or InvalidBundle for an operator bundles may not use.
    """
    checked_name(name)
    if task not in _DEFAULT_OUTPUT:
        raise InvalidInput(f"the task is {task!r}; choose one of {', '.join(_DEFAULT_OUTPUT)}.")
    example = rows_of(two_rows(bind(model, example_inputs)), slice(_PROBE_ROWS))
    chosen = output or _DEFAULT_OUTPUT[task]
    program = capture(model, example, dynamic=dynamic, result=result, class_axis=class_axis)
    engine = Engine(program)
    is_the_model(program, model, example, result, class_axis)
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
                "inputs": input_specs(program),
                "free": free_specs(program),
                "result": None if result is None else str(result),
                "positions": position_specs(program),
                "output_scaling": _scaling(output_scaling),
                "sites": site_specs(program),
                "passes": passes,
                "seed": seed,
                "sampling": scheme.sampling,
                "masks": scheme.masks,
                "branches": scheme.branches,
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


def _scaling(pair: tuple[Sequence[float], Sequence[float]] | None) -> OutputScaling | None:
    return None if pair is None else OutputScaling(scale=tuple(pair[0]), shift=tuple(pair[1]))


def _tensors(program: Program, example: Named, answer: Estimate) -> dict[str, Tensor]:
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
