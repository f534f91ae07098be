"""What the command prints: tables and progress bars of 80 columns, JSON, and errors of one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:  # each of these loads numpy or torch, and `mcdrop --help` needs neither
    from numpy.typing import NDArray
    from rich.progress import TaskID

    from dropout_core.engine.options import PassOptions
    from dropout_core.layers.variants import Variant
    from dropout_core.lint import Finding
    from mcdrop.cli.bench import BenchmarkRow
    from mcdrop.client import Prediction
    from mcdrop.inference.catalogue import Catalogue
    from mcdrop.pool.output import Ranked
    from mcdrop.pool.run import OnRows
    from mcdrop.settings import Settings
    from mcdrop_models.bundle.write import PublishedBundle
    from mcdrop_models.loading.predictor import Predictor
    from mcdrop_models.recipes.training import OnEpoch

_out = Console(markup=False, emoji=False)
_err = Console(stderr=True)
_MAX_TABLE_ROWS = 20
_MAX_EXAMPLE_NUMBERS = 256


def fail(message: str) -> None:
    """Print an error as one line on standard error.

    Args:
        message: What came, what is allowed and what to do.
    """
    _err.print(Text.assemble(("error:", "red"), " ", " ".join(message.split())), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on standard error.

    Args:
        message: What the user should know.
    """
    _err.print(Text.assemble(("warning:", "yellow"), " ", message), soft_wrap=True)


@contextmanager
def rows() -> Iterator[OnRows]:
    """Show a progress bar over rows, with their rate and the time left. Without a terminal, show nothing.

    Yields:
        A function to call with the title, the number of finished rows and the number of all rows.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    """Show a progress bar over epochs.

    Args:
        title: What is trained.

    Yields:
        A function to call with the epoch, the number of epochs and the loss.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    """Print where a bundle was published, with its metrics.

    Args:
        bundle: The bundle.
    """
    facts = ", ".join(f"{name} {value:g}" for name, value in bundle.manifest.metrics.items())
    _out.print(f"published {bundle.path}{f': {facts}' if facts else ''}", highlight=False, soft_wrap=True)


def announce(settings: Settings, catalogue: Catalogue) -> None:
    """Print that the server is ready, with a line to try it.

    Args:
        settings: Settings of the server.
        catalogue: The models that it serves.
    """
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


def print_models(entries: Sequence[dict[str, Any]]) -> None:
    """Print every version of every model, with the reason if it is refused.

    Args:
        entries: For each version its name, version, state and reason.
    """
    if not entries:
        _out.print("no bundles. Make one with: mcdrop train digits")
        return
    table = Table(_whole("name"), "version", "state", _folded("reason"))
    for entry in entries:
        table.add_row(entry["name"], str(entry["version"]), entry["state"], entry["reason"])
    _out.print(table)


def print_variants(known: Sequence[Variant]) -> None:
    """Print the dropout layers: a table if the terminal is wide enough for it, a list otherwise.

    Args:
        known: The layers.
    """
    from dropout_core.layers.variants import Variant

    columns = [field.name for field in fields(Variant)]
    table = Table(*columns, show_lines=True)
    for variant in known:
        table.add_row(*astuple(variant))
    if _fits(table):
        _out.print(table)
        return
    for variant in known:
        names, *facts = astuple(variant)
        _out.print(names, style="bold", highlight=False)
        for column, fact in zip(columns[1:], facts, strict=True):
            _out.print(Padding(f"{column}: {fact}", (0, 0, 0, 4)), highlight=False)


def findings(found: Sequence[Finding]) -> None:
    """Print advice on where a network drops.

    Args:
        found: The advice; may be empty.
    """
    if not found:
        _out.print("no advice: the network drops where the literature does")
        return
    columns = ("rule", "where", "why", "instead", "source")
    table = Table(*map(_folded, columns), show_lines=True)
    for finding in found:
        table.add_row(*(getattr(finding, column) for column in columns))
    _out.print(table)


def prediction_json(answer: Prediction) -> None:
    """Print a whole prediction as one line of JSON.

    Args:
        answer: The prediction.
    """
    import orjson

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
    """Print the first rows of a prediction: the likeliest class or the means, and the measures with one number.

    Measures that the width of the terminal has no place for are left out, and named below the table.

    Args:
        answer: The prediction.
    """
    import numpy as np

    mean = np.atleast_2d(answer.outputs["mean"])
    if mean.ndim > 2:
        _positions_table(answer)
        return
    single = [name for name, values in answer.outputs.items() if values.ndim == 1]
    wide = [] if answer.labels else [name for name, values in answer.outputs.items() if values.ndim == 2]
    columns: dict[str, list[str]] = {"row": [str(row) for row in range(min(len(mean), _MAX_TABLE_ROWS))]}
    shown = range(len(columns["row"]))
    if answer.labels:
        several = "margin" not in answer.outputs
        likeliest = [_likeliest(answer.labels, mean[row], several) for row in shown]
        columns |= {"answer": [names for names, _ in likeliest], "probability": [share for _, share in likeliest]}
    for name in wide:
        columns[name] = [" ".join(f"{value:.4g}" for value in answer.outputs[name][row]) for row in shown]
    for name in single:
        columns[name] = [_single(answer.outputs[name][row]) for row in shown]
    _print_columns(columns, len(mean))


def _positions_table(answer: Prediction) -> None:
    """Print the first rows of predictions at positions: the count of each label, and the range of each measure."""
    mean = answer.outputs["mean"]
    shown = [name for name, values in answer.outputs.items() if not (answer.labels and values.ndim == mean.ndim)]
    rows = range(min(len(mean), _MAX_TABLE_ROWS))
    columns: dict[str, list[str]] = {"row": [str(row) for row in rows]}
    if answer.labels:
        several = "margin" not in answer.outputs
        columns["positions"] = [_label_counts(answer.labels, mean[row], several) for row in rows]
    columns |= {name: [_range(answer.outputs[name][row]) for row in rows] for name in shown}
    _print_columns(columns, len(mean))


