"""Networks for the halves: each is something that their writing must get right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.layers import VariationalGRU, VariationalLSTM, VariationalRNN
from mcdrop_models.architectures.cnn import SmallCNN
from tests.support import inputs, nets
from tests.support.foreign import FOREIGN


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class EveryKind(nn.Module):
    """[B, 3, 4] → [B, 2], by each kind of noise that there is."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = F.dropout(self.body(x), 0.2)
        h = F.dropout1d(h, 0.3).tanh()
        h = F.alpha_dropout(h, 0.2, training=True)
        h = F.feature_alpha_dropout(h, 0.4, training=True)
        h = h * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.7)
        h = h * (1 + 0.1 * torch.randn_like(h)) + torch.rand_like(h)
        h = h + 0.1 * torch.empty_like(h).exponential_()
        return self.head((h * torch.bernoulli(h.sigmoid())).sum(1))


class Layers(nn.Module):
    """Recurrent layers without noise, and as many with masks on their states, both ways; some rows have no step."""

    def __init__(self, layer, *options):
        super().__init__()
        both = {"bidirectional": True}
        self.quiet = nn.ModuleList(layer(8, 4, **both, **each) for each in options)
        self.noisy = nn.ModuleList(layer(8, 4, **both, p_input=0.2, p_recurrent=0.3, **each) for each in options)

    def forward(self, x, lengths):
        for layer in (*self.quiet, *self.noisy):
            x, ends = layer(x, lengths)
        last = ends[0] if isinstance(ends, tuple) else ends
        return x.sum(1) + last.transpose(0, 1).flatten(1)


class Told(nn.Module):
    """[B, L, 4] → [B, L, 3], by what has no axis for the length."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(F.dropout(x.mean(1), 0.5).unsqueeze(1).expand(-1, x.shape[1], -1))


class Tied(nn.Module):
    """One weight twice, behind dropout of the input itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(24, 24)

    def forward(self, x):
        return self.inner(self.inner(F.dropout(x, 0.5)).relu())


class Sized(nn.Module):
    """What noise reaches first, only a site reads; how many rows there are, others ask."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("hidden", torch.tensor([False, True, False, False]))

    def forward(self, x):
        hidden = self.hidden.expand(x.shape[0], 4)
        return self.head(F.dropout(self.body(x), 0.5).masked_fill(hidden, 1.0))


@dataclass(frozen=True)
class Net:
    build: Callable[[], nn.Module]
    rows: Callable[[int], Any]
    options: Mapping[str, Any] = field(default_factory=dict)


def lengths_of(count):
    return torch.arange(count).flip(0) % 6


def sequences(layer, *options):
    return Net(lambda: Layers(layer, *options), lambda count: {"x": drawn(count, 5, 8), "lengths": lengths_of(count)})


def twin(kind):
    return Net(lambda: kind().to(torch.float32), lambda count: drawn(count, *kind.row))


def foreign(name):
    net = FOREIGN[name]

    def rows(count):
        return {key: torch.cat([value] * count)[:count] for key, value in net.inputs.items()}

    return Net(net.build, rows, {"result": net.result})


def free(kind, length=4):
    return Net(kind, lambda count: kind.inputs(count, length), {"dynamic": inputs.FREE[kind]})


NETS = {
    "CNN": Net(lambda: SmallCNN((8, 8), 10, 16.0), lambda count: drawn(count, 8, 8)),
    "every kind": Net(EveryKind, lambda count: drawn(count, 3, 4)),
    "double": Net(lambda: EveryKind().double(), lambda count: drawn(count, 3, 4).double()),
    "steps folded into rows": twin(nets.FoldedTime),
    "steps before rows": twin(nets.SequenceFirst),
    "views below one another": twin(nets.StackedViews),
    "noise on weights": twin(nets.NoisyWeights),
    "as many as there are rows": Net(Sized, lambda count: drawn(count, 4)),
    "torch's GRU": foreign("GRU"),
    "attention of any length": free(inputs.Attention),
    "steps of any length": free(inputs.Steps),
    "a length that must be told": Net(Told, lambda count: drawn(count, 5, 4), {"dynamic": {"x": {1: "length"}}}),
    "LSTM": sequences(VariationalLSTM, {}),
    "GRU": sequences(VariationalGRU, {"bias": False}),
    "RNN": sequences(VariationalRNN, {"nonlinearity": "tanh"}, {"nonlinearity": "relu"}),
    "an input that is dropped itself": Net(Tied, lambda count: drawn(count, 24)),
}  # fmt: skip
