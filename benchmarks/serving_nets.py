"""The networks that serving.py has served, in plain torch.nn: peers run the same modules with the same weights."""

import torch
from nets import CLASSES, Net, mlp
from torch import nn


def digits() -> nn.Module:
    """The network of `mcdrop train digits`, for images of 8×8 in 0 … 1: two convolutions without noise, then three
    places with it.
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout2d(0.1),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.1), nn.Flatten(),
        nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, CLASSES),
    )  # fmt: skip


NETS = {"mlp": Net(mlp, (784,)), "digits": Net(digits, (8, 8))}


def seeded(name: str) -> nn.Module:
    """A network with the weights of seed 0, in eval mode."""
    torch.manual_seed(0)
    return NETS[name].build().eval()