def _print_columns(columns: dict[str, list[str]], num_rows: int) -> None:
    """Print a table of the columns that fit, and say what it leaves out."""
    fitting = list(columns)
    while len(fitting) > 2 and not _fits(_table_of(columns, fitting)):
        fitting.pop()
    _out.print(_table_of(columns, fitting))
    left_out = [name for name in columns if name not in fitting]
    if left_out:
        _out.print(f"not shown: {', '.join(left_out)}; --out FILE.npz or --json writes them.", highlight=False)
    if num_rows > _MAX_TABLE_ROWS:
        _out.print(f"… and {num_rows - _MAX_TABLE_ROWS} more rows: --out FILE.npz or --json has them all.")


def _table_of(columns: dict[str, list[str]], names: Sequence[str]) -> Table:
    table = Table(*map(_folded, names))
    for cells in zip(*(columns[name] for name in names), strict=True):
        table.add_row(*cells)
    return table


def _fits(table: Table) -> bool:
    """Whether no word of a table has to be broken at the width of the terminal."""
    return Measurement.get(_out, _out.options.update(max_width=10_000), table).minimum <= _out.width


def _whole(title: str) -> Column:
    """A column whose words are never broken."""
    return Column(title, no_wrap=True)


def _folded(title: str) -> Column:
    """A column that breaks a word rather than cut it."""
    return Column(title, overflow="fold")


def _label_counts(labels: Sequence[str], mean: NDArray[Any], several: bool) -> str:
    """Count the positions of each label: where it is the likeliest, or with several labels, likelier than not."""
    import numpy as np

    columns = mean.reshape(-1, len(labels))
    counts = (columns >= 0.5).sum(0) if several else np.bincount(columns.argmax(1), minlength=len(labels))
    return ", ".join(f"{labels[place]} {counts[place]}" for place in np.flatnonzero(counts).tolist())


def _range(values: NDArray[Any]) -> str:
    return f"{values.min():.4g} … {values.max():.4g}" if values.ndim else _single(values)


def _single(value: NDArray[Any]) -> str:
    """Format one number; counts are integers."""
    return f"{value:.4f}" if value.dtype.kind == "f" else str(value)


def _likeliest(labels: Sequence[str], mean: NDArray[Any], several: bool) -> tuple[str, str]:
    """Return the likeliest class and its probability; with several labels, those likelier than not."""
    import numpy as np

    best = np.flatnonzero(mean >= 0.5).tolist() if several else [int(mean.argmax())]
    return ", ".join(labels[place] for place in best), ", ".join(f"{mean[place]:.3f}" for place in best)


def ranking(ranked: Ranked) -> None:
    """Print the rows to label next, best first.

    Args:
        ranked: The chosen rows.
    """
    ids, scores = ranked.ids, ranked.scores
    named = [] if ids is None else ["id"]
    table = Table("place", "row", *named, *([] if scores is None else [str(ranked.score)]))
    for place, index in enumerate(ranked.indices.tolist()):
        name = [] if ids is None else [str(ids[place])]
        table.add_row(str(place + 1), str(index), *name, *([] if scores is None else [f"{scores[place]:.4f}"]))
    _out.print(table)


def costs(predictor: Predictor, found: Sequence[BenchmarkRow], options: PassOptions) -> None:
    """Print what predictions cost, and how the engine runs them.

    Args:
        predictor: The model.
        found: The measured costs, one for each number of rows.
        options: The passes that were timed.
    """
    from mcdrop_models.loading.tunings import machine_name

    tuning = predictor.engine.tuning
    by = f"computed by {predictor.engine.network.computer}"
    _out.print(f"{predictor.manifest.name} {predictor.version}, {by}: {machine_name(predictor.program.device)}")
    if predictor.engine.looped:
        _out.print(f"passes run one by one: {predictor.engine.looped}")
    if found and found[0].thinned_s is not None:
        rows = [_from_row(count) for count in (tuning.thin_rows, tuning.thin_rows_cold)]
        _out.print(f"thinned {rows[0]} on where the seed was used before, {rows[1]} on where it is new")
    table = Table("rows", f"T = {options.passes}, ms", "rows/s", "in single passes", "dense, ms", "thinned, ms")
    for cost in found:
        ms = [f"{1e3 * s:.3g}" if s is not None else "–" for s in (cost.predict_s, cost.dense_s, cost.thinned_s)]
        rate, passes = f"{cost.rows / cost.predict_s:.4g}", f"{cost.predict_s / cost.deterministic_s:.3g}"
        table.add_row(str(cost.rows), ms[0], rate, passes, *ms[1:])
    _out.print(table)


def _from_row(count: int) -> str:
    from dropout_core.engine.tuning import NEVER

    return "never" if count >= NEVER else f"from {count} rows"


def _numbers(predictor: Predictor) -> int:
    """Return how many numbers one row of a model has."""
    return sum(rows[0].numel() for rows in predictor.probe.values())


def _curl(settings: Settings, url: str, predictor: Predictor) -> str:
    import orjson

    from mcdrop.inference.query import example_inputs, example_row

    body = orjson.dumps({"inputs": example_inputs(example_row(predictor))}).decode()
    key = ' -H "Authorization: Bearer $MCDROP_API_KEY"' if settings.asks_for_keys else ""
    target = f"{url}/v1/models/{predictor.manifest.name}/predict"
    return f"curl -s {target}{key} -H 'Content-Type: application/json' -d '{body}'"
