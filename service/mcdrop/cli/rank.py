"""The command that ranks a pool: rank."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dropout_core.engine.options import PassOverrides, Sharing
from dropout_core.errors import InvalidInput
from mcdrop.cli import console
from mcdrop.cli.options import Bundles, Device, Url, Version, client_of, predictor_of
from mcdrop.cli.predict import Passes, Seed

if TYPE_CHECKING:
    from mcdrop.pool.job import RankJob


def rank(
    name: Annotated[str, typer.Argument(help="The model.")],
    pool: Annotated[Path, typer.Argument(help="Rows: .npy, .npz, .parquet, .csv, or a folder of pictures.")],
    k: Annotated[int, typer.Option("-k", help="How many rows.")] = 10,
    score: Annotated[str | None, typer.Option(help="mutual_information, margin, variance, epig, random, …")] = None,
    selector: Annotated[
        str, typer.Option(help="top_k, power, softmax, softrank, k_centre, badge or batchbald.")
    ] = "top_k",
    out: Annotated[
        Path | None, typer.Option(help="Write the picks here: .parquet, .csv, .json, .jsonl or .npz.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run that did not end was left.")] = False,
    passes: Passes = None,
    seed: Seed = None,
    masks: Annotated[str | None, typer.Option(help="shared or independent; the bundle's own otherwise.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="Rows that k_centre keeps away from; as the pool.")] = None,
    targets: Annotated[Path | None, typer.Option(help="Rows that epig asks about; as the pool.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Ids, or numbers, of rows to leave out, one a line.")] = None,
    costs: Annotated[Path | None, typer.Option(help="What the label of each row costs, one a line.")] = None,
    cost_column: Annotated[str | None, typer.Option(help="The column of a table that has the costs.")] = None,
    id_column: Annotated[str | None, typer.Option(help="The column of a table that names its rows.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="predicted_class, or a file with the group of each row, one a line.")
    ] = None,
    quotas: Annotated[int | None, typer.Option(help="At most so many rows of a group.")] = None,
    beta: Annotated[float | None, typer.Option(help="Of power, softmax and softrank: how sharp.")] = None,
    deviations: Annotated[float | None, typer.Option(help="Of upper_confidence_bound: how far up.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="How many rows batchbald, k_centre and badge consider.")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Of batchbald: how many configurations are drawn.")] = None,
    reduction: Annotated[str | None, typer.Option(help="mean, max or top_fraction of the numbers of a row.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Of top_fraction.")] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(help="What a pixel of 0 … 255 is multiplied by; 1/255 otherwise.")
    ] = None,
    rows_at_once: Annotated[
        int | None, typer.Option(help="Rows run, or sent, at once; as many as suit otherwise.")
    ] = None,
    version: Version = None,
    bundles: Bundles = None,
    device: Device = None,
    url: Url = None,
) -> None:
    """Which rows of a pool should a human label next? Best first. The pool may be larger than the memory.

    Example: `mcdrop rank digits pool.npy -k 10 --score mutual_information --selector batchbald --out ranked.csv`
    """
    from mcdrop.pool.job import Files, RankJob
    from mcdrop.pool.model import bundle_model, server_model
    from mcdrop.pool.output import check_suffix
    from mcdrop.pool.readers.columns import SpecialColumns

    if out is not None:
        check_suffix(out)
    elif resume:
        raise InvalidInput("what was computed lies beside --out; name the same file again to resume.")
    apart = SpecialColumns(id_column, cost_column)
    files = Files(pool, labelled, targets, exclude, costs, groups, apart, pixel_scale)
    parameters = {
        "k": k,
        "score": score,
        "selector": selector,
        "beta": beta,
        "deviations": deviations,
        "candidates": candidates,
        "num_samples": num_samples,
        "reduction": reduction,
        "fraction": fraction,
        "quotas": quotas,
    }
    overrides = PassOverrides(passes=passes, seed=seed, masks=cast("Sharing | None", masks))
    if url is None:
        model = bundle_model(predictor_of(name, version, bundles, device), overrides)
        _rank(RankJob(model, files, parameters, rows_at_once), out, resume=resume)
    else:
        with client_of(url) as client:
            model = server_model(client, name, version, overrides)
            _rank(RankJob(model, files, parameters, rows_at_once, client), out, resume=resume)


def _rank(question: "RankJob", out: Path | None, *, resume: bool) -> None:
    """Rank, and write or print the picks."""
    from mcdrop.pool.job import checkpoint_of
    from mcdrop.pool.output import write

    with console.rows() as on_rows, _resumable(out):
        ranked = question.answer(out, on_rows, resume=resume)
    if ranked.saturated:
        console.warn("the picks use up what the passes can tell; the last ones are chosen by noise. Make more passes.")
    if out is None:
        console.ranking(ranked)
        return
    write(out, ranked)
    checkpoint_of(out).unlink(missing_ok=True)


@contextmanager
def _resumable(out: Path | None) -> Iterator[None]:
    """Says how to go on where somebody stops the command."""
    from mcdrop.pool.job import checkpoint_of

    try:
        yield
    except KeyboardInterrupt:
        if out is not None and checkpoint_of(out).exists():
            console.warn(
                f"stopped; what was computed is in {checkpoint_of(out)}: the same command with --resume goes on."
            )
        raise
