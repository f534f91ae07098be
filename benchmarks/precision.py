"""Claim: a given Monte Carlo error costs tens of times less CPU time than with the loop people write.

For T of 16, 32 and 64 passes of predict(model, x, passes=T, seed=…), at its defaults: the squared error of the
predictive mean and of the mutual information, over rows, classes and seeds, and the CPU seconds of a call in which
both are read. The loop, [model(x) for _ in range(T)] with dropout on, is measured in groups of one long run: its
squared error is a / T for the mean and a / T + b / T² for the mutual information, whose estimate from few passes is too
low; the fit says how many passes it needs for our error, `loop_passes`, and its CPU time is that many of its own
passes. `over_loop` is that time over ours. One intra-op thread; times in turn, medians.

The rows: 256 of the test set, normal noise of half the brightness range added to every second one. The truth is a
reference of independent passes (sampling="iid") under a seed that nothing else uses: 20 000, for the transformer
4 000. Its own error, a / 20 000 (/ 4 000), is subtracted from ours and is in the fit of the loop's; `reference_share`
is its part of what was measured.

--data: a folder with MNIST's four idx files (train-images-idx3-ubyte and so on, or .gz). An MLP 784-512-512-10 and a
CNN, dropout of 0.5, and a transformer (4 layers of width 64, dropout of 0.1 everywhere; an image is a sequence of 28
rows) are trained on it for about a minute each. Without it, the digits network that comes with mcdrop.
--cache: a folder for weights and references; they are used again when the same are asked for.

Run: python benchmarks/precision.py [--data DIR] [--cache DIR] [--quick] [--nets mlp] [--json FILE]
"""

import copy
import dataclasses
import gzip
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from machine import report
from nets import Encoder, alive, cnn, mlp
from rich.console import Console
from safetensors.torch import load_file, save_file
from timing import interleaved
from torch import Tensor, nn

from dropout_core.predict import predict
from mcdrop_models.architectures.cnn import SmallCNN
from mcdrop_models.recipes import digits
from mcdrop_models.recipes.training import fit

ROWS, PASSES, LOOP_PASSES = 256, (16, 32, 64), (16, 32, 64, 128)
MEASURES = ("mean", "mutual_information")
# CPU time of the loop over ours at T = 32
GOALS = {("mlp", "mean"): 40, ("cnn", "mean"): 60, ("transformer", "mean"): 4, ("mlp", "mutual_information"): 12}
_TIMED_PASSES, _REFERENCE_SEED = 32, 10**9
Data = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """A network, the shape of a row, how many rows are timed, and how long it is trained and measured."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    timed_rows: int
    epochs: int
    reference: int = 20_000
    loop: int = 4096
    seeds: int = 64


MNIST = {
    "mlp": Plan(mlp, (784,), 256, epochs=4),
    "cnn": Plan(cnn, (1, 28, 28), 32, epochs=1, loop=1024),
    "transformer": Plan(
        lambda: Encoder(64, 4, 128, 28, 28), (28, 28), 32, epochs=1, reference=4000, loop=1024, seeds=24
    ),
}
DIGITS = {"digits": Plan(lambda: SmallCNN((8, 8), num_classes=10, brightest=16.0), (8, 8), 32, epochs=0)}


@dataclass(frozen=True)
class Law:
    """The loop's squared error at T passes: a / T + b / T²."""

    a: float
    b: float

    def error(self, passes: float) -> float:
        """At so many passes."""
        return self.a / passes + self.b / passes**2

    def passes(self, error: float) -> float:
        """How many passes have this error."""
        return float((self.a + (self.a**2 + 4 * error * self.b) ** 0.5) / (2 * error))


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of MNIST's idx files; without it, digits.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep weights and references here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MNIST)}; all.")] = None,
    quick: Annotated[bool, typer.Option(help="A tenth of the training, the passes and the seeds.")] = False,
) -> None:
    torch.set_num_threads(1)
    plans = MNIST if data else DIGITS
    found: list[dict[str, object]] = []
    laws: list[dict[str, object]] = []
    for name in nets or list(plans):
        plan = _tenth(plans[name]) if quick else plans[name]
        x, y = _rows(data, plan)
        model, truth = _subject(name, plan, data, x, cache, quick)
        right = (truth["mean"].argmax(-1) == y)[::2].double().mean()
        Console().print(f"{name}: {100 * right:.1f} % of the clean rows right.")
        loops, ours = _loop_errors(model, x, truth, plan.loop), _our_errors(model, x, truth, plan.seeds)
        cpu_s = _times(model, x[: plan.timed_rows])
        for measure in MEASURES:
            law = _law(loops[measure], plan.reference, biased=measure != "mean")
            case: dict[str, object] = {"net": name, "measure": measure}
            for passes, error in loops[measure].items():
                fitted = law.error(passes) + law.a / plan.reference
                laws.append({**case, "passes": passes, "loop_error": error, "fitted": fitted})
            for passes, errors in ours[measure].items():
                rest = _against(errors, law, plan.reference, cpu_s[str(passes)], cpu_s["loop"] / _TIMED_PASSES)
                goal = GOALS.get((name, measure), "") if passes == 32 else ""
                found.append({**case, "rows": plan.timed_rows, "passes": passes, **rest, "goal ≥": goal})
    report("squared error of the loop, the reference's own included", laws, None)
    report("CPU time of the loop to our squared error, 1 thread", found, json)


