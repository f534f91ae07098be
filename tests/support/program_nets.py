"""Small networks, one for each feature that program.json must represent."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Sequential):
    """[B, 4] → [B, outputs]."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs))


class ConvNet(nn.Module):
    """[B, 1, 6, 6] → [B, 3], with a trained batch norm and two kinds of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.25)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.head(F.dropout(self.drop(h).flatten(1), 0.5, self.training))


class Residual(nn.Module):
    """Drops on one of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.head = nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.drop(torch.tanh(self.inner(x))))


class FoldedRows(nn.Module):
    """[B, 3, 4] → [B, 6]: three rows of an inner network for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 2), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.inner(x.view(-1, 4))).view(-1, 6)


class Constants(nn.Module):
    """A buffer, a tensor made in forward, and a plain tensor attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([1.0, -2.0, 3.0, 0.5]))
        self.scale = torch.tensor([0.5, 2.0, 1.0, 4.0])
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest((x - self.shift) * self.scale) + torch.tensor([0.1, 0.2, 0.3])


class MaskedAttention(nn.Module):
    """[B, 5, 4] → [B, 4]: causal attention by masked_fill with −inf, dropout on the attention weights."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.queries(x) @ self.keys(x).transpose(1, 2)
        future = torch.ones(5, 5, dtype=torch.bool, device=x.device).triu(1)
        weights = F.dropout(scores.masked_fill(future, float("-inf")).softmax(-1), 0.4, self.training)
        return (weights @ x).mean(1)


class DtypesAndDevices(nn.Module):
    """Tensors made in forward with sizes of rows, dtypes and devices as arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[0], 2, dtype=torch.float64, device=x.device)
        doubled = torch.cat([x.to(torch.float64)[:, :2], padding + 1], dim=1) + torch.zeros_like(x, dtype=torch.float64)
        return self.rest(doubled.to(torch.float32))


class WeightDropout(nn.Module):
    """DropConnect: noise on the weights, one draw for each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.dropout(self.inner.weight, 0.3, self.training)
        return self.head(torch.relu(F.linear(x, weight, self.inner.bias)))


class Recurrent(nn.Module):
    """[B, 5, 4] → [B, 3]: a deterministic LSTM, dropout before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.drop, self.head = nn.LSTM(4, 6, batch_first=True), nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        return self.head(self.drop(hidden[-1]))


class Transformer(nn.Module):
    """[B, 5, 4] → [B, 3]: torch's own layer, dropping inside its attention too, and a recurrent net that drops."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True)
        self.lstm, self.head = nn.LSTM(4, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.layer(x))[0][:, -1])


class Sized(nn.Module):
    """[B, 8] → [B, 8]: sizes that are expressions of the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.drop(self.inner(x.view(x.shape[0] * 4, -1)))
        return parts.view(x.shape[0], 8) + torch.ones(x.shape[0] * 8 // 8, 8)


class Tokens(nn.Module):
    """int64 [B, 5] → [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(10, 6), nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.embedding(x).mean(1)))


class Probabilities(nn.Module):
    """[B, 4] → [B, 3], softmax inside."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x).softmax(-1)


@dataclass(frozen=True)
class Case:
    """A network, the shape of one of its rows, and a text that its program.json must contain."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    holds: str = '"kind":"dropout"'


CASES = {
    "an MLP": Case(Mlp, (4,)),
    "a CNN with batch norm and feature dropout": Case(ConvNet, (1, 6, 6), '"kind":"feature_dropout"'),
    "a residual network": Case(Residual, (4,), '"aten.add.Tensor"'),
    "folded rows": Case(FoldedRows, (3, 4), '"rows":[0,1,3]'),
    "constants": Case(Constants, (4,), '"constants/'),
    "a mask of minus infinity": Case(MaskedAttention, (5, 4), '{"float":"-inf"}'),
    "dtypes and devices as arguments": Case(DtypesAndDevices, (4,), '"dtype":{"dtype":"float64"}'),
    "dropout on weights": Case(WeightDropout, (4,), '"rows":null'),
    "an LSTM before the dropout": Case(Recurrent, (5, 4), '"aten.lstm.input"'),
    "a transformer and an LSTM of torch that drop": Case(Transformer, (5, 4), '"mcdrop.rnn.default"'),
    "sizes as expressions of the rows": Case(Sized, (8,), '{"size":["mul",4,"rows"]}'),
    "tokens": Case(Tokens, (5,), '"dtype":"int64"'),
    "probabilities": Case(Probabilities, (4,), '"aten.softmax.int"'),
}


def seeded(make: Callable[[], nn.Module], seed: int = 11) -> nn.Module:
    """Return a network in eval mode whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def rows_for(net: nn.Module, shape: tuple[int, ...], num_rows: int, seed: int = 5) -> Tensor:
    """Return random rows for a network: tokens if it has an embedding, else standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    if any(isinstance(module, nn.Embedding) for module in net.modules()):
        return torch.randint(0, 10, (num_rows, *shape), generator=generator)
    return torch.randn(num_rows, *shape, generator=generator)


class Coupled(nn.Module):
    """Subtracts the mean of the batch from each row."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x - x.mean(0))


class Silent(nn.Module):
    """Has dropout that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.inner(x), 0.5, training=False))


class Doubled(nn.Module):
    """Computes something else in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x) * (2 if self.training else 1)


class Bessel(nn.Module):
    """Uses an operator that bundles may not use."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(torch.special.bessel_j0(x))


class TwoInputs(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = Mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.rest(x + y)
