"""The networks that gpu.py times, of the size people serve on a GPU. Weights are random."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.layers import DropPath, linear_depth_rates

CLASSES = 10


@dataclass(frozen=True)
class Scale:
    """How large the networks are: of a ResNet's first stage, of an image, of an encoder."""

    width: int = 64
    side: int = 224
    layers: int = 12
    embedding: int = 768
    length: int = 128
    vocabulary: int = 30522


FULL = Scale()
SMALL = Scale(width=4, side=32, layers=2, embedding=48, length=16, vocabulary=100)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut (He et al. 2016, stride in the 3×3)."""

    def __init__(self, inputs: int, width: int, stride: int, path: float) -> None:
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.path = DropPath(path) if path else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.path(self.branch(x)) + self.shortcut(x))


def resnet50(scale: Scale, path: float = 0.0) -> nn.Module:
    """ResNet-50, dropout before the head. path: the rate of drop path in the last block, growing with depth."""
    width, blocks = scale.width, (3, 4, 6, 3)
    rates = iter(linear_depth_rates(sum(blocks), path))
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, number in enumerate(blocks):
        inner = width * 2**stage
        for block in range(number):
            layers.append(Bottleneck(inputs, inner, 2 if stage and not block else 1, next(rates)))
            inputs = 4 * inner
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers)


class Bert(nn.Module):
    """BERT's encoder on token ids, by torch's own layers; the first token to a linear layer."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        width = scale.embedding
        self.words, self.places = nn.Embedding(scale.vocabulary, width), nn.Embedding(scale.length, width)
        self.norm, self.drop, self.head = nn.LayerNorm(width), nn.Dropout(0.1), nn.Linear(width, CLASSES)
        layer = nn.TransformerEncoderLayer(width, 12, 4 * width, 0.1, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, scale.layers)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.drop(self.norm(self.words(ids) + self.places.weight))
        y: Tensor = self.head(self.layers(embedded)[:, 0])
        return y


NETS: dict[str, Callable[[Scale], nn.Module]] = {
    "resnet50": resnet50,
    "resnet50 paths": lambda scale: resnet50(scale, 0.1),
    "bert": Bert,
}


def built(net: str, scale: Scale) -> nn.Module:
    """A network with the weights of seed 0, in eval mode; batch norms have running statistics that moved."""
    torch.manual_seed(0)
    model = NETS[net](scale)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def rows_for(net: str, scale: Scale, num_rows: int) -> Tensor:
    """Rows of a network's input: token ids, or images."""
    generator = torch.Generator().manual_seed(1)
    if net == "bert":
        return torch.randint(scale.vocabulary, (num_rows, scale.length), generator=generator)
    return torch.randn(num_rows, 3, scale.side, scale.side, generator=generator)
