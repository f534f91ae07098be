"""Claim: a new task whose drop rates begin where earlier tasks ended needs fewer steps to the same validation loss.

A task: 200 of scikit-learn's digits, their pixels in an order of its own, a fifth of the labels wrong; 300 others, with
right labels, for validation. The network: 64-128-128-10 with a learned rate before each layer. Each new task is trained
twice from the same weights, with rates that begin at 0.5 and at those of the earlier tasks; both learn their rates
on the validation half. Steps are counted until the mean validation loss of the other half is down to what the run from
0.5 reaches at best, plus 2 %.

Run: python benchmarks/meta.py [--json FILE]
"""

import copy
import statistics
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from machine import report
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dropout_core.layers import ConcreteDropout
from dropout_core.training.learned_rates import RateLearner, SharedRates, logits_of

LR, STEPS, EARLIER, NEW = 1e-3, 400, 5, 7
Split = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def main(json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None) -> None:
    torch.set_num_threads(1)
    shared = SharedRates()
    for seed in range(EARLIER):
        net = network(seed)
        shared.begin(net)
        trained(net, task(seed), seed)
        shared.end(net)
    rows: list[dict[str, object]] = []
    ratios: list[float] = []
    for seed in range(EARLIER, EARLIER + NEW):
        from_half = network(seed)
        from_earlier = copy.deepcopy(from_half)
        shared.begin(from_earlier)
        began = [round(float(torch.sigmoid(logit.detach())), 2) for logit in logits_of(from_earlier).values()]
        half, earlier = (trained(net, task(seed), seed) for net in (from_half, from_earlier))
        target = 1.02 * min(half)
        steps = steps_to(half, target), steps_to(earlier, target)
        ratios.append(steps[0] / steps[1])
        rows.append(
            {
                "task": seed,
                "rates_begin": str(began),
                "best_loss_half": min(half),
                "best_loss_earlier": min(earlier),
                "steps_half": steps[0],
                "steps_earlier": steps[1],
            }
        )
    report("steps to the same validation loss: rates from 0.5, and from earlier tasks", rows, json)
    print(f"median of steps from 0.5 over steps from earlier tasks: {statistics.median(ratios):.2f}")


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        ConcreteDropout(0.5), nn.Linear(64, 128), nn.ReLU(),
        ConcreteDropout(0.5), nn.Linear(128, 128), nn.ReLU(),
        ConcreteDropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def task(seed: int) -> Split:
    generator = torch.Generator().manual_seed(1000 + seed)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32)[:, torch.randperm(64, generator=generator)] / 16
    labels = torch.tensor(digits.target)
    chosen = torch.randperm(len(images), generator=generator)[:500]
    x, y = images[chosen], labels[chosen]
    wrong = torch.rand(200, generator=generator) < 0.2
    noisy = torch.where(wrong, torch.randint(0, 10, (200,), generator=generator), y[:200])
    return (x[:200], noisy), (x[200:350], y[200:350]), (x[350:], y[350:])


def trained(net: nn.Sequential, split: Split, seed: int) -> list[float]:
    """Train weights and rates; the held-out loss after each step."""
    torch.manual_seed(seed)
    train, validation, held_out = split
    weights = [value for name, value in net.named_parameters() if not name.endswith("logit")]
    optimiser, learner = torch.optim.Adam(weights, LR), RateLearner(net, F.cross_entropy, LR)
    losses = []
    for _ in range(STEPS):
        learner.step(train, validation)
        net.train()
        optimiser.zero_grad()
        F.cross_entropy(net(train[0]), train[1]).backward()
        optimiser.step()
        net.eval()
        with torch.no_grad():
            losses.append(float(F.cross_entropy(net(held_out[0]), held_out[1])))
    return losses


def steps_to(losses: list[float], target: float) -> float:
    """The first step at which a loss is reached; infinity where it never is."""
    return next((float(step + 1) for step, loss in enumerate(losses) if loss <= target), float("inf"))


if __name__ == "__main__":
    typer.run(main)
