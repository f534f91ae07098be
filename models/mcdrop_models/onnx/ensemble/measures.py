"""The measures of `dropout_core.measures` as ONNX nodes: from the outputs of passes to moments to measures.

float32, or float64 where the network is. Variances are of two passes over the numbers, so that no cancellation eats
small ones; no logarithm is taken of 0. What is not finite stays in its own row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from dropout_core.measures.measures import OutputKind
from mcdrop_models.bundle.manifest import OutputScaling
from mcdrop_models.onnx.graph.builder import Nodes


@dataclass(frozen=True)
class Moment:
    """The mean over passes of a value, and the population variance of the one whose variance is wanted."""

    mean: str
    variance: str | None = None


Moments = Mapping[str, Moment]
# whose variance over passes is a measure
_VARIES = "value"
# one number for a row or a position, not one for each output
_SCALARS = ("entropy", "predictive_entropy", "expected_entropy", "mutual_information")


@dataclass(frozen=True)
class Answer:
    """What a network answers: of an output kind, for each row `columns` numbers at each of the positions.

    dtype: of the measures.
    """

    kind: OutputKind
    positions: tuple[int, ...]
    columns: int
    dtype: type[np.floating[Any]]

    @property
    def element(self) -> int:
        """The ONNX element type of the measures."""
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

    @property
    def num_outputs(self) -> int:
        """C: how many classes, labels or targets there are."""
        if self.kind == "mean_and_log_variance":
            return self.columns // 2
        return 2 if self.columns == 1 and self.kind in ("logits", "probabilities") else self.columns

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one row of a value or of a measure."""
        return self.positions if name in _SCALARS else (*self.positions, self.num_outputs)


class Arithmetic:
    """Formulas in one element type."""

    def __init__(self, nodes: Nodes, dtype: type[np.floating[Any]]) -> None:
        self.nodes, self.dtype = nodes, dtype

    def number(self, value: float) -> str:
        """A constant without axes."""
        return self.nodes.constant(np.array(value, self.dtype))

    def vector(self, values: tuple[float, ...]) -> str:
        """A constant [C]."""
        return self.nodes.constant(np.array(values, self.dtype))

    def complement(self, value: str) -> str:
        """1 − value."""
        return self.nodes("Sub", self.number(1), value)

    def entropy(self, probabilities: str) -> str:
        """−Σ p log p over the last axis, 0 at p = 0."""
        above_zero = self.nodes("Max", probabilities, self.number(float(np.finfo(self.dtype).tiny)))
        terms = self.nodes("Mul", probabilities, self.nodes("Log", above_zero))
        summed = self.nodes("ReduceSum", terms, self.nodes.integers(-1), keepdims=0)
        return self.nodes("Neg", summed)

    def binary_entropies(self, probabilities: str) -> str:
        """The sum over the last axis of the entropies of each label's two outcomes."""
        return self.nodes("Add", self.entropy(probabilities), self.entropy(self.complement(probabilities)))

    def at_least_zero(self, value: str) -> str:
        """The value, or 0 where it is below; NaN stays, which it does not in every runtime's Relu."""
        zero = self.number(0)
        return self.nodes("Where", self.nodes("Less", value, zero), zero, value)

    def mean(self, values: str) -> str:
        """The mean over the first axis."""
        return self.nodes("ReduceMean", values, self.nodes.integers(0), keepdims=0)

    def mean_square(self, values: str, mean: str) -> str:
        """The mean over the first axis of the squared deviations from something."""
        deviations = self.nodes("Sub", values, mean)
        return self.mean(self.nodes("Mul", deviations, deviations))


def values_of(answer: Answer, outputs: str, on: Arithmetic) -> dict[str, str]:
    """The named values of passes whose moments are kept, [t, b, …]. outputs: [t, b, *P, columns]."""
    return _VALUES[answer.kind](outputs, answer.columns, on)


def moments_of(values: Mapping[str, str], on: Arithmetic) -> dict[str, Moment]:
    """The moments of each named value over its first axis."""
    means = {name: on.mean(value) for name, value in values.items()}
    return {
        name: Moment(mean, on.mean_square(values[name], mean) if name == _VARIES else None)
        for name, mean in means.items()
    }


def pooled(blocks: Moments, on: Arithmetic) -> dict[str, Moment]:
    """The moments of all passes, from those of blocks of as many passes each along the first axis.

    Source: Chan, Golub, LeVeque 1983, eq. 2.1, for all blocks at once.
    """
    return {name: _pooled(moment, on) for name, moment in blocks.items()}


