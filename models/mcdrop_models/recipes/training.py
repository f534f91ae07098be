"""What the recipes share: a plain training loop, and what it hands to `publish`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropout_core.measures.measures import OutputKind, Task

# called after each epoch with its number, from 1, the number of epochs and the mean loss
OnEpoch = Callable[[int, int, float], None]
Loss = Callable[[Tensor, Tensor], Tensor]
# rows that `fit` takes at once
BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A trained network and all that publishing it needs."""

    model: nn.Module
    example: Tensor
    task: Task
    output: OutputKind
    metrics: Mapping[str, float]
    labels: tuple[str, ...] | None = None
    output_scaling: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Labelled:
    """All of a recipe's data with its classes, and its network: what a question of which rows to label is tried on.

    x, y: rows [N, *F] and classes [N] to train on. x_test, y_test: those to measure on. network: makes one untrained,
    in torch's randomness.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    network: Callable[[], nn.Module]
    weight_decay: float


def fit(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, epochs: int, weight_decay: float, on_epoch: OnEpoch
) -> None:
    """Train in place with AdamW, in batches, with a cosine learning rate, shuffled by torch's own randomness."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            value = loss(model(x[batch]), y[batch])
            value.backward()
            optimizer.step()
            total += float(value.detach()) * len(batch)
        schedule.step()
        on_epoch(epoch, epochs, total / len(x))
    model.eval()
