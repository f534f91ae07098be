"""The choice itself, which asks for what it needs and is told, and runs nothing.

Whoever drives `choose` answers each Need: a function on a live model (`dropout_core.acquire.rank`), a server that waits
for its device, a command that reads a pool from a file. All of the pool is asked for a few numbers a row, chunk by
chunk; passes are kept of few candidates only.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from dropout_core.acquire.batch_epig import batch_epig
from dropout_core.acquire.constraints import Constraints
from dropout_core.acquire.epig import epig
from dropout_core.acquire.joint import SATURATION, batchbald
from dropout_core.acquire.need import EMBEDDINGS, SAMPLES, Arrays, Need
from dropout_core.acquire.options import RankOptions
from dropout_core.acquire.pointwise import reduce
from dropout_core.acquire.select import badge, k_centre, power, softmax, softrank, top_k
from dropout_core.acquire.vocabulary import EPIG, RANDOM, SCORES, THOMPSON, Score, parts_of, predicted_classes
from dropout_core.errors import InvalidInput
from dropout_core.noise.philox import uniform

Choice = Generator[Need, Arrays, "Ranking"]

# a counter site of its own: a network's sites count from 0
_RANDOM_SITE = 2**32 - 1
_DEVIATIONS = 2.0
_BY_SCORE: Mapping[str, Callable[..., Tensor]] = {
    "top_k": top_k,
    "power": power,
    "softmax": softmax,
    "softrank": softrank,
}
_SCORE, _PREDICTED, _NUMBERS = "score", "predicted", "numbers"


@dataclass(frozen=True)
class Ranking:
    """The chosen rows, in the order they were picked; tensors on the CPU.

    indices: int64 [k], in the whole pool. score: the exact name, None of a selector without one. scores: float64 [k],
    in the measure's own sign; of batchbald the joint score of all rows up to and with this one; None without a score.
    parts: measures of each chosen row, [k]: the total, the aleatoric and the epistemic part, the margin; empty where no
    network ran. reduction: how several numbers of a row became one, if they did; "max" and "top_fraction" keep those
    where to label first. shares: of batchbald, [k], how much of what the passes can tell is told. considered: how many
    rows the selector looked at.
    """

    indices: Tensor
    score: str | None
    scores: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    reduction: str | None = None
    shares: Tensor | None = None
    considered: int = 0

    @property
    def saturated(self) -> bool:
        """Whether the picks use up what the passes can tell: those after it are chosen by noise. Make more passes."""
        return self.shares is not None and bool((self.shares > SATURATION).any())


def choose(options: RankOptions) -> Choice:
    """Yield what must be known next, be sent it, and return the Ranking.

    Raises InvalidInput where what is sent cannot be ranked: NaN or infinity in a row that is not excluded.
    """
    rows, score = options.open_rows(), options.of_score
    if not len(rows):
        return _no_choice(options)
    if options.score == RANDOM:
        return _by_chance(options, rows)
    if score is None:
        return (yield from _spread(options, rows))
    targets = (yield Need("targets", samples=True))[SAMPLES].movedim(1, 0) if options.score == EPIG else None
    known = yield from _of_pool(options, score, rows, targets)
    if options.selector == "batchbald":
        ranking = yield from _jointly(options, known, targets)
    else:
        ranking = _one_by_one(options, known, score.urgency(known.scores))
    return (yield from _with_parts(options, ranking, known))


def advance(choice: Choice, arrays: Arrays | None) -> "Need | Ranking":
    """Hand a choice the arrays of its last need, and return its next need or, at the end, the ranking.

    Args:
        choice: A running choice.
        arrays: The answer to its last need; None to start it.

    Returns:
        The next need, or the ranking.

    Raises:
        InvalidInput: The arrays contain NaN or infinity in a row that may be chosen.
    """
    try:
        return next(choice) if arrays is None else choice.send(arrays)
    except StopIteration as ended:
        ranking: Ranking = ended.value
        return ranking


def drive(choice: Choice, answer: Callable[[Need], Arrays]) -> "Ranking":
    """Answer every need of a choice, and return its ranking.

    Args:
        choice: A choice that has not started.
        answer: Returns the arrays of a need.

    Returns:
        The ranking.

    Raises:
        InvalidInput: The arrays contain NaN or infinity in a row that may be chosen.
    """
    step = advance(choice, None)
    while isinstance(step, Need):
        step = advance(choice, answer(step))
    return step


def _no_choice(options: RankOptions) -> Ranking:
    nothing = torch.zeros(0, dtype=torch.float64)
    scores = None if options.score is None else nothing
    return Ranking(nothing.long(), options.score, scores, shares=nothing if options.selector == "batchbald" else None)


@dataclass(frozen=True)
class _Known:
    """Of every row of the pool, by name, [N]: NaN, or −1, of those excluded. rows: the others."""

    arrays: Arrays
    rows: Tensor
    limits: Constraints

    @property
    def scores(self) -> Tensor:
        return self.arrays[_SCORE]


def _by_chance(options: RankOptions, rows: Tensor) -> Ranking:
    drawn = _drawn(options)
    picks = top_k(drawn, options.k, options.seed, options.limits)
    return Ranking(picks, options.score, drawn[picks], considered=len(rows))


def _of_pool(
    options: RankOptions, score: Score, rows: Tensor, targets: Tensor | None
) -> Generator[Need, Arrays, _Known]:
    """The score of each row that may be chosen, and what else is a few numbers a row and costs nothing then."""
    alone = options.score == THOMPSON
    parts = () if alone else parts_of(options.output)
    classes = ("mean",) if options.by_class else ()
    found = yield Need(
        rows=None if len(rows) == options.num_rows else rows,
        measures=tuple(dict.fromkeys([*score.measures, *parts, *classes])),
        samples=targets is not None,
        passes=1 if alone else None,
        kept=partial(_kept, options, score, parts, targets),
    )
    arrays = {name: _over_pool(values, rows, options.num_rows) for name, values in found.items()}
    limits = options.limits
    if options.by_class:
        limits = replace(limits, groups=arrays[_PREDICTED], quotas=options.quotas)
    return _Known(arrays, rows, limits)


def _kept(options: RankOptions, score: Score, parts: tuple[str, ...], targets: Tensor | None, arrays: Arrays) -> Arrays:
    """One number of each kind for each row of a chunk."""
    if targets is not None:
        values = epig(arrays[SAMPLES].movedim(1, 0), targets.to(arrays[SAMPLES].device))
    else:
        values = score.of(arrays, _DEVIATIONS if options.deviations is None else options.deviations)
    reduced = _reduced_parts(options, {name: arrays[name] for name in parts})
    numbers = torch.maximum(reduced[_NUMBERS], _numbers(values)) if parts else _numbers(values)
    kept = {**reduced, _NUMBERS: numbers, _SCORE: _reduced(options, score, values)}
    return kept | ({_PREDICTED: predicted_classes(arrays["mean"])} if options.by_class else {})


def _one_by_one(options: RankOptions, known: _Known, urgency: Tensor) -> Ranking:
    sharpness = {} if options.beta is None else {"beta": options.beta}
    picks = _BY_SCORE[options.selector](urgency, options.k, options.seed, limits=known.limits, **sharpness)
    return Ranking(picks, options.score, known.scores[picks], considered=len(known.rows))


def _jointly(options: RankOptions, known: _Known, targets: Tensor | None) -> Generator[Need, Arrays, Ranking]:
    """The best candidates by their score alone, equal ones in drawn order; of these, those that tell most together."""
    most = options.most_candidates
    rows = top_k(known.scores, most, options.seed, known.limits.scaled(most // options.k))
    if not len(rows):
        return _no_choice(options)
    samples = (yield from _of_rows(rows, samples=True))[SAMPLES].movedim(1, 0)
    limits = known.limits.of_rows(rows)
    size = {} if options.num_samples is None else {"num_samples": options.num_samples}
    if targets is None:
        choice = batchbald(samples, options.k, seed=options.seed, limits=limits, **size)
    else:
        choice = batch_epig(samples, targets, options.k, seed=options.seed, limits=limits, **size)
    picks = rows[choice.indices.to(rows.device)]
    return Ranking(picks, options.score, choice.scores.cpu(), shares=choice.shares.cpu(), considered=len(rows))


def _spread(options: RankOptions, rows: Tensor) -> Generator[Need, Arrays, Ranking]:
    """k_centre and badge, of all rows that may be chosen or of as many drawn ones as are considered."""
    limits = options.limits
    if options.by_class:
        found = yield from _of_rows(rows, measures=("mean",), kept=_classes)
        limits = replace(limits, groups=_over_pool(found[_PREDICTED], rows, options.num_rows), quotas=options.quotas)
    most = options.most_candidates
    if len(rows) > most:
        rows = top_k(_drawn(options), most, options.seed, limits.scaled(most // options.k)).sort().values
    if not len(rows):
        return _no_choice(options)
    means = ("mean",) if options.selector == "badge" else ()
    found = yield from _of_rows(rows, measures=means, embeddings=True)
    within = limits.of_rows(rows)
    if options.selector == "badge":
        places = badge(found["mean"], found[EMBEDDINGS], options.k, options.seed, within)
    else:
        labelled = (yield Need("labelled", embeddings=True))[EMBEDDINGS] if options.num_labelled else None
        places = k_centre(found[EMBEDDINGS], labelled, options.k, options.seed, within)
    ranking = Ranking(rows[places.to(rows.device)], None, considered=len(rows))
    return (yield from _with_parts(options, ranking, None))


def _with_parts(options: RankOptions, ranking: Ranking, known: _Known | None) -> Generator[Need, Arrays, Ranking]:
    """The parts of the chosen rows: as they are known, or asked for."""
    names, picks = parts_of(options.output), ranking.indices
    arrays: Arrays = {} if known is None else {name: values[picks] for name, values in known.arrays.items()}
    if len(picks) and not set(names) <= set(arrays):
        found = yield from _of_rows(picks, measures=names, kept=partial(_reduced_parts, options))
        arrays = {**arrays, **found}
    reduction = (options.reduction or "mean") if _NUMBERS in arrays and bool((arrays[_NUMBERS] > 1).any()) else None
    return replace(ranking, parts={name: arrays[name].cpu() for name in names if name in arrays}, reduction=reduction)


def _of_rows(
    rows: Tensor,
    *,
    measures: tuple[str, ...] = (),
    samples: bool = False,
    embeddings: bool = False,
    kept: Callable[[Arrays], Arrays] | None = None,
) -> Generator[Need, Arrays, Arrays]:
    """What is asked of some rows, in their order. Files are read forwards, so they are asked for in ascending order."""
    ascending, order = rows.sort()
    need = Need(rows=ascending, measures=measures, samples=samples, embeddings=embeddings)
    found = yield need if kept is None else replace(need, kept=kept)
    back = order.argsort()
    return {name: values[back.to(values.device)] for name, values in found.items()}


def _classes(arrays: Arrays) -> Arrays:
    return {_PREDICTED: predicted_classes(arrays["mean"])}


def _reduced_parts(options: RankOptions, arrays: Arrays) -> Arrays:
    reduced = {name: _reduced(options, SCORES.get(name), values) for name, values in arrays.items()}
    return reduced | {_NUMBERS: torch.stack([_numbers(values) for values in arrays.values()]).amax(0)} if arrays else {}


def _numbers(values: Tensor) -> Tensor:
    """How many numbers each row has, int64 [b]."""
    return torch.full((len(values),), math.prod(values.shape[1:]))


def _reduced(options: RankOptions, score: Score | None, values: Tensor) -> Tensor:
    """One number for each row, [b], in its own sign; the largest are those where to label first."""
    how, fraction = options.reduction or "mean", options.fraction
    return reduce(values, how, fraction) if score is None else score.own(reduce(score.urgency(values), how, fraction))


def _over_pool(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Values of some rows [n] as those of all, on the CPU: NaN, or −1, of the others."""
    if len(values) != len(rows):
        raise InvalidInput(f"{len(values)} rows were sent where {len(rows)} were needed; send those that a Need names.")
    if len(rows) == num_rows:
        return values.cpu()
    every = torch.full((num_rows,), torch.nan if values.is_floating_point() else -1, dtype=values.dtype)
    every[rows] = values.cpu()
    return every


def _drawn(options: RankOptions) -> Tensor:
    return uniform(options.seed, _RANDOM_SITE, torch.zeros(1, dtype=torch.int64), (options.num_rows,))[0]