def rescaled(moments: Moments, scaling: OutputScaling, on: Arithmetic) -> dict[str, Moment]:
    """The moments of scale · y + shift; see Estimate.rescaled."""
    squares = tuple(scale * scale for scale in scaling.scale)
    value = moments["value"]
    mean = on.nodes("Add", on.nodes("Mul", value.mean, on.vector(scaling.scale)), on.vector(scaling.shift))
    found = {**moments, "value": Moment(mean, on.nodes("Mul", value.variance or "", on.vector(squares)))}
    if "aleatoric" in moments:
        logs = on.vector(tuple(float(np.log(square)) for square in squares))
        found["aleatoric"] = Moment(on.nodes("Mul", moments["aleatoric"].mean, on.vector(squares)))
        found["log_aleatoric"] = Moment(on.nodes("Add", moments["log_aleatoric"].mean, logs))
    return found


def measures_of(answer: Answer, moments: Moments, on: Arithmetic) -> dict[str, str]:
    """Every measure by name: of each output [b, *P, C], and the entropies [b, *P]."""
    return _MEASURES[answer.kind](moments, on)


def _pooled(blocks: Moment, on: Arithmetic) -> Moment:
    mean = on.mean(blocks.mean)
    if blocks.variance is None:
        return Moment(mean)
    return Moment(mean, on.nodes("Add", on.mean(blocks.variance), on.mean_square(blocks.mean, mean)))


def _from_logits(outputs: str, columns: int, on: Arithmetic) -> dict[str, str]:
    if columns == 1:
        first = on.nodes("Sigmoid", on.nodes("Neg", outputs))
        return _class_values(on.nodes("Concat", first, on.nodes("Sigmoid", outputs), axis=-1), on)
    return _class_values(on.nodes("Softmax", outputs, axis=-1), on)


def _from_probabilities(outputs: str, columns: int, on: Arithmetic) -> dict[str, str]:
    if columns == 1:
        outputs = on.nodes("Concat", on.complement(outputs), outputs, axis=-1)
    return _class_values(outputs, on)


def _class_values(probabilities: str, on: Arithmetic) -> dict[str, str]:
    return {"value": probabilities, "entropy": on.entropy(probabilities)}


def _from_label_logits(outputs: str, columns: int, on: Arithmetic) -> dict[str, str]:
    return _from_label_probabilities(on.nodes("Sigmoid", outputs), columns, on)


def _from_label_probabilities(outputs: str, _: int, on: Arithmetic) -> dict[str, str]:
    return {"value": outputs, "entropy": on.binary_entropies(outputs)}


def _from_mean(outputs: str, _: int, __: Arithmetic) -> dict[str, str]:
    return {"value": outputs}


def _from_mean_and_log_variance(outputs: str, columns: int, on: Arithmetic) -> dict[str, str]:
    halves = on.nodes.integers(columns // 2, columns // 2)
    mean, log_variance = on.nodes.several("Split", [outputs, halves], 2, axis=-1)
    return {"value": mean, "aleatoric": on.nodes("Exp", log_variance), "log_aleatoric": log_variance}


_VALUES: Mapping[OutputKind, Callable[[str, int, Arithmetic], dict[str, str]]] = {
    "logits": _from_logits,
    "probabilities": _from_probabilities,
    "multilabel_logits": _from_label_logits,
    "multilabel_probabilities": _from_label_probabilities,
    "mean": _from_mean,
    "mean_and_log_variance": _from_mean_and_log_variance,
}


def _common(moments: Moments) -> dict[str, str]:
    value = moments["value"]
    return {"mean": value.mean, "variance": value.variance or ""}


def _entropies(moments: Moments, predictive: str, on: Arithmetic) -> dict[str, str]:
    expected = moments["entropy"].mean
    return {
        **_common(moments),
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": on.at_least_zero(on.nodes("Sub", predictive, expected)),
    }


def _classification(moments: Moments, on: Arithmetic) -> dict[str, str]:
    return _entropies(moments, on.entropy(moments["value"].mean), on)


def _multilabel(moments: Moments, on: Arithmetic) -> dict[str, str]:
    return _entropies(moments, on.binary_entropies(moments["value"].mean), on)


def _regression(moments: Moments, on: Arithmetic) -> dict[str, str]:
    return {**_common(moments), "epistemic_variance": on.nodes("Identity", moments["value"].variance or "")}


def _predicted_variance(moments: Moments, on: Arithmetic) -> dict[str, str]:
    epistemic, aleatoric = moments["value"].variance or "", moments["aleatoric"].mean
    variance = on.nodes("Add", epistemic, aleatoric)
    information = on.nodes("Sub", on.nodes("Log", variance), moments["log_aleatoric"].mean)
    return {
        "mean": moments["value"].mean,
        "variance": variance,
        "epistemic_variance": epistemic,
        "aleatoric_variance": aleatoric,
        "gaussian_mutual_information": on.at_least_zero(on.nodes("Mul", on.number(0.5), information)),
    }


_MEASURES: Mapping[OutputKind, Callable[[Moments, Arithmetic], dict[str, str]]] = {
    "logits": _classification,
    "probabilities": _classification,
    "multilabel_logits": _multilabel,
    "multilabel_probabilities": _multilabel,
    "mean": _regression,
    "mean_and_log_variance": _predicted_variance,
}
