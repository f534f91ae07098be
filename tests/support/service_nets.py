"""Untrained networks that are published in a second: what the service does does not depend on what they learnt."""

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Images [B, 8, 8] of 0 … 16 → logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.layers(x / 16)


class Regressor(nn.Sequential):
    """Features [B, 4] → two means and two log variances [B, 4]."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4))


class Rooted(nn.Module):
    """Features [B, 2] → logits [B, 2], NaN where a feature is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(x.sqrt()))


class Wide(nn.Module):
    """Images [B, 8, 8] → logits [B, 3], with so much to do in each pass that a large request takes minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 1024), nn.Dropout(0.5), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 3)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x / 16)


def seeded(kind: type[nn.Module], seed: int) -> nn.Module:
    """A network whose weights depend on the seed alone, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind().eval()


def images(num_rows: int, seed: int = 0) -> Tensor:
    """Rows that the classifier takes: whole numbers of 0 … 16, [B, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 17, (num_rows, 8, 8), generator=generator).float()


def features(num_rows: int, seed: int = 0) -> Tensor:
    """Rows that the regressor takes, [B, 4]."""
    return torch.randn(num_rows, 4, generator=torch.Generator().manual_seed(seed))


class NoisyWeights(nn.Module):
    """Features [B, 4] → logits [B, 2], by weights of which one half is dropped in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = nn.functional.dropout(self.head.weight, 0.5, self.training)
        return nn.functional.linear(x, weight, self.head.bias)
