"""Networks without dropout, and what a surgery may not change of them."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.captured import made


class Residual(nn.Module):
    """Registered in another order than it runs, with one activation for all its maps."""

    row = (1, 6, 6)

    def __init__(self):
        super().__init__()
        self.head, self.fc = nn.Linear(8, 3), nn.Linear(4, 8)
        self.second, self.stem = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.maps, self.units = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.GELU()

    def forward(self, x):
        h = self.maps(self.stem(x))
        h = self.maps(h + self.norm(self.second(h)))
        return self.head(self.units(self.fc(h.mean((2, 3)))))


class Cnn(nn.Sequential):
    row = (1, 6, 6)

    def __init__(self):
        layers = [nn.Conv2d(1, 4, 3), nn.SELU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten()]
        super().__init__(*layers, nn.Linear(4, 8), nn.SELU(), nn.Linear(8, 2), nn.Sigmoid())


class Encoder(nn.Module):
    """Torch's transformer, the activation of each block given as a module."""

    row = (5, 3)

    def __init__(self, p=0.0, batch_first=True):
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 16, p, nn.GELU(), batch_first=batch_first)
        self.head, self.body = nn.Linear(8, 2), nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.first = nn.Linear(3, 8)

    def forward(self, x):
        return self.head(self.body(self.first(x)).mean(1))


class TwoHeads(nn.Module):
    row = (4,)

    def __init__(self):
        super().__init__()
        self.variance, self.mean = nn.Linear(8, 1), nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
        self.body = nn.Linear(4, 8)

    def forward(self, x):
        h = self.body(x).tanh()
        return {"mean": self.mean(h), "variance": F.softplus(self.variance(h))}


class Untraceable(nn.Module):
    """Decides on values, and calls its head by keyword."""

    row = (4,)

    def __init__(self):
        super().__init__()
        self.head, self.body, self.idle = nn.Linear(8, 2), nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = self.body(x)
        return self.head(input=h.tanh() if h.isfinite().all() else h)


class Functions(nn.Module):
    """All but one layer are functions."""

    row = (4,)

    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 2))

    def forward(self, x):
        return F.dropout(F.relu(self.first(x)), 0.5, self.training) @ self.weight


def mlp():
    return made(lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)))


def rows(net, count=4):
    return torch.randn(count, *getattr(net, "row", (4,)), generator=torch.Generator().manual_seed(1))


def anatomy(net):
    """Everything a surgery might change: modules, weights, modes, hooks, options, and the order of all these."""
    modules = list(net.named_modules(remove_duplicate=False))
    plain = [
        {name: dict(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
        for _, module in modules
    ]
    return modules, plain, list(net.state_dict()), [id(parameter) for parameter in net.parameters()]


def entries(entries):
    """Their paths and notes."""
    return {entry.path: entry.note for entry in entries}