def _tenth(plan: Plan) -> Plan:
    return dataclasses.replace(
        plan, epochs=1, reference=plan.reference // 10, loop=plan.loop // 4, seeds=max(6, plan.seeds // 10)
    )


def _subject(
    name: str, plan: Plan, data: Path | None, x: Tensor, cache: Path | None, quick: bool
) -> tuple[nn.Module, Data]:
    """A trained network and its reference, from the cache where it has them."""
    model = plan.build()
    file = cache / f"{name}{'-quick' if quick else ''}-{plan.reference}.safetensors" if cache else None
    if file is not None and file.exists():
        stored = load_file(file)
        model.load_state_dict({key: value for key, value in stored.items() if not key.startswith("truth/")})
        return model.eval(), {measure: stored[f"truth/{measure}"] for measure in MEASURES}
    model = _trained(plan, data, quick)
    estimate = predict(model, x, passes=plan.reference, seed=_REFERENCE_SEED, sampling="iid")
    truth = {measure: estimate.measure(measure) for measure in MEASURES}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({**model.state_dict(), **{f"truth/{measure}": value for measure, value in truth.items()}}, file)
    return model, truth


def _trained(plan: Plan, data: Path | None, quick: bool) -> nn.Module:
    torch.manual_seed(0)
    if data is None:
        return digits.train(lambda *_: None).model.eval()
    model = plan.build()
    images, labels = _mnist(data, "train")
    some = slice(len(images) // 10) if quick else slice(None)
    x = images[some].reshape(-1, *plan.shape)
    fit(model, x, labels[some], nn.functional.cross_entropy, plan.epochs, 1e-2, lambda *_: None)
    return model


def _rows(data: Path | None, plan: Plan) -> tuple[Tensor, Tensor]:
    """The rows that are judged and their classes; every second row with noise."""
    images, labels = digits.test_images() if data is None else _mnist(data, "t10k")
    x, y = images[:ROWS].reshape(-1, *plan.shape).clone(), labels[:ROWS]
    x[1::2] += 0.5 * images.max() * torch.randn(x[1::2].shape, generator=torch.Generator().manual_seed(0))
    return x, y


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [N, 28, 28] from 0 to 1, and their classes."""
    images = torch.from_numpy(_idx(folder / f"{part}-images-idx3-ubyte", header=16)).reshape(-1, 28, 28)
    return images.float() / 255, torch.from_numpy(_idx(folder / f"{part}-labels-idx1-ubyte", header=8)).long()


def _idx(file: Path, header: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    raw = file.read_bytes() if file.exists() else gzip.decompress(file.with_name(f"{file.name}.gz").read_bytes())
    return np.frombuffer(raw, dtype=np.uint8, offset=header).copy()


def _loop_errors(model: nn.Module, x: Tensor, truth: Data, passes: int) -> dict[str, dict[int, float]]:
    """The squared error of the loop at several T, from groups of one run. Each row has noise of its own."""
    torch.manual_seed(1)
    dropping = alive(copy.deepcopy(model))
    with torch.inference_mode():
        probs = torch.stack([torch.softmax(dropping(x), dim=-1) for _ in range(passes)])
    errors: dict[str, dict[int, float]] = {measure: {} for measure in MEASURES}
    for some in LOOP_PASSES:
        groups = probs[: passes // some * some].unflatten(0, (-1, some)).double()
        mean = groups.mean(1)
        found = {"mean": mean, "mutual_information": _entropy(mean) - _entropy(groups).mean(1)}
        for measure, values in found.items():
            errors[measure][some] = float((values - truth[measure]).square().mean())
    return errors


def _entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(-1)


def _our_errors(model: nn.Module, x: Tensor, truth: Data, seeds: int) -> dict[str, dict[int, list[float]]]:
    """The squared error of predict under each seed."""
    errors: dict[str, dict[int, list[float]]] = {measure: {some: [] for some in PASSES} for measure in MEASURES}
    for passes in PASSES:
        for seed in range(seeds):
            estimate = predict(model, x, passes=passes, seed=seed)
            for measure in MEASURES:
                errors[measure][passes].append(float((estimate.measure(measure) - truth[measure]).square().mean()))
    return errors


def _law(errors: dict[int, float], reference: int, biased: bool) -> Law:
    """The least squares fit of relative errors; the reference has an error of its own, a / reference."""
    passes = torch.tensor(list(errors), dtype=torch.float64)
    found = torch.tensor(list(errors.values()), dtype=torch.float64)
    terms = torch.stack([1 / passes + 1 / reference, 1 / passes.square()], dim=1) / found.unsqueeze(1)
    one = torch.ones(len(found), 1, dtype=torch.float64)
    a, b = torch.linalg.lstsq(terms, one).solution.squeeze(1).tolist()
    if biased and b > 0:
        return Law(a, b)
    return Law(float(torch.linalg.lstsq(terms[:, :1], one).solution), 0.0)


def _times(model: nn.Module, x: Tensor) -> dict[str, float]:
    """CPU seconds of predict at each T, and of the loop."""
    seeds, dropping = count(), alive(copy.deepcopy(model))

    def ours(passes: int) -> Callable[[], object]:
        def run() -> object:
            estimate = predict(model, x, passes=passes, seed=next(seeds))
            return estimate.mean, estimate.mutual_information

        return run

    def loop() -> Tensor:
        with torch.inference_mode():
            return torch.stack([dropping(x) for _ in range(_TIMED_PASSES)])

    return interleaved({**{str(passes): ours(passes) for passes in PASSES}, "loop": loop}, rounds=9)


def _against(errors: list[float], law: Law, reference: int, cpu_s: float, pass_s: float) -> dict[str, object]:
    """Our error, and what the loop needs for it."""
    measured, own = statistics.mean(errors), law.a / reference
    if own > measured / 2:
        raise RuntimeError(
            f"the error {measured:.2g} is mostly that of the reference, {own:.2g}, of {reference} passes: give the "
            "network's plan a longer one."
        )
    error = measured - own
    needed = law.passes(error)
    return {
        "error": error,
        "standard_error": statistics.stdev(errors) / len(errors) ** 0.5,
        "reference_share": own / measured,
        "loop_passes": needed,
        "cpu_s": cpu_s,
        "loop_cpu_s": needed * pass_s,
        "over_loop": needed * pass_s / cpu_s,
    }


if __name__ == "__main__":
    typer.run(main)
