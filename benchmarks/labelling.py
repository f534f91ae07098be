"""The protocol of active_learning.py: data, network and training as in the BatchBALD paper (Kirsch et al. 2019).

Two convolutions and two dense layers with dropout of 0.5 after all but the last; Adam with a rate of 0.001, batches of
64, an epoch of 5056 rows drawn from those labelled, at most 30 epochs; the weights of the epoch of the best validation
accuracy, noise off, are kept once three more have not been better.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.layers import Dropout, SpatialDropout2d

CLASSES, START_OF_EACH = 10, 2
_VALIDATION = 1024
_EPOCH_ROWS, _MOST_EPOCHS, _PATIENCE, _BATCH = 5056, 30, 3, 64


@dataclass(frozen=True)
class Mnist:
    """Images [N, 1, 28, 28] in 0 … 1 and their classes [N]."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Split:
    """What is labelled at the start, what can be, and what decides when training stops. The same for every seed but
    the start: the pool is fixed.
    """

    x_start: Tensor
    y_start: Tensor
    x_pool: Tensor
    y_pool: Tensor
    x_validation: Tensor
    y_validation: Tensor


def read_mnist(folder: Path) -> Mnist:
    """The four idx files, packed or not."""
    return Mnist(*_part(folder, "train"), *_part(folder, "t10k"))


def split(mnist: Mnist, pool: int, repeat: int, seed: int) -> Split:
    """Two of each class to start with by the seed, from what neither the pool nor the validation has.

    pool: how many rows; each stands in it `repeat` times, with noise of a deviation of 0.1 where that is several.
    """
    order = torch.randperm(len(mnist.x), generator=torch.Generator().manual_seed(0))
    distinct = pool // repeat
    validation, rest = order[:_VALIDATION], order[_VALIDATION:]
    drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed + 1))]
    start = torch.cat([drawn[mnist.y[drawn] == one][:START_OF_EACH] for one in range(CLASSES)])
    origin = rest[~torch.isin(rest, start)][:distinct].repeat(repeat)
    x = mnist.x[origin]
    if repeat > 1:
        x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return Split(mnist.x[start], mnist.y[start], x, mnist.y[origin], mnist.x[validation], mnist.y[validation])


def network() -> nn.Module:
    """Of images [B, 1, 28, 28]. A dropped map and its scale go through pooling and ReLU as they are, so that to drop
    behind them is the paper's network too, and they run once for all passes.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.ReLU(), SpatialDropout2d(0.5),
        nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU(), SpatialDropout2d(0.5),
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), Dropout(0.5),
        nn.Linear(128, CLASSES),
    )  # fmt: skip


def trained(x: Tensor, y: Tensor, data: Split, seed: int) -> nn.Module:
    """A network trained from scratch on the rows labelled so far."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, waited, kept = -1.0, 0, {}
    for _ in range(_MOST_EPOCHS):
        _epoch(model, optimizer, x, y)
        reached = accuracy(model, data.x_validation, data.y_validation)
        waited += 1
        if reached > best:
            best, waited, kept = reached, 0, {name: value.clone() for name, value in model.state_dict().items()}
        if waited == _PATIENCE:
            break
    model.load_state_dict(kept)
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """With the noise off."""
    model.eval()
    right = sum(int((model(rows).argmax(1) == of).sum()) for rows, of in zip(x.split(1000), y.split(1000), strict=True))
    return right / len(y)


def _epoch(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    rounds = -(-_EPOCH_ROWS // len(x))
    rows = torch.cat([torch.randperm(len(x)) for _ in range(rounds)])[:_EPOCH_ROWS]
    model.train()
    for batch in rows.split(_BATCH):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def _part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _idx(folder / f"{part}-images-idx3-ubyte", header=16).reshape(-1, 1, 28, 28)
    return images.float() / 255, _idx(folder / f"{part}-labels-idx1-ubyte", header=8).long()


def _idx(file: Path, header: int) -> Tensor:
    raw = file.read_bytes() if file.exists() else gzip.decompress(file.with_name(f"{file.name}.gz").read_bytes())
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header)
