"""Forces on atoms: which configurations are worth an expensive calculation?

Five atoms pull and push each other by a Morse potential, which stands for the expensive calculation. A network learns
the forces, [atoms, 3] for each configuration, from few and asks for more from a pool of shaken clusters: by chance, or
where the networks of its passes differ most (epistemic variance), on the mean over all components or on the worst one.

Run: pip install 'mcdrop[plot]', then python examples/forces.py [--out forces.png]
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

ATOMS, FIRST, BATCH, POOL, STEPS = 5, 5, 5, 400, 300
WAYS: dict[str, dict[str, Any]] = {
    "random": {"score": "random"},
    "variance, mean": {"score": "epistemic_variance", "reduction": "mean"},
    "variance, max": {"score": "epistemic_variance", "reduction": "max"},
}


class Forces(nn.Module):
    """Positions [B, atoms, 3] → forces [B, atoms, 3]: along each pair's line, by a learned function of its length."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.5, 3.5, 24))
        self.strength = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), Dropout(0.1), nn.Linear(64, 1))

    def forward(self, positions: Tensor) -> Tensor:
        lines, lengths = pairs(positions)
        features = (-((lengths - self.centres) / 0.15).square() / 2).exp()
        return (self.strength(features) * lines / lengths).sum(2)


def main(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("forces.png"),
    seeds: Annotated[int, typer.Option(min=2, help="Pools and trainings for each way.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of five configurations.")] = 6,
) -> None:
    torch.set_num_threads(1)
    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).subplots()
    calculated = range(FIRST, FIRST + BATCH * rounds + 1, BATCH)
    for name, way in WAYS.items():
        errors = torch.tensor([learned(way, seed, rounds) for seed in track(range(seeds), name)])
        mean, spread = errors.mean(0), errors.std(0) / seeds**0.5
        print(f"{name}: error {mean[0]:.3f} at {FIRST}, {mean[-1]:.3f} ± {spread[-1]:.3f} at {calculated[-1]}")
        axes.errorbar(calculated, mean.tolist(), spread.tolist(), marker="o", capsize=3, label=name)
    axes.set(xlabel="configurations calculated", ylabel="error of the forces, root mean square", yscale="log")
    axes.legend()
    figure.savefig(out, dpi=150)


def learned(way: dict[str, Any], seed: int, rounds: int) -> list[float]:
    """The error on other configurations at the start and after each round."""
    torch.manual_seed(seed)
    pool, test = clusters(POOL), clusters(POOL)
    known, errors, model = list(range(FIRST)), [], Forces()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for number in range(rounds + 1):
        model.train()
        for _ in range(STEPS):
            model.zero_grad()
            (model(pool[known]) - morse(pool[known])).square().mean().backward()
            optimizer.step()
        errors.append((model.eval()(test) - morse(test)).square().mean().sqrt().item())
        known += rank(model, pool, k=BATCH, output="mean", seed=number, exclude=known, **way).indices.tolist()
    return errors


def clusters(number: int) -> Tensor:
    """A double pyramid of atoms at distance 1, shaken a little or much; [number, atoms, 3]."""
    base = [[0.58, 0, 0], [-0.29, 0.5, 0], [-0.29, -0.5, 0], [0, 0, 0.82], [0, 0, -0.82]]
    return torch.tensor(base) + 0.15 * torch.rand(number, 1, 1) * torch.randn(number, ATOMS, 3)


def morse(positions: Tensor) -> Tensor:
    """The forces of E = (1 − exp(−4 (r − 1)))², summed over pairs."""
    lines, lengths = pairs(positions)
    decay = (-4 * (lengths - 1)).exp()
    return (-8 * decay * (1 - decay) * lines / lengths).sum(2)


def pairs(positions: Tensor) -> tuple[Tensor, Tensor]:
    """From each atom's every other one to it, [B, atoms, atoms − 1, 3], and how far that is, [B, …, 1]."""
    lines = positions[:, :, None] - positions[:, (torch.arange(ATOMS)[:, None] + torch.arange(1, ATOMS)) % ATOMS]
    return lines, lines.norm(dim=-1, keepdim=True)


if __name__ == "__main__":
    typer.run(main)
