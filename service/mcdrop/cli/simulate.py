"""The command that plays active learning through with known labels."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dropout_core.errors import InvalidInput
from mcdrop_models.recipes import LABELLED, load_labelled
from mcdrop_models.recipes.campaign import STRATEGIES, Campaign, Point, Strategy, labels_to, play
from mcdrop_models.recipes.training import Labelled

# of each strategy by name, one curve a seed
Curves = Mapping[str, Sequence[Sequence[Point]]]

_COMPARED = ("random", "mutual_information", "batchbald", "power")
_GOALS = (0.8, 0.9)
_out = Console(markup=False, emoji=False)


def simulate(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    name: Annotated[str, typer.Argument(help="The example whose data to label: digits.")],
    strategy: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(STRATEGIES)}; give it several times.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Starts, pools and trainings for each strategy.")] = 3,
    labels: Annotated[int, typer.Option(help="Labels at which to stop, with those at the start.")] = Campaign.labels,
    batch: Annotated[int, typer.Option(help="Rows labelled in a round.")] = Campaign.batch,
    pool: Annotated[int, typer.Option(help="Rows to choose from.")] = Campaign.pool,
    repeat: Annotated[int, typer.Option(help="How often each row stands in the pool, with noise.")] = Campaign.repeat,
    passes: Annotated[int, typer.Option(help="Monte Carlo passes.")] = Campaign.passes,
    epochs: Annotated[int, typer.Option(help="Of training in a round.")] = Campaign.epochs,
    plot: Annotated[Path | None, typer.Option(help="Draw the learning curves here, .png.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Play active learning through with known labels: how many of them each strategy needs.

    Every round trains from scratch on what is labelled, measures, and chooses what to label next.

    Example: `mcdrop simulate digits --plot curves.png --json curves.json`
    """
    compared = _strategies(strategy or _COMPARED)
    if name not in LABELLED:
        raise InvalidInput(
            f"there are no labelled rows of {name!r} to simulate with; there are of {', '.join(LABELLED)}."
        )
    if plot is not None and find_spec("matplotlib") is None:
        raise InvalidInput("drawing needs matplotlib; pip install 'mcdrop[plot]', or leave --plot out.")
    campaign = Campaign(batch=batch, labels=labels, pool=pool, repeat=repeat, passes=passes, epochs=epochs)
    curves = _played(load_labelled(name), compared, campaign, seeds)
    _out.print(table(curves))
    if json is not None:
        json.write_bytes(document(name, campaign, curves))
    if plot is not None:
        draw(curves, plot)


def table(curves: Curves) -> Table:
    """For each strategy the labels it took to the goals, and how well it does with all."""
    last = next(iter(curves.values()))[0][-1].labels
    shown = Table("strategy", *(f"labels to {goal:.0%}" for goal in _GOALS), f"accuracy at {last}, %", "distinct")
    for name, runs in curves.items():
        needed = [sorted(labels_to(run, goal) for run in runs) for goal in _GOALS]
        ends = [100 * run[-1].accuracy for run in runs]
        distinct = statistics.mean(run[-1].distinct for run in runs)
        shown.add_row(name, *map(_median_and_reach, needed), _mean_and_error(ends), f"{distinct:.0f}")
    shown.caption = f"median of {len(next(iter(curves.values())))} seeds, and the least and the most; – is never"
    return shown


def document(name: str, campaign: Campaign, curves: Curves) -> bytes:
    """What was asked, and every point of every curve, as JSON."""
    strategies = {
        strategy: [{"seed": seed, "points": [asdict(point) for point in run]} for seed, run in enumerate(runs)]
        for strategy, runs in curves.items()
    }
    return orjson.dumps({"name": name, **asdict(campaign), "strategies": strategies}, option=orjson.OPT_INDENT_2)


def draw(curves: Curves, file: Path) -> None:
    """The median accuracy against labels, and the quarter of the seeds above and below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, runs in curves.items():
        labels = [point.labels for point in runs[0]]
        at = [sorted(100 * point.accuracy for point in points) for points in zip(*runs, strict=True)]
        (line,) = axes.plot(labels, [statistics.median(values) for values in at], marker="o", markersize=3, label=name)
        low, high = ([_quantile(values, share) for values in at] for share in (0.25, 0.75))
        axes.fill_between(labels, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="labels", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)


def _strategies(names: Sequence[str]) -> Mapping[str, Strategy]:
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise InvalidInput(f"there is no strategy {unknown[0]!r}; there are {', '.join(STRATEGIES)}.")
    return {name: STRATEGIES[name] for name in names}


def _played(data: Labelled, compared: Mapping[str, Strategy], campaign: Campaign, seeds: int) -> Curves:
    campaign.check(data)
    rounds = 1 + math.ceil((campaign.labels - campaign.initial * data.num_classes) / campaign.batch)
    curves: dict[str, list[list[Point]]] = {name: [] for name in compared}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_out) as progress:
        bar = progress.add_task("", total=rounds * seeds * len(compared))
        # seed by seed, so that all strategies come along and the time that remains is known early
        for seed in range(seeds):
            for name, strategy in compared.items():
                progress.update(bar, description=f"{name}, seed {seed}")
                curve = []
                for point in play(data, strategy, campaign, seed):
                    curve.append(point)
                    progress.advance(bar)
                curves[name].append(curve)
    return curves


def _median_and_reach(needed: Sequence[float]) -> str:
    return f"{_count(statistics.median_high(needed))} ({_count(needed[0])} … {_count(needed[-1])})"


def _count(labels: float) -> str:
    return f"{labels:.0f}" if math.isfinite(labels) else "–"


def _mean_and_error(values: Sequence[float]) -> str:
    """With the standard error, where there are values to tell it."""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{error}"


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Between the two nearest values in proportion."""
    place = share * (len(ascending) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])
