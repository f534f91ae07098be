"""Overfitting against the drop probability: a little noisy data, one network, many rates.

Of scikit-learn's digits 200 images train the network and the rest test it; of the training labels one in five is wrong.
Without dropout the network learns the wrong labels by heart; at too high a rate it learns little at all. Between them
lies the sweet spot. The test labels are right: a network that saw through the wrong ones would have about 80 % in
training and 100 % in the test. On data of your own choose the rate by a validation set, not by the test set as here.

Run: pip install 'mcdrop[train,plot]', then python examples/overfitting.py [--out overfitting.png]
"""

from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dropout_core.layers import Dropout

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TRAINED_ON, WRONG, HIDDEN, STEPS = 200, 0.2, 64, 300


def main(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("overfitting.png"),
    seeds: Annotated[int, typer.Option(min=2, help="Splits and trainings for each rate.")] = 10,
) -> None:
    """Train at every rate, print training and test accuracy and their gap, and draw them."""
    torch.set_num_threads(1)
    runs = [[accuracies(rate, seed) for seed in range(seeds)] for rate in track(RATES, "Training")]
    measured = 100 * torch.tensor(runs, dtype=torch.float64)
    mean, error = measured.mean(1), measured.std(1) / seeds**0.5
    best = int(mean[:, 1].argmax())
    Console().print(table(mean, error, best))
    less, more = (
        f"{gain.mean():.1f} ± {gain.std() / seeds**0.5:.1f}" for gain in (measured[best] - measured)[[0, -1], :, 1]
    )
    Console().print(
        f"The sweet spot is p = {RATES[best]}: {less} points more test accuracy than without dropout and {more} more "
        f"than at p = {RATES[-1]}, on the same splits; ± is the standard error over {seeds} of them."
    )
    draw(mean, error, best, out)
    Console().print(f"Drawn in {out}.")


def accuracies(rate: float, seed: int) -> tuple[float, float]:
    """The shares of right answers on the training data, as labelled, and on the test data, in eval mode."""
    x, y, x_test, y_test = data(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, HIDDEN),
        nn.ReLU(),
        Dropout(rate),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        Dropout(rate),
        nn.Linear(HIDDEN, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return accuracy(model(x), y), accuracy(model(x_test), y_test)


def accuracy(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(1) == classes).double().mean())


@cache
def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and their labels, some of them wrong; test images and their right labels."""
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    chosen, rest = order[:TRAINED_ON], order[TRAINED_ON:]
    wrong = torch.rand(TRAINED_ON, generator=generator) < WRONG
    shift = torch.randint(1, 10, (TRAINED_ON,), generator=generator)
    return x[chosen], (y[chosen] + shift * wrong) % 10, x[rest], y[rest]


def table(mean: Tensor, error: Tensor, best: int) -> Table:
    shown = Table("p", "training %", "test %", "gap", title=f"{TRAINED_ON} digits, {WRONG:.0%} of their labels wrong")
    for number, rate in enumerate(RATES):
        columns = [f"{mean[number, part]:.1f} ± {error[number, part]:.1f}" for part in (0, 1)]
        gap = mean[number, 0] - mean[number, 1]
        shown.add_row(f"{rate}", *columns, f"{gap:.1f}", style="bold" if number == best else None)
    return shown


def draw(mean: Tensor, error: Tensor, best: int, out: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for part, name in enumerate(("training, as labelled", "test")):
        axes.errorbar(RATES, mean[:, part].tolist(), error[:, part].tolist(), marker="o", capsize=3, label=name)
    axes.fill_between(RATES, *mean.T.tolist(), color="tab:gray", alpha=0.15, label="gap")
    axes.axvline(RATES[best], color="tab:green", linestyle="--", label=f"sweet spot, p = {RATES[best]}")
    axes.set(xlabel="drop probability p", ylabel="accuracy, %")
    axes.legend()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    typer.run(main)
