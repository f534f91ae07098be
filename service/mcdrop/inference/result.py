"""The result of a query: arrays by measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dropout_core.estimate.estimate import Estimate
from mcdrop.inference.provenance import DEFER
from mcdrop.inference.query import Query
from mcdrop.wire.npy import Array


@dataclass(frozen=True)
class Result:
    """The measures of some rows.

    Attributes:
        measures: Arrays [B, …] by name, in the order of the response.
        monitored: Measures recorded for drift monitoring, whether they are returned or not.
        prefix_s: Seconds that the prefix took, for the whole batch.
    """

    measures: Mapping[str, Array]
    monitored: Mapping[str, Array]
    prefix_s: float

    @property
    def size(self) -> int:
        """How many numbers the measures have."""
        return sum(array.size for array in self.measures.values())

    @staticmethod
    def join(results: Sequence["Result"]) -> "Result":
        """Return the results of consecutive rows as one.

        Args:
            results: At least one result.

        Returns:
            The results of consecutive rows as one.
        """
        if len(results) == 1:
            return results[0]
        return Result(
            _concatenate([one.measures for one in results]),
            _concatenate([one.monitored for one in results]),
            sum(one.prefix_s for one in results),
        )


def estimate_arrays(
    estimate: Estimate, measures: Sequence[str], quantiles: Sequence[float], *, samples: bool
) -> dict[str, Array]:
    """Return parts of an estimate as arrays, rows first.

    Args:
        estimate: The estimate.
        measures: Names of measures.
        quantiles: Levels; empty for none.
        samples: Whether to include the samples.

    Returns:
        The measures by name, `quantiles` [B, Q, *P, C] and `samples` [B, T, *P, C].
    """
    arrays = {name: _array(estimate.measure(name)) for name in measures}
    if quantiles:
        arrays["quantiles"] = _array(estimate.quantiles(quantiles).movedim(0, 1))
    if samples:
        arrays["samples"] = _array(estimate.samples.movedim(0, 1))
    return arrays


def query_outputs(query: Query, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays that a query asks for, and the deferred rows if it has thresholds.

    Args:
        query: The query.
        arrays: Arrays of its rows: at least the measures it needs.

    Returns:
        The arrays that a query asks for.
    """
    names = (*query.measures, *(name for name in ("quantiles", "samples") if name in arrays))
    deferred = {DEFER: _deferred(query.defer_above, arrays)} if query.defer_above else {}
    return {**{name: arrays[name] for name in names}, **deferred}


def run_query(query: Query) -> Mapping[str, Array]:
    """Compute a query by itself, without a queue, and return its arrays.

    Args:
        query: The query.

    Returns:
        The arrays by name, as in a Result.

    Raises:
        NonFiniteOutput: The network returned NaN or infinity. The message names the row.
    """
    estimate = query.predictor.predict(query.inputs, query.options, query.keeps_draws)
    return query_outputs(query, estimate_arrays(estimate, query.needed, query.quantiles, samples=query.samples))


def _deferred(above: Mapping[str, float], arrays: Mapping[str, Array]) -> Array:
    """Return which rows have any number above its threshold, bool [B]."""
    deferred = np.zeros(len(next(iter(arrays.values()))), np.bool_)
    for name, threshold in above.items():
        deferred |= (arrays[name] > threshold).any(axis=tuple(range(1, arrays[name].ndim)))
    return deferred


def _array(values: Tensor) -> Array:
    return np.ascontiguousarray(values.cpu().numpy())


def _concatenate(arrays: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    return {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
