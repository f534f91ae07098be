"""A bandit: pull the arm that looks best, or one that might be better? Greedy against exploring by uncertainty.

An arm is a point of a square, and its reward there of a broad low hill, a narrow high one, and noise. A network learns
the reward from the arms that were pulled. Greedy pulls the arm of the largest mean and settles on the low hill where it
found that first. Thompson sampling asks one sampled network, an upper confidence bound adds three deviations between
networks to the mean: both try what might be better. Regret is what the best arm would have given beyond the one pulled.

Run: pip install 'mcdrop[plot]', then python examples/bandit.py [--out bandit.png]
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor, nn

from dropout_core.layers import Dropout
from mcdrop import rank

ARMS, FIRST, NOISE, STEPS = 200, 5, 0.05, 60
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"score": "upper_confidence_bound", "deviations": 0.0},
    "thompson": {"score": "thompson"},
    "upper_confidence_bound": {"score": "upper_confidence_bound", "deviations": 3.0},
}


def main(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("bandit.png"),
    seeds: Annotated[int, typer.Option(min=2, help="Bandits for each way to play.")] = 10,
    pulls: Annotated[int, typer.Option(min=1, help="Pulls of each.")] = 50,
) -> None:
    """Play every way on the same bandits, print the regret, and draw it."""
    torch.set_num_threads(1)
    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).subplots()
    for name, way in WAYS.items():
        regret = torch.stack([play(way, seed, pulls) for seed in track(range(seeds), name)]).cumsum(1)
        mean, error = regret.mean(0), regret.std(0) / seeds**0.5
        print(f"{name}: regret {mean[-1]:.1f} ± {error[-1]:.1f} after {pulls} pulls")
        times = range(1, pulls + 1)
        (line,) = axes.plot(times, mean.tolist(), label=name)
        low, high = (mean - error).tolist(), (mean + error).tolist()
        axes.fill_between(times, low, high, color=line.get_color(), alpha=0.2)
    axes.set(xlabel="pulls", ylabel="regret, summed")
    axes.legend()
    figure.savefig(out, dpi=150)
    print(f"Drawn in {out}.")


def reward(arms: Tensor) -> Tensor:
    """Between 0 and 1. arms: [N, 2] in −1 … 1."""
    low = 0.4 * (-(arms + 0.4).square().sum(1) / 0.5).exp()
    high = (-(arms - 0.6).square().sum(1) / 0.1).exp()
    return torch.maximum(low, high)


class Bumps(nn.Module):
    """Points [N, 2] → how near each is to the 36 of a grid: the network learns of one place without the others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 6)]))

    def forward(self, points: Tensor) -> Tensor:
        return (-(points[:, None] - self.grid).square().sum(2) / 0.16).exp()


def play(way: dict[str, Any], seed: int, pulls: int) -> Tensor:
    """What each pull gave less than the best arm would have."""
    torch.manual_seed(seed)
    arms = 2 * torch.rand(ARMS, 2) - 1
    pulled = torch.randperm(ARMS)[:FIRST]
    rewards = reward(arms[pulled]) + NOISE * torch.randn(FIRST)
    model = nn.Sequential(Bumps(), nn.Linear(36, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 1))
    with torch.no_grad():
        model[-1].weight.mul_(12)  # what is believed of where no arm was pulled: anything may be there
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    lost = []
    for pull in range(pulls):
        learn(model, optimizer, arms[pulled], rewards)
        arm = rank(model, arms, k=1, output="mean", seed=pull, **way).indices
        lost.append(reward(arms).max() - reward(arms[arm])[0])
        pulled = torch.cat([pulled, arm])
        rewards = torch.cat([rewards, reward(arms[arm]) + NOISE * torch.randn(1)])
    return torch.stack(lost)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x)[:, 0] - y).square().mean().backward()
        optimizer.step()


if __name__ == "__main__":
    typer.run(main)
