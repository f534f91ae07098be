"""The description of a bundle to publish: everything that its publisher decides."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Required, TypedDict, get_args

from dropout_core.capture.dynamic import Dynamic
from dropout_core.capture.outputs import Result
from dropout_core.engine.options import PassOptions, Sampling, Sharing
from dropout_core.errors import InvalidInput
from dropout_core.measures.measures import OUTPUT_KINDS, OutputKind, Task
from mcdrop_models.bundle.manifest import BackendChoice
from mcdrop_models.bundle.repository import validate_name

_DEFAULT_OUTPUT: Mapping[Task, OutputKind] = {
    "classification": "logits",
    "multilabel": "multilabel_logits",
    "regression": "mean",
}

_PASSES = PassOptions()


@dataclass(frozen=True, kw_only=True)
class BundleSpec:
    """The description of a bundle to publish. Each field's metadata describes it.

    Raises:
        UnknownModel: The name is not one that a bundle may have.
        InvalidInput: A field has a value that it may not have.
    """

    name: str = field(metadata={"description": "Name to publish under: lower-case letters, digits, '_' and '-'."})
    task: Task = field(metadata={"description": "classification, multilabel or regression."})
    output: OutputKind | None = field(
        default=None,
        metadata={
            "description": "Meaning of the network's output: logits, probabilities, mean, … By default logits for "
            "classification, multilabel_logits for multilabel and mean for regression."
        },
    )
    labels: Sequence[str] | None = field(
        default=None, metadata={"description": "Names of the classes or labels, one for each output."}
    )
    result: Result = field(
        default=None,
        metadata={"description": "Name or position of the output to serve, where the network returns several."},
    )
    class_axis: int | None = field(
        default=None,
        metadata={"description": "Axis of the output that holds its classes or targets. Answers have it last."},
    )
    dynamic: Dynamic | None = field(
        default=None,
        metadata={"description": "Axes whose size may differ from the example's, such as {'ids': {1: 'length'}}."},
    )
    output_scaling: tuple[Sequence[float], Sequence[float]] | None = field(
        default=None,
        metadata={"description": "Scales and shifts from the network's unit to the caller's, for regression."},
    )
    passes: int = field(
        default=_PASSES.passes, metadata={"description": "Stochastic passes where a request names no number."}
    )
    seed: int = field(default=0, metadata={"description": "Seed of the masks where a request names none."})
    sampling: Sampling = field(
        default=_PASSES.sampling,
        metadata={"description": "How passes draw their noise where a request does not say: balanced or iid."},
    )
    masks: Sharing = field(
        default=_PASSES.masks,
        metadata={
            "description": "Whether the rows of a pass share their masks where a request does not say: shared or "
            "independent."
        },
    )
    branches: int = field(
        default=_PASSES.branches,
        metadata={
            "description": "Passes that share the noise of all sites but the last, where a request does not say: 1, "
            "2, 4, 8 or 16."
        },
    )
    metrics: Mapping[str, float] = field(
        default_factory=dict, metadata={"description": "Facts to show beside the model, such as its accuracy."}
    )
    backend: BackendChoice = field(
        default="torch",
        metadata={
            "description": "Library that computes the model where it is served: torch, onnx, or auto for the faster "
            "of the two there."
        },
    )

    def __post_init__(self) -> None:
        validate_name(self.name)
        _check_word("task", self.task, _DEFAULT_OUTPUT)
        _check_word("output", self.output_kind, OUTPUT_KINDS)
        _check_word("backend", self.backend, get_args(BackendChoice))
        if OUTPUT_KINDS[self.output_kind].task != self.task:
            fitting = ", ".join(name for name, kind in OUTPUT_KINDS.items() if kind.task == self.task)
            raise InvalidInput(f"a {self.task} model cannot have the output {self.output}; choose one of {fitting}.")
        _ = self.pass_options  # which checks its own fields

    @property
    def output_kind(self) -> OutputKind:
        """The meaning of the network's output: as the publisher says, or the default of the task."""
        return self.output or _DEFAULT_OUTPUT[self.task]

    @property
    def pass_options(self) -> PassOptions:
        """The options of passes for a request that overrides none."""
        return PassOptions(self.passes, self.seed, self.sampling, self.masks, self.branches)


class OnnxBundleFields(TypedDict, total=False):
    """The fields of a BundleSpec that the publisher of an ONNX file may give."""

    name: Required[str]
    task: Required[Task]
    output: OutputKind | None
    labels: Sequence[str] | None
    result: Result
    output_scaling: tuple[Sequence[float], Sequence[float]] | None
    passes: int
    seed: int
    sampling: Sampling
    masks: Sharing
    branches: int
    metrics: Mapping[str, float]


class BundleFields(OnnxBundleFields, total=False):
    """The fields of a BundleSpec, as keyword arguments."""

    class_axis: int | None
    dynamic: Dynamic | None
    backend: BackendChoice


def _check_word(what: str, word: str, words: Iterable[str]) -> None:
    if word not in set(words):
        raise InvalidInput(f"the {what} is {word!r}; choose one of {', '.join(words)}.")
