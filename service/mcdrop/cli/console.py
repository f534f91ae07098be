"""What the command prints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import NEVER
from dropout_core.layers.variants import Variant
from dropout_core.lint import Finding
from mcdrop.cli.bench import BenchmarkRow
from mcdrop.client import Prediction
from mcdrop.inference.catalogue import Catalogue
from mcdrop.inference.query import example_inputs, example_row
from mcdrop.pool.output import Ranked
from mcdrop.pool.run import OnRows
from mcdrop.settings import Settings
from mcdrop_models.bundle.write import PublishedBundle
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import machine_name
from mcdrop_models.recipes.training import OnEpoch

_out = Console(markup=False, emoji=False)
_err = Console(stderr=True)
_MAX_TABLE_ROWS = 20
_MAX_EXAMPLE_NUMBERS = 256


def fail(message: str) -> None:
    """One line on standard error."""
    _err.print(Text.assemble(("error:", "red"), " ", " ".join(message.split())), soft_wrap=True)


def warn(message: str) -> None:
    """One line on standard error that ends nothing."""
    _err.print(Text.assemble(("warning:", "yellow"), " ", message), soft_wrap=True)


@contextmanager
def rows() -> Iterator[OnRows]:
    """A progress bar over rows, with their rate and the time that is left; nothing where no terminal is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as progress:
        bars: dict[tuple[str, int], TaskID] = {}

        def on_rows(title: str, done: int, total: int) -> None:
            if (title, total) not in bars:
                bars[title, total] = progress.add_task(title, total=total, completed=done, rate="")
            bar = bars[title, total]
            progress.update(bar, completed=done)
            speed = progress.tasks[bar].speed
            progress.update(bar, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield on_rows


@contextmanager
def epochs(title: str) -> Iterator[OnEpoch]:
    """A progress bar over epochs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=_out) as progress:
        bar = progress.add_task(title, total=None, loss=float("nan"))

        def on_epoch(epoch: int, total: int, loss: float) -> None:
            progress.update(bar, completed=epoch, total=total, loss=loss)

        yield on_epoch


def published(bundle: PublishedBundle) -> None:
    """What was published, and how well it does."""
    facts = ", ".join(f"{name} {value:g}" for name, value in bundle.manifest.metrics.items())
    _out.print(f"published {bundle.path}{f': {facts}' if facts else ''}", highlight=False, soft_wrap=True)


def announce(settings: Settings, catalogue: Catalogue) -> None:
    """That the server is ready, and a line to try it with."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - asked, not bound
    host = f"[{reachable}]" if ":" in reachable else reachable
    url = f"{settings.scheme}://{host}:{settings.port}"
    loaded = [model.predictor for model in catalogue.loaded()]
    names = ", ".join(f"{one.manifest.name}/{one.version}" for one in loaded)
    lines = [f"mcdrop serves {names or 'no model yet'} on {url} (try {url}/docs)"]
    examples = [one for one in loaded if _numbers(one) <= _MAX_EXAMPLE_NUMBERS]
    for predictor in sorted(examples, key=lambda one: one.manifest.task)[:1]:
        lines += ["Ask it:", _curl(settings, url, predictor)]
    print("\n".join(lines), flush=True)  # noqa: T201 - to be pasted as it is: no wrapping, no colours


def models(entries: Sequence[dict[str, Any]]) -> None:
    """Every version, and why one is refused."""
    if not entries:
        _out.print("no bundles. Make one with: mcdrop train digits")
        return
    table = Table("name", "version", "state", "reason")
    for entry in entries:
        table.add_row(entry["name"], str(entry["version"]), entry["state"], entry["reason"])
    _out.print(table)


def variants(known: Sequence[Variant]) -> None:
    """The dropout layers."""
    table = Table(*(field.name for field in fields(Variant)), show_lines=True)
    for variant in known:
        table.add_row(*astuple(variant))
    _out.print(table)


def findings(found: Sequence[Finding]) -> None:
    """Advice on a network."""
    if not found:
        _out.print("nothing to say against it")
        return
    table = Table("rule", "where", "why", "instead", "source", show_lines=True)
    for finding in found:
        table.add_row(finding.rule, finding.where, finding.why, finding.instead, finding.source)
    _out.print(table)


def prediction_json(answer: Prediction) -> None:
    """The whole answer as JSON."""
    document = {
        "model": answer.model,
        "version": answer.version,
        "passes": answer.passes,
        "seed": answer.seed,
    }
    labels = {"labels": answer.labels} if answer.labels else {}
    text = orjson.dumps({**document, **labels, "outputs": dict(answer.outputs)}, option=orjson.OPT_SERIALIZE_NUMPY)
    print(text.decode())  # noqa: T201 - for another program: no wrapping, no colours


def prediction_table(answer: Prediction) -> None:
    """The first rows: what is predicted, and every measure that is one number."""
    mean = np.atleast_2d(answer.outputs["mean"])
    if mean.ndim > 2:
        _positions_table(answer)
        return
    single = [name for name, values in answer.outputs.items() if values.ndim == 1]
    wide = [] if answer.labels else [name for name, values in answer.outputs.items() if values.ndim == 2]
    table = Table("row", *(["answer", "probability"] if answer.labels else []), *wide, *single)
    for row in range(min(len(mean), _MAX_TABLE_ROWS)):
        answered = _answered(answer.labels, mean[row], "margin" not in answer.outputs) if answer.labels else []
        vectors = [" ".join(f"{value:.4g}" for value in answer.outputs[name][row]) for name in wide]
        table.add_row(str(row), *answered, *vectors, *(_single(answer.outputs[name][row]) for name in single))
    _out.print(table)
    _tell_of_more(len(mean))


def _positions_table(answer: Prediction) -> None:
    """The first rows of answers at positions: how many have each label, and from where to where measures reach."""
    mean = answer.outputs["mean"]
    shown = [name for name, values in answer.outputs.items() if not (answer.labels and values.ndim == mean.ndim)]
    table = Table("row", *(["positions"] if answer.labels else []), *shown)
    for row in range(min(len(mean), _MAX_TABLE_ROWS)):
        labels = [_counted(answer.labels, mean[row], "margin" not in answer.outputs)] if answer.labels else []
        table.add_row(str(row), *labels, *(_reach(answer.outputs[name][row]) for name in shown))
    _out.print(table)
    _tell_of_more(len(mean))


def _counted(labels: Sequence[str], mean: NDArray[Any], several: bool) -> str:
    """At how many positions each label is the likeliest, or where several may hold at once likelier than not."""
    columns = mean.reshape(-1, len(labels))
    counts = (columns >= 0.5).sum(0) if several else np.bincount(columns.argmax(1), minlength=len(labels))
    return ", ".join(f"{labels[place]} {counts[place]}" for place in np.flatnonzero(counts).tolist())


def _reach(values: NDArray[Any]) -> str:
    return f"{values.min():.4g} … {values.max():.4g}" if values.ndim else _single(values)


def _tell_of_more(num_rows: int) -> None:
    if num_rows > _MAX_TABLE_ROWS:
        _out.print(f"… and {num_rows - _MAX_TABLE_ROWS} more rows: --out FILE.npz or --json has them all.")


def _single(value: NDArray[Any]) -> str:
    """A number of a row; what was counted is whole."""
    return f"{value:.4f}" if value.dtype.kind == "f" else str(value)


def _answered(labels: Sequence[str], mean: NDArray[Any], several: bool) -> list[str]:
    """The likeliest class and its probability; where several labels may hold at once, those likelier than not."""
    best = np.flatnonzero(mean >= 0.5).tolist() if several else [int(mean.argmax())]
    return [", ".join(labels[place] for place in best), ", ".join(f"{mean[place]:.3f}" for place in best)]


def ranking(ranked: Ranked) -> None:
    """The rows to label next, best first."""
    ids, scores = ranked.ids, ranked.scores
    named = [] if ids is None else ["id"]
    table = Table("place", "row", *named, *([] if scores is None else [str(ranked.score)]))
    for place, index in enumerate(ranked.indices.tolist()):
        name = [] if ids is None else [str(ids[place])]
        table.add_row(str(place + 1), str(index), *name, *([] if scores is None else [f"{scores[place]:.4f}"]))
    _out.print(table)


def costs(predictor: Predictor, found: Sequence[BenchmarkRow], plan: PassOptions) -> None:
    """What predictions cost, and how the engine runs them."""
    tuning = predictor.engine.tuning
    by = f"computed by {predictor.engine.network.computer}"
    _out.print(f"{predictor.manifest.name} {predictor.version}, {by}: {machine_name(predictor.program.device)}")
    if predictor.engine.looped:
        _out.print(f"passes run one by one: {predictor.engine.looped}")
    if found and found[0].thinned_s is not None:
        rows = [_from_row(count) for count in (tuning.thin_rows, tuning.thin_rows_cold)]
        _out.print(f"thinned {rows[0]} on where the seed was used before, {rows[1]} on where it is new")
    table = Table("rows", f"T = {plan.passes}, ms", "rows/s", "in single passes", "dense, ms", "thinned, ms")
    for cost in found:
        ms = [f"{1e3 * s:.3g}" if s is not None else "–" for s in (cost.predict_s, cost.dense_s, cost.thinned_s)]
        rate, passes = f"{cost.rows / cost.predict_s:.4g}", f"{cost.predict_s / cost.deterministic_s:.3g}"
        table.add_row(str(cost.rows), ms[0], rate, passes, *ms[1:])
    _out.print(table)


def _from_row(count: int) -> str:
    return "never" if count >= NEVER else f"from {count} rows"


def _numbers(predictor: Predictor) -> int:
    """How many numbers one row of a model has."""
    return sum(rows[0].numel() for rows in predictor.probe.values())


def _curl(settings: Settings, url: str, predictor: Predictor) -> str:
    body = orjson.dumps({"inputs": example_inputs(example_row(predictor))}).decode()
    key = ' -H "Authorization: Bearer $MCDROP_API_KEY"' if settings.asks_for_keys else ""
    target = f"{url}/v1/models/{predictor.manifest.name}/predict"
    return f"curl -s {target}{key} -H 'Content-Type: application/json' -d '{body}'"
