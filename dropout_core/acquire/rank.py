"""The library's one-liner for a pool: `rank(model, x, k=10)`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from dropout_core.acquire.choose import Ranking, choose
from dropout_core.acquire.need import EMBEDDINGS, SAMPLES, Arrays, Need, joined
from dropout_core.acquire.options import RankOptions
from dropout_core.acquire.pointwise import Reduction
from dropout_core.acquire.vocabulary import Selector
from dropout_core.capture.arguments import Inputs, bind
from dropout_core.capture.dynamic import Dynamic
from dropout_core.capture.outputs import Result
from dropout_core.engine.scheme import Sampling
from dropout_core.graph.inputs import NamedTensors, num_rows, split_rows
from dropout_core.measures.measures import OutputKind
from dropout_core.predict import embed, predict

# rows whose moments, or whose passes, are held at once
_MOMENT_ROWS, _SAMPLE_ROWS = 4096, 256


def rank(  # noqa: PLR0913 - what a choice is of
    model: nn.Module,
    x: Inputs,
    *,
    k: int,
    score: str | None = None,
    selector: Selector = "top_k",
    passes: int | None = None,
    seed: int = 0,
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
    sampling: Sampling | None = None,
    branches: int | None = None,
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
) -> Ranking:
    """Which k rows of a pool to label next, in the order they were picked, by T passes with the dropout on.

    model, x, output, result, class_axis, dynamic, passes, sampling, branches: as `predict` takes them; all rows share
    their masks. score and selector, by their exact names, and their parameters: see RankOptions. labelled: rows that
    k_centre
    keeps away from; targets: rows from where the model will be used, that the score "epig" asks about; both as x.

    The seed decides the masks, and every draw of the selector: it fixes the whole choice. The pool is run in parts, of
    which a few numbers a row are held.

    Raises what `predict` and RankOptions raise, and InvalidInput for NaN or infinity in a row that is not excluded.
    """
    rows = {"pool": bind(model, x)}
    rows |= {} if labelled is None else {"labelled": bind(model, labelled)}
    rows |= {} if targets is None else {"targets": bind(model, targets)}
    asked = RankOptions(
        output,
        num_rows(rows["pool"]),
        k,
        score,
        selector,
        seed,
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
    )
    described = {"output": output, "result": result, "class_axis": class_axis, "dynamic": dynamic}
    live = _Live(model, rows, described, {"passes": passes, "seed": seed, "sampling": sampling, "branches": branches})
    choice = choose(asked)
    try:
        need = next(choice)
        while True:
            need = choice.send(live.answer(need))
    except StopIteration as ended:
        ranking: Ranking = ended.value
        return ranking


@dataclass(frozen=True)
class _Live:
    """A live model and the rows a choice can ask about. described, drawn: arguments of `predict`."""

    model: nn.Module
    rows: Mapping[str, NamedTensors]
    described: Mapping[str, Any]
    drawn: Mapping[str, Any]

    def answer(self, need: Need) -> Arrays:
        """What a Need is for, chunk by chunk."""
        return joined([need.kept(self._arrays(need, chunk)) for chunk in self._chunks(need)])

    def _chunks(self, need: Need) -> Iterator[NamedTensors]:
        inputs, size = self.rows[need.of], _SAMPLE_ROWS if need.samples else _MOMENT_ROWS
        if need.rows is None:
            yield from split_rows(inputs, size)
            return
        for some in need.rows.split(size):
            yield {name: value[some.to(value.device)] for name, value in inputs.items()}

    def _arrays(self, need: Need, chunk: NamedTensors) -> Arrays:
        arrays: dict[str, Tensor] = {}
        if need.estimates:
            drawn = {**self.drawn, "passes": self.drawn["passes"] if need.passes is None else need.passes}
            estimate = predict(self.model, chunk, keep_draws=need.samples, **drawn, **self.described)
            arrays = {name: estimate.measure(name) for name in need.measures}
            if need.samples:
                arrays[SAMPLES] = estimate.samples.movedim(0, 1)
        if need.embeddings:
            arrays[EMBEDDINGS] = embed(self.model, chunk, **self.described)
        return arrays
