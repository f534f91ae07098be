"""The networks that passes.py and precision.py time: plain torch.nn where that is what people run.

Each takes rows first and answers ten logits. Weights are random; batch norm has running statistics that moved, so that
training mode and eval mode differ as in a trained network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.layers import DropConnectLinear, VariationalLSTM

CLASSES = 10


@dataclass(frozen=True)
class Net:
    """How a network is built, and the shape of one row of its input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


def mlp() -> nn.Module:
    """784-512-512-10, p = 0.5 on both hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(512, CLASSES),
    )  # fmt: skip


def cnn() -> nn.Module:
    """Two convolutions without noise, then dropout before each of two dense layers, as in LeNet."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, CLASSES),
    )  # fmt: skip


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016) for 32×32 images: a first convolution of 3×3, no pooling; dropout before the head."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, CLASSES)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """A transformer encoder with torch's own layers, then the mean over tokens.

    features: the width of a token where it is to be projected and given a place; None: x is embedded already.
    """

    def __init__(self, width: int, heads: int, hidden: int, length: int, features: int | None = None) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Identity() if features is None else nn.Linear(features, width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width), requires_grad=features is not None)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers(self.embed(x) + self.places).mean(1))
        return y


class Recurrent(nn.Module):
    """A variational LSTM over 50 steps, its last state to a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = VariationalLSTM(64, 64, p_input=0.25, p_recurrent=0.25, p_output=0.25)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


def dropconnect() -> nn.Module:
    """784-512-512-10, p = 0.5 on the weights of both hidden layers, one draw for each pass."""
    return nn.Sequential(
        DropConnectLinear(784, 512, 0.5, per="batch"), nn.ReLU(),
        DropConnectLinear(512, 512, 0.5, per="batch"), nn.ReLU(),
        nn.Linear(512, CLASSES),
    )  # fmt: skip


NETS = {
    "mlp": Net(mlp, (784,)),
    "cnn": Net(cnn, (1, 28, 28)),
    "resnet18": Net(resnet18, (3, 32, 32)),
    "transformer": Net(lambda: Encoder(256, 8, 1024, 64), (64, 256)),
    "lstm": Net(Recurrent, (50, 64)),
    "dropconnect": Net(dropconnect, (784,)),
}


def built(name: str) -> nn.Module:
    """A network with the weights of seed 0, in eval mode."""
    torch.manual_seed(0)
    model = NETS[name].build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def alive(model: nn.Module) -> nn.Module:
    """The network in training mode, batch norm in eval mode. Returns it.

    Dropout modules alone in training mode would not do: nn.TransformerEncoderLayer takes its fused path in eval mode
    and drops nothing.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model
