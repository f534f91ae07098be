"""Claim: BatchBALD reaches 90 % and 95 % on MNIST with few labels, and BALD's best ten are not worth ten labels.

As in the BatchBALD paper: 20 labels at the start, two of each class; ten more a round; the same network, trained from
scratch with early stopping. Every round publishes the network, and `mcdrop serve` on loopback ranks the pool. Accuracy
is of all 10 000 test images, with the noise off (the paper: mean of passes); labels count the start with them.

Run: python benchmarks/active_learning.py --data MNIST --rounds rounds.jsonl [--plot FILE] [--json FILE]
     --full: more strategies, 60 000 rows, 100 passes, 300 labels; meant for a GPU
     --repeat 4: each row four times in the pool, with noise
     --strategy batchbald --seeds 1 --labels 60: some of it
A run that was killed goes on where it was when it is started again.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path
from typing import Annotated, Any

import httpx
import torch
import typer
from labelling import CLASSES, START_OF_EACH, Mnist, accuracy, read_mnist, split, trained
from machine import report
from matplotlib.figure import Figure
from rounds import Round, Rounds, labels_to
from served import free_port, served

from mcdrop.client import Client
from mcdrop_models.publishing.torch import publish

NAME, BATCH = "mnist", 10
WAYS: Mapping[str, Mapping[str, Any]] = {
    "random": {"score": "random"},
    "mutual_information": {"score": "mutual_information"},
    "batchbald": {"score": "mutual_information", "selector": "batchbald"},
    "power": {"score": "mutual_information", "selector": "power"},
    "predictive_entropy": {"score": "predictive_entropy"},
    "softrank": {"score": "mutual_information", "selector": "softrank"},
    "k_centre": {"selector": "k_centre"},
    "badge": {"selector": "badge"},
}
USUAL = ("random", "mutual_information", "batchbald", "power")
# Training-set sizes, medians: of batches of ten the authors' runs, recounted from their logs (BatchBALD: Kirsch et al.
# 2019; random, BALD, entropy, BADGE and all of the repeated pool: Kirsch et al. 2021). power and softrank there take
# batches of five, and so does BatchBALD of the repeated pool. Infinite: not in 300.
PUBLISHED: Mapping[int, Mapping[str, tuple[float, float]]] = {
    1: {
        "random": (170, math.inf),
        "mutual_information": (150, 250),
        "batchbald": (105, 225),
        "power": (95, 245),
        "predictive_entropy": (120, 260),
        "softrank": (90, 210),
        "badge": (180, math.inf),
    },
    4: {
        "random": (150, math.inf),
        "mutual_information": (280, math.inf),
        "batchbald": (110, 210),
        "power": (100, 230),
        "predictive_entropy": (math.inf, math.inf),
        "softrank": (105, 210),
        "badge": (150, math.inf),
    },
}
_TIMEOUT_S = 3600
_POOL_BYTES = 4 * 28 * 28


@dataclass(frozen=True)
class Study:
    """Under what all strategies are played."""

    pool: int
    passes: int
    labels: int
    repeat: int

    @property
    def settings(self) -> dict[str, object]:
        return {**vars(self), "batch": BATCH}


def main(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    data: Annotated[Path, typer.Option(help="Folder of MNIST's idx files, packed or not.")],
    rounds: Annotated[Path, typer.Option(help="What is finished, a line each; goes on from there.")],
    strategy: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(WAYS)}; several times.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    labels: Annotated[int | None, typer.Option(help="At which to stop; 220, or 300 with --full.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All strategies, 60 000 rows, 100 passes.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="How often a row stands in the pool.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of training, and of the server.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
) -> None:
    torch.set_num_threads(threads)
    names = strategy or (list(WAYS) if full else list(USUAL))
    # 1044 of the 60 000 are not in the pool: validation and start
    study = Study(58_956, 100, labels or 300, repeat) if full else Study(10_000, 32, labels or 220, repeat)
    known = Rounds(rounds, study.settings)
    play_all(read_mnist(data), study, names, seeds, known, threads)
    report(f"labels on MNIST, medians of {seeds} seeds", [row(name, study, known) for name in names], json)
    if plot is not None:
        draw({name: known.curves(name, study.labels) for name in names}, plot)


def play_all(mnist: Mnist, study: Study, names: Sequence[str], seeds: int, known: Rounds, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundles, port = Path(folder) / "bundles", free_port()
        bundles.mkdir()
        command = [Path(get_path("scripts")) / "mcdrop", "serve", "--bundles", bundles, "--port", str(port)]
        large = {
            "MCDROP_THREADS": str(threads),
            "MCDROP_MAX_BODY_BYTES": str(2**20 + _POOL_BYTES * study.pool),
            "MCDROP_MAX_TIMEOUT_MS": str(1000 * _TIMEOUT_S),
        }
        # the log is about to be thrown away with the folder; `served` shows its end where the server does not start
        with (
            served(command, port, "/healthz/live", Path(folder) / "serve.log", large) as server,
            Client(server.url, timeout_s=_TIMEOUT_S) as client,
        ):
            for seed in range(seeds):
                for name in names:
                    play(mnist, study, name, seed, known, Oracle(client, server.url, bundles))


@dataclass(frozen=True)
class Oracle:
    """The server, and the folder that it serves."""

    client: Client
    url: str
    bundles: Path

    def choose(self, model: torch.nn.Module, pool: torch.Tensor, **said: Any) -> list[int]:
        """Publish, and ask which rows of the pool come next."""
        version = publish(model, pool[:8], name=NAME, task="classification", root=self.bundles).version
        httpx.post(f"{self.url}/v2/repository/models/{NAME}/load", timeout=_TIMEOUT_S).raise_for_status()
        answer = self.client.rank(NAME, pool.numpy(), version=version, **said)
        return [int(index) for index in answer.indices]


def play(mnist: Mnist, study: Study, name: str, seed: int, known: Rounds, oracle: Oracle) -> None:
    """The rounds of a strategy and a seed that are not finished."""
    chosen = [index for one in known.of(name, seed) for index in one.chosen]
    start = CLASSES * START_OF_EACH
    data = split(mnist, study.pool, study.repeat, seed)
    for step in range(len(known.of(name, seed)), 1 + math.ceil((study.labels - start) / BATCH)):
        x, y = torch.cat([data.x_start, data.x_pool[chosen]]), torch.cat([data.y_start, data.y_pool[chosen]])
        begun = time.perf_counter()
        model = trained(x, y, data, seed=1000 * seed + step)
        reached = accuracy(model, mnist.x_test, mnist.y_test)
        trained_at = time.perf_counter()
        wanted = min(BATCH, study.labels - len(x))
        picks: list[int] = []
        if wanted:
            labelled = {"labelled": x.numpy()} if name == "k_centre" else {}
            said = {"k": wanted, "passes": study.passes, "seed": 1000 * seed + step, "exclude": chosen}
            picks = oracle.choose(model, data.x_pool, **said, **labelled, **WAYS[name])
        took = time.perf_counter() - trained_at
        known.add(Round(name, seed, step, len(x), reached, picks, round(trained_at - begun, 2), round(took, 2)))
        print(f"{name}, seed {seed}: {len(x)} labels, {reached:.2%}, {time.perf_counter() - begun:.0f} s", flush=True)
        chosen += picks


def row(name: str, study: Study, known: Rounds) -> dict[str, object]:
    """The medians of the seeds that came to their end, and the published ones."""
    curves = known.curves(name, study.labels)
    published = PUBLISHED.get(study.repeat, {}).get(name)
    found: dict[str, object] = {"strategy": name, "seeds": len(curves)}
    for place, goal in enumerate((0.9, 0.95)):
        reached = [labels_to(curve, goal) for curve in curves]
        found[f"to {goal:.0%}"] = shown(statistics.median_high(reached)) if reached else "not run"
        found[f"published to {goal:.0%}"] = shown(published[place]) if published else "–"
    found[f"accuracy at {study.labels}"] = statistics.mean(curve[-1].accuracy for curve in curves) if curves else "–"
    found["train s"], found["rank s"] = (
        statistics.median(seconds) if (seconds := [getattr(one, part) for curve in curves for one in curve]) else "–"
        for part in ("train_s", "rank_s")
    )
    return found


def shown(labels: float) -> str:
    return f"{labels:.0f}" if math.isfinite(labels) else "never"


def draw(curves: Mapping[str, Sequence[Sequence[Round]]], file: Path) -> None:
    """The median accuracy of the seeds against labels, and from the worst to the best."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, runs in curves.items():
        if not runs:
            continue
        at = [[100 * one.accuracy for one in same] for same in zip(*runs, strict=True)]
        labels = [one.labels for one in runs[0]]
        (line,) = axes.plot(labels, [statistics.median(values) for values in at], label=name)
        axes.fill_between(labels, list(map(min, at)), list(map(max, at)), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="labels", ylabel="test accuracy, %", ylim=(60, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    typer.run(main)
