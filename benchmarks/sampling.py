"""Claim: with shared masks, balanced passes have a smaller error of every measure than iid ones, in the same time.

For T of 16, 32 and 64 passes, each scheme (sampling/masks/branches, see dropout_core.engine.options) and three trained
networks of digits: the squared error of each measure over rows, columns and seeds, as a multiple of that of iid passes
with shared masks at the same T; the CPU time of a prediction likewise, and their product: the time to equal error where
errors fall as 1 / T. The bias. Of a batch, the error of its mean mutual information, and how well its rows are ordered.
Last, the share of 95 % intervals, ± 1.96 standard errors, that hold the truth, and the root mean square of the standard
errors over that of the errors, which should be 1: of every class, of the `likely`, of probability 0.01 and more, and of
the mutual information, `information`. Naive intervals are ± 1.96 standard deviations / √T.

small: 8-6-6-10 on principal components, dropout of 0.3 on both hidden layers; the truth is a sum over all 2^12 masks.
mlp: 64-256-256-10, dropout of 0.5. digits: the convolutional network that comes with mcdrop. The truth of both is
20 000 iid passes under a seed that nothing else uses, with a squared error of its own: T / 20 000 of that of T iid
passes. The rows: 96 of the test set, normal noise of half the brightness range added to every second one.

± is one standard error over seeds, without the reference's; a ratio's is of the paired differences e − ratio · e₀, over
the mean of e₀. The bias of the mean and of the variance is that of each row's likeliest class. One intra-op thread;
times in turn, each call under a new seed, medians. Tables are 200 columns wide (COLUMNS=200 where they go to a file).

Run: python benchmarks/sampling.py [--quick] [--nets mlp] [--json FILE]
"""

import itertools
import json as json_module
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from machine import description, report
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timing import interleaved
from torch import Tensor, nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions, Sampling, Sharing
from dropout_core.estimate.estimate import Estimate, run_passes
from dropout_core.graph.program import Program
from dropout_core.measures.measures import output_kind
from dropout_core.measures.moments import Moments
from mcdrop_models.recipes import digits
from mcdrop_models.recipes.training import fit

