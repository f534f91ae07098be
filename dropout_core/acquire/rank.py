"""Ranking a pool with a live network: `ranking = rank(model, x, k=10)`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from torch import Tensor, nn

from dropout_core.acquire.choose import Ranking, choose, drive
from dropout_core.acquire.need import EMBEDDINGS, SAMPLES, Arrays, Need, concatenate_chunks
from dropout_core.acquire.options import RankOptions
from dropout_core.acquire.pointwise import Reduction
from dropout_core.acquire.vocabulary import Selector
from dropout_core.capture.arguments import Inputs, bind
from dropout_core.capture.dynamic import Dynamic
from dropout_core.capture.outputs import Result
from dropout_core.engine.options import PassOverrides
from dropout_core.graph.inputs import NamedTensors, num_rows, split_rows
from dropout_core.measures.measures import OutputKind
from dropout_core.predict import embed, predict

# rows whose moments, or whose passes, are held at once
MOMENT_ROWS, SAMPLE_ROWS = 4096, 256


def rank(  # noqa: PLR0913 - a choice has many parameters, each of one selector
    model: nn.Module,
    x: Inputs,
    *,
    k: int,
    score: str | None = None,
    selector: Selector = "top_k",
    output: OutputKind = "logits",
    labelled: Inputs | None = None,
    targets: Inputs | None = None,
    beta: float | None = None,
    deviations: float | None = None,
    candidates: int | None = None,
    num_samples: int | None = None,
    reduction: Reduction | None = None,
    fraction: float | None = None,
    exclude: Sequence[int] | Tensor = (),
    costs: Tensor | None = None,
    groups: Sequence[Any] | Tensor | Literal["predicted_class"] | None = None,
    quotas: Mapping[Any, int] | int | None = None,
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
    **options: Unpack[PassOverrides],
) -> Ranking:
    """Return the k rows of a pool to label next, in the order of the picks.

    The pool is run in parts, and a few numbers per row are held. The seed decides the masks and every draw of the
    selector, so it fixes the whole choice.

    Args:
        model: The network, as in `predict`.
        x: The rows of the pool, as in `predict`.
        k: Number of rows to choose.
        score: What a row is worth, by its exact name; the usual score of the output by default (see `RankOptions`).
        selector: How rows are picked from scores: "top_k", "power", "softmax", "softrank", "batchbald", "k_centre" or
            "badge".
        output: What the network's numbers are, as in `predict`.
        labelled: Rows that have labels already, as `x`; "k_centre" keeps away from them.
        targets: Rows from where the model will be used, as `x`; the score "epig" and "batchbald" use them.
        beta: Sharpness of "power", "softmax" and "softrank".
        deviations: Standard deviations that "upper_confidence_bound" adds to the mean.
        candidates: Number of rows that "batchbald", "k_centre" and "badge" consider.
        num_samples: Number of label configurations that "batchbald" draws.
        reduction: How a row with several numbers becomes one: "mean", "max" or "top_fraction".
        fraction: The fraction of "top_fraction".
        exclude: Row numbers that are never chosen.
        costs: The cost of each label, [B]; a score becomes a score per cost.
        groups: The group of each row, or "predicted_class".
        quotas: Most rows per group: one number, or one by group.
        result: Which output of `forward` counts, as in `predict`.
        class_axis: The axis of the classes, as in `predict`.
        dynamic: Axes of free size, as in `predict`.
        **options: Fields of `PassOptions`. "batchbald", "epig" and "thompson" need shared masks and no tolerance.

    Returns:
        The ranking.

    Raises:
        CaptureError: The network cannot be captured.
        VerificationError: The capture differs from the network, rows depend on each other, or passes agree.
        InvalidInput: Options contradict each other, or a row that is not excluded has NaN or infinity.
    """
    rows = {"pool": bind(model, x)}
    rows |= {} if labelled is None else {"labelled": bind(model, labelled)}
    rows |= {} if targets is None else {"targets": bind(model, targets)}
    question = RankOptions(
        output,
        num_rows(rows["pool"]),
        k,
        score,
        selector,
        options.get("seed") or 0,
        beta=beta,
        deviations=deviations,
        candidates=candidates,
        num_samples=num_samples,
        reduction=reduction,
        fraction=fraction,
        exclude=exclude,
        costs=costs,
        groups=groups,
        quotas=quotas,
        num_labelled=num_rows(rows["labelled"]) if "labelled" in rows else 0,
        num_targets=num_rows(rows["targets"]) if "targets" in rows else 0,
        masks=options.get("masks") or "shared",
    )
    question.check_tolerance(options.get("tolerance"))
    described = {"output": output, "result": result, "class_axis": class_axis, "dynamic": dynamic}
    live = _Live(model, rows, described, options)
    return drive(choose(question), live.answer)


@dataclass(frozen=True)
class _Live:
    """A network and the rows that a choice can ask about; `described` and `options` are arguments of `predict`."""

    model: nn.Module
    rows: Mapping[str, NamedTensors]
    described: Mapping[str, Any]
    options: PassOverrides

    def answer(self, need: Need) -> Arrays:
        """Return what a Need asks for, chunk by chunk."""
        return concatenate_chunks([need.kept(self._arrays(need, chunk)) for chunk in self._chunks(need)])

    def _chunks(self, need: Need) -> Iterator[NamedTensors]:
        inputs, size = self.rows[need.of], SAMPLE_ROWS if need.samples else MOMENT_ROWS
        if need.rows is None:
            yield from split_rows(inputs, size)
            return
        for some in need.rows.split(size):
            yield {name: value[some.to(value.device)] for name, value in inputs.items()}

    def _arrays(self, need: Need, chunk: NamedTensors) -> Arrays:
        arrays: dict[str, Tensor] = {}
        if need.estimates:
            options = self.options.copy()
            options["passes"] = need.passes or options.get("passes")
            estimate = predict(self.model, chunk, keep_draws=need.samples, **options, **self.described)
            arrays = {name: estimate.measure(name) for name in need.measures}
            if need.samples:
                arrays[SAMPLES] = estimate.samples.movedim(0, 1)
        if need.embeddings:
            arrays[EMBEDDINGS] = embed(self.model, chunk, **self.described)
        return arrays
