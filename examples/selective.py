"""Selective prediction: answer what is certain, hand the rest to a human. How many errors are left at which coverage?

A network learns scikit-learn's digits from 150 images. The test images are answered in the order of their uncertainty,
the most certain first: risk is the share of wrong answers among those given, coverage the share that is given. A good
measure has few errors among its most certain. The oracle knows which answers are wrong and gives those last.

Run: pip install 'mcdrop[train,plot]', then python examples/selective.py [--out selective.png]
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from matplotlib.figure import Figure
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dropout_core.layers import Dropout
from mcdrop import predict

TRAINED_ON, STEPS, PASSES = 150, 300, 64
SHOWN = (0.7, 0.8, 0.9, 1.0)


def main(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("selective.png"),
    seeds: Annotated[int, typer.Option(min=2, help="Splits and trainings.")] = 10,
) -> None:
    """Print the risk of every measure at some coverages and its mean over all, and draw the curves."""
    torch.set_num_threads(1)
    runs = [risks(seed) for seed in track(range(seeds), "Training")]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in runs[0]:
        curves = 100 * torch.stack([run[name] for run in runs])
        mean, area = curves.mean(0), curves.mean(1)
        at = ", ".join(f"{mean[int(share * len(mean)) - 1]:.2f} % at {share:.0%}" for share in SHOWN)
        print(f"{name}: risk {at}; mean over coverages {area.mean():.2f} ± {area.std() / seeds**0.5:.2f} %")
        coverage = torch.arange(1, len(mean) + 1) / len(mean) * 100
        axes.plot(coverage.tolist(), mean.tolist(), label=name)
    axes.set(xlabel="coverage, %", ylabel="risk, % of the answers given", xlim=(20, 100))
    axes.legend()
    figure.savefig(out, dpi=150)
    print(f"Drawn in {out}.")


def risks(seed: int) -> dict[str, Tensor]:
    """For each measure the risk at every coverage, [N]; all but the first answer with the mean of the passes."""
    digits = load_digits()
    torch.manual_seed(seed)
    order = torch.randperm(len(digits.data))
    x, y = torch.from_numpy(digits.data).float()[order] / 16, torch.from_numpy(digits.target)[order]
    model = trained(x[:TRAINED_ON], y[:TRAINED_ON])
    x, y = x[TRAINED_ON:], y[TRAINED_ON:]
    with torch.no_grad():
        once = model(x).softmax(1)
    estimate = predict(model, x, passes=PASSES, seed=seed)
    wrong = (estimate.mean.argmax(1) != y).double()
    return {
        "one pass, least confidence": risk((once.argmax(1) != y).double(), 1 - once.amax(1)),
        "least_confidence": risk(wrong, estimate.least_confidence),
        "predictive_entropy": risk(wrong, estimate.predictive_entropy),
        "mutual_information": risk(wrong, estimate.mutual_information),
        "chance": risk(wrong, torch.rand(len(y))),
        "oracle": risk(wrong, wrong),
    }


def risk(wrong: Tensor, uncertainty: Tensor) -> Tensor:
    """The share of wrong answers among the 1, 2, … most certain."""
    return wrong[uncertainty.argsort(stable=True)].cumsum(0) / torch.arange(1, len(wrong) + 1)


def trained(x: Tensor, y: Tensor) -> nn.Module:
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    typer.run(main)