ROWS, PASSES, INTERVAL_PASSES, BRANCHES = 96, (16, 32, 64), (32, 64, 128, 256), (1, 2, 4, 8)
MEASURES = {
    "mean": "mean",
    "variance": "variance",
    "predictive": "predictive_entropy",
    "expected": "expected_entropy",
    "information": "mutual_information",
    "votes": "vote_variation_ratio",
}
IID, SAMPLINGS = PassOptions(sampling="iid", masks="shared", branches=1), get_args(Sampling)[::-1]
SCHEMES = [
    PassOptions(sampling=sampling, masks=masks, branches=branches)
    for sampling, masks, branches in itertools.product(SAMPLINGS, get_args(Sharing), BRANCHES)
]
INTERVAL_SCHEMES = [
    PassOptions(sampling=sampling, masks="shared", branches=branches) for sampling in SAMPLINGS for branches in (1, 4)
]
TITLES = {
    "errors": "squared error and CPU time, over those of iid shared",
    "biases": "bias, in thousandths",
    "batch": "mutual information of a batch, over that of iid shared",
    "intervals": "share of 95 % intervals that hold the truth, and ratio of standard errors to errors",
}
SEEDS = {"small": 200, "mlp": 100, "digits": 60}
_LIKELY, _NORMAL, _REFERENCE_SEED, _TIMED_SEED = 0.01, 1.959964, 10**9, 10**6
Found = dict[tuple[PassOptions, int], dict[str, list[float]]]
Row = dict[str, Any]
Truth = Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """A network, captured, and its rows."""

    model: nn.Module
    x: Tensor
    program: Program

    def by_seed(self, scheme: PassOptions, passes: int) -> Callable[[int], Estimate]:
        """The estimate of a seed, by an engine of its own: what one scheme left in its caches slows no other down."""
        engine, weights = Engine(self.program), self.program.weights
        return lambda seed: run_passes(engine, weights, self.x, replace(scheme, passes=passes, seed=seed), "logits")


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SEEDS)}; all.")] = None,
    quick: Annotated[bool, typer.Option(help="Few seeds, and a tenth of the references.")] = False,
) -> None:
    torch.set_num_threads(1)
    tables: dict[str, list[Row]] = {title: [] for title in TITLES}
    for name in nets or list(SEEDS):
        seeds = max(4, SEEDS[name] // 15) if quick else SEEDS[name]
        subject = _subject(name)
        truth = _enumerated(subject) if name == "small" else _reference(subject, 2000 if quick else 20_000)
        found, cpu_s = _found(subject, truth, seeds), _times(subject, 3 if quick else 9)
        parts = _errors(found, cpu_s), _biases(found), _batch(found), _intervals(found)
        for (table, title), part in zip(TITLES.items(), parts, strict=True):
            tables[table] += (rows := [{"net": name, **row} for row in part])
            report(f"{name}: {title}", [_readable(row) for row in rows], None)
    if json is not None:
        kept = {"command": " ".join(sys.argv), "machine": description(), **tables}
        json.write_text(json_module.dumps(kept, indent=1) + "\n")


def _subject(name: str) -> Subject:
    x, y, held_out = _images()
    torch.manual_seed(0)
    if name == "digits":
        model, held_out = digits.train(lambda *_: None).model, held_out.unflatten(1, (8, 8)) * 16
    elif name == "mlp":
        model = _trained(x, y, (256, 256), 0.5)
    else:
        center = x.mean(0)
        axes = torch.linalg.svd(x - center, full_matrices=False).Vh[:8].T
        axes = axes / ((x - center) @ axes).std(0)
        held_out = (held_out - center) @ axes
        model = _trained((x - center) @ axes, y, (6, 6), 0.3)
    return Subject(model, held_out, capture(model, held_out[:4]))


def _trained(x: Tensor, y: Tensor, hidden: tuple[int, ...], rate: float) -> nn.Module:
    sizes = itertools.pairwise((x.shape[1], *hidden))
    layers = [layer for one, two in sizes for layer in (nn.Linear(one, two), nn.ReLU(), nn.Dropout(rate))]
    model = nn.Sequential(*layers, nn.Linear(hidden[-1], 10))
    fit(model, x, y, nn.functional.cross_entropy, 60, 1e-2, lambda *_: None)
    return model


def _images() -> tuple[Tensor, Tensor, Tensor]:
    """Training images [N, 64], 0 to 1, their classes, and the rows that are measured: the recipe's own split."""
    pixels, classes = load_digits(return_X_y=True)
    x, held_out, y, _ = train_test_split(pixels / 16, classes, test_size=0.2, random_state=0, stratify=classes)
    rows = torch.from_numpy(held_out[:ROWS]).float()
    rows[1::2] += 0.5 * torch.randn(rows[1::2].shape, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(x).float(), torch.from_numpy(y), rows


def _reference(subject: Subject, passes: int) -> Truth:
    estimate = subject.by_seed(IID, passes)(_REFERENCE_SEED)
    return {measure: estimate.measure(measure) for measure in MEASURES.values()}


def _enumerated(subject: Subject) -> Truth:
    """Every measure over all masks of a sequence of layers, each mask by its probability."""
    sizes = [layer.out_features for layer in subject.model.children() if isinstance(layer, nn.Linear)][:-1]
    kept = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * sum(sizes))
    masks, probability, h = iter(kept.split(sizes, dim=1)), torch.ones(len(kept), dtype=torch.float64), subject.x
    with torch.inference_mode():
        for layer in subject.model.children():
            if isinstance(layer, nn.Dropout):
                mask = next(masks)
                probability = probability * torch.where(mask.bool(), 1 - layer.p, layer.p).double().prod(1)
                h = h * mask.unsqueeze(1) / (1 - layer.p)
            else:
                h = layer(h)
    kind = output_kind("logits")
    statistics = {name: _weighted(probability, values.double()) for name, values in kind.values(h).items()}
    return {measure: kind.measures[measure](statistics) for measure in MEASURES.values()}


def _weighted(probability: Tensor, values: Tensor) -> Moments:
    mean = torch.tensordot(probability, values, 1)
    return Moments(1, mean, torch.tensordot(probability, (values - mean).square(), 1))


def _found(subject: Subject, truth: Truth, seeds: int) -> Found:
    """What each seed gives under each scheme and T."""
    cases = [*itertools.product(SCHEMES, PASSES)]
    cases += [case for case in itertools.product(INTERVAL_SCHEMES, INTERVAL_PASSES) if case not in cases]
    found: Found = {}
    for scheme, passes in cases:
        figures: dict[str, list[float]] = {}
        for estimate in map(subject.by_seed(scheme, passes), range(seeds)):
            one = _deviations(estimate, truth) | (_coverage(estimate, truth) if passes > min(PASSES) else {})
            for name, value in one.items():
                figures.setdefault(name, []).append(float(value))
        found[scheme, passes] = figures
    return found


def _deviations(estimate: Estimate, truth: Truth) -> dict[str, Tensor]:
    """The mean square of each measure's error, its mean, and how well the rows are ordered."""
    top = truth["mean"].argmax(-1, keepdim=True)
    figures = {}
    for name, measure in MEASURES.items():
        error = estimate.measure(measure) - truth[measure]
        figures[name] = error.square().mean()
        figures[f"{name}/bias"] = (error.gather(1, top) if error.dim() == 2 else error).mean()
    ranks = [values.argsort().argsort() for values in (estimate.mutual_information, truth["mutual_information"])]
    return {**figures, "order": torch.corrcoef(torch.stack(ranks).double())[0, 1]}


def _coverage(estimate: Estimate, truth: Truth) -> dict[str, Tensor]:
    """The shares of intervals that hold the truth, and the mean squares of standard errors and of errors."""
    mean, information = (estimate.measure(name) - truth[name] for name in ("mean", "mutual_information"))
    error, naive, likely = estimate.standard_error, estimate.std / math.sqrt(estimate.passes), truth["mean"] >= _LIKELY
    intervals = {
        "every": (mean, error),
        "every naive": (mean, naive),
        "likely": (mean[likely], error[likely]),
        "likely naive": (mean[likely], naive[likely]),
        "information": (information, estimate.mutual_information_standard_error),
    }
    figures = {}
    for name, (off, said) in intervals.items():
        figures[f"held/{name}"] = (off.abs() <= _NORMAL * said).double().mean()
        figures |= {f"said/{name}": said.square().mean(), f"off/{name}": off.square().mean()}
    return figures


def _times(subject: Subject, rounds: int) -> dict[tuple[PassOptions, int], float]:
    """CPU seconds of a prediction of which the mean and the mutual information are read."""
    seeds = itertools.count(_TIMED_SEED)

    def timed(scheme: PassOptions, passes: int) -> Callable[[], object]:
        by_seed = subject.by_seed(scheme, passes)

        def run() -> object:
            estimate = by_seed(next(seeds))
            return estimate.mean, estimate.mutual_information

        return run

    cases = {f"{scheme} {passes}": (scheme, passes) for scheme in SCHEMES for passes in PASSES}
    cpu_s = interleaved({name: timed(*case) for name, case in cases.items()}, rounds)
    return {case: cpu_s[name] for name, case in cases.items()}


def _case(scheme: PassOptions, passes: int) -> Row:
    return {"passes": passes, "scheme": f"{scheme.sampling}/{scheme.masks}/{scheme.branches}"}


def _errors(found: Found, cpu_s: Mapping[tuple[PassOptions, int], float]) -> Iterator[Row]:
    for passes, scheme in itertools.product(PASSES, SCHEMES):
        row, cpu = _case(scheme, passes), cpu_s[scheme, passes] / cpu_s[IID, passes]
        for name in MEASURES:
            row |= _ratio(name, found[scheme, passes][name], found[IID, passes][name])
        row |= {f"{name} × cpu": row[name] * cpu for name in ("mean", "information")}
        yield row | {"cpu": cpu, "cpu_s": cpu_s[scheme, passes]}


def _biases(found: Found) -> Iterator[Row]:
    for passes, scheme in itertools.product(PASSES, SCHEMES):
        row = _case(scheme, passes)
        for name in MEASURES:
            row |= _average(name, [1e3 * error for error in found[scheme, passes][f"{name}/bias"]])
        yield row


def _batch(found: Found) -> Iterator[Row]:
    """The squared error of the batch's mean, its variance alone, and Spearman's correlation with the true order."""
    for passes, scheme in itertools.product(PASSES, SCHEMES):
        ours, base = (torch.tensor(found[some, passes]["information/bias"]) for some in (scheme, IID))
        row = _case(scheme, passes)
        row |= _ratio("squared error", ours.square().tolist(), base.square().tolist())
        row |= _ratio("variance", *((batch - batch.mean()).square().tolist() for batch in (ours, base)))
        yield row | _average("rank correlation", found[scheme, passes]["order"])


def _intervals(found: Found) -> Iterator[Row]:
    for passes, scheme in itertools.product(INTERVAL_PASSES, INTERVAL_SCHEMES):
        figures, row = found[scheme, passes], _case(scheme, passes)
        for name in [key.removeprefix("held/") for key in figures if key.startswith("held/")]:
            row |= _average(name, figures[f"held/{name}"])
            row[f"{name}: ratio"] = math.sqrt(sum(figures[f"said/{name}"]) / sum(figures[f"off/{name}"]))
        yield row


def _average(name: str, values: list[float]) -> Row:
    found = torch.tensor(values, dtype=torch.float64)
    return {name: float(found.mean()), f"{name} ±": float(found.std()) / math.sqrt(len(found))}


def _ratio(name: str, ours: list[float], base: list[float]) -> Row:
    """The ratio of the means of paired values, and its standard error."""
    one, two = (torch.tensor(values, dtype=torch.float64) for values in (ours, base))
    ratio = one.mean() / two.mean()
    error = float((one - ratio * two).std() / two.mean()) / math.sqrt(len(one))
    return {name: float(ratio), f"{name} ±": error}


def _readable(row: Row) -> Row:
    """A row whose figures stand in one cell with their standard errors."""
    cells = {}
    for name, value in row.items():
        if name != "net" and not name.endswith(" ±"):
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            cells[name] = f"{text} ±{row[f'{name} ±']:.3f}" if f"{name} ±" in row else text
    return cells


if __name__ == "__main__":
    typer.run(main)
