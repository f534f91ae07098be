"""The selection algorithm as a generator: it yields requests for data, and runs no network itself.

A driver of `choose` answers each Need: a function with a live model (`dropout_core.acquire.rank`), a server that waits
for its device, or a command that reads a pool from a file. For the whole pool only a few numbers per row are held,
computed chunk by chunk; passes are held for the candidates alone.
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
    """The chosen rows, in the order of the picks; tensors are on the CPU.

    Attributes:
        indices: Row indices in the whole pool, int64 [k].
        score: The exact name of the score; None if the selector does not use one.
        scores: Scores in the usual sign of the measure, float64 [k]; None without a score. For "batchbald", the joint
            score of all rows up to and including this one.
        parts: Measures of each chosen row, [k]: the total, the aleatoric and the epistemic part, and the margin. Empty
            if no network ran.
        reduction: How several numbers of a row became one, if a row has several. "max" and "top_fraction" keep the most
            urgent ones.
        shares: For "batchbald", the share of the information of the passes that the picks use up, [k].
        considered: Number of rows that the selector considered.
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
        """Whether the picks use up the information of the passes: later picks are noise. Use more passes."""
        return self.shares is not None and bool((self.shares > SATURATION).any())


def choose(options: RankOptions) -> Choice:
    """Run the selection algorithm: yield requests, receive their arrays, and return the ranking.

    Args:
        options: The options of the choice.

    Returns:
        A generator that yields each Need, is sent its arrays, and returns the Ranking.

    Raises:
        InvalidInput: The arrays contain NaN or infinity in a row that is not excluded.
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
    """Arrays by name with one number per row of the pool, [N]; excluded rows have NaN or −1. rows: the other rows."""

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
    """Request the score of each row that may be chosen, and the other numbers that cost nothing then."""
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
    """Reduce the arrays of a chunk to one number of each kind per row."""
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
    """Pick rows jointly from the best candidates by their score alone; ties are broken by the seed."""
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
    """Pick by k_centre or badge, from all rows that may be chosen or from candidates drawn by the seed."""
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
    """Add the parts of the chosen rows, from the known arrays or by a request."""
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
    """Request arrays of rows in any order. The request is ascending, because files are read forwards."""
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
    """Return the number of values of each row, int64 [b]."""
    return torch.full((len(values),), math.prod(values.shape[1:]))


def _reduced(options: RankOptions, score: Score | None, values: Tensor) -> Tensor:
    """Return one number per row, [b], in its usual sign; the reduction favours values to label first."""
    how, fraction = options.reduction or "mean", options.fraction
    return reduce(values, how, fraction) if score is None else score.own(reduce(score.urgency(values), how, fraction))


def _over_pool(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Extend values of some rows [n] to the whole pool, on the CPU; the other rows get NaN or −1."""
    if len(values) != len(rows):
        raise InvalidInput(f"{len(values)} rows were sent where {len(rows)} were needed; send those that a Need names.")
    if len(rows) == num_rows:
        return values.cpu()
    every = torch.full((num_rows,), torch.nan if values.is_floating_point() else -1, dtype=values.dtype)
    every[rows] = values.cpu()
    return every


def _drawn(options: RankOptions) -> Tensor:
    return uniform(options.seed, _RANDOM_SITE, torch.zeros(1, dtype=torch.int64), (options.num_rows,))[0]
