"""Networks that cannot be captured, or are not what their dropout promises. "# named" marks the line an error names."""

import inspect
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Parts(nn.Module):
    """Two linear layers and a dropout, for subclasses to put together."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)


def line_of(kind):
    """The file and line that a network marks, or an empty string."""
    lines, first = inspect.getsourcelines(kind)
    marked = [number for number, line in enumerate(lines, start=first) if "# named" in line]
    return f"{inspect.getsourcefile(kind)}:{marked[0]}" if marked else ""


class HasNoDropout(Parts):
    def forward(self, x):
        return self.head(self.body(x))


class DropsAtRate0(Parts):
    def forward(self, x):
        return self.head(F.dropout(self.body(x), 0.0, self.training))


class DropsBesideItsOutput(Parts):
    def forward(self, x):
        self.drop(x)
        return self.head(self.body(x))


class AsksForTheLength(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x))).reshape(len(x), 2)


class SelectsByValue(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h) + h[h > 0].sum()  # named


class DrawsWholeNumbers(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)) * torch.randint(0, 3, (6,)))  # named


class Shuffles(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)[:, torch.randperm(6)]))  # named


class DrawsPoissonNoise(Parts):
    def forward(self, x):
        return self.head(torch.poisson(self.body(x).exp()))  # named


class ScalesByRandom(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)) * random.random())  # named


class ScalesByNumpy(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)) * float(np.random.rand()))  # noqa: NPY002  # named


class ScalesByAnUnseededNumpyGenerator(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)) * float(np.random.default_rng().random()))  # named


class HoldsRandomConstants(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)) + torch.tensor([random.random()]))  # named


class DecidesByRandom(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h.relu() if random.random() < 0.5 else h)


class DecidesByRandomButRarely(Parts):
    """Two captures would hardly ever differ."""

    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h.relu() if random.random() < 1e-9 else h)


class DecidesByNumpyButRarely(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h.relu() if np.random.rand() < 1e-9 else h)  # noqa: NPY002


class DecidesOnADraw(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h.relu() if torch.rand(1).item() < 0.5 else h)  # named


class DecidesOnAValue(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return self.head(h.relu() if h.sum() > 0 else h)  # named


class FixesTheNumberOfRows(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x)).view(4, -1))


class SubtractsTheMeanRow(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x - x.mean(0))))  # named


class NormsByTheBatch(Parts):
    def forward(self, x):
        return self.head(self.drop(F.batch_norm(self.body(x), None, None, training=True)))  # named


class ReturnsTwoValues(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return h, self.head(h)


class ChangesItsInput(Parts):
    def forward(self, x):
        x.add_(1)
        return self.head(self.drop(self.body(x)))


class BranchesInsideTheGraph(Parts):
    def forward(self, x):
        h = self.drop(self.body(x))
        return torch.cond(x.sum() > 0, self.head, lambda h: self.head(-h), (h,))  # named


class DropsInsideABranch(Parts):
    def forward(self, x):
        h = self.body(x)
        return self.head(torch.cond(x.sum() > 0, lambda h: F.dropout(h, 0.5), lambda h: -h, (h,)))


class DropsInsideABranchOfABranch(Parts):
    def forward(self, x):
        h = self.body(x)

        def inner(h):
            return torch.cond(h.sum() > 0, lambda h: F.dropout(h, 0.5), lambda h: -h, (h,))

        return self.head(torch.cond(x.sum() > 0, inner, lambda h: h + 1, (h,)))


class ScalesByAFractionOfRows(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x))) * (x.shape[0] / 2)  # named


class AddsAConstantInTraining(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x))) + (1.0 if self.training else 0.0)


class AddsNoiseTimes0(nn.Module):
    def forward(self, x):
        return x + 0 * F.dropout(x, 0.5, self.training)


class MultipliesItsNoiseBy0(Parts):
    def forward(self, x):
        h = self.head(self.body(x))
        return h + 0 * F.dropout(h, 0.5, self.training)


class ScalesByTheNumberOfRows(Parts):
    def forward(self, x):
        return self.head(self.drop(self.body(x))) * x.shape[0]


class CountsItsCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x


class CountsItsTraining(nn.Module):
    """A block with statistics of its own around another."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls.add_(1)
        return self.block(x)


class CountsAndDrops(CountsItsTraining):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


class DropsOnAMarkedLine(Parts):
    """Not refused: the line is that of its site."""

    def forward(self, x):
        h = self.body(x)
        h = F.dropout(h, 0.3, self.training)  # named
        return self.head(h)


class PacksItsSequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 3, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        lengths = torch.full((x.shape[0],), 2)
        packed = nn.utils.rnn.pack_padded_sequence(x.unsqueeze(-1), lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]
