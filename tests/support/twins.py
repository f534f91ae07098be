"""All networks with a hand-written twin: nets.py, handmade.py, and those whose noise is another or inside torch."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.handmade import HANDMADE
from tests.support.nets import (
    AlwaysOn,
    Autocast,
    BatchNorm,
    Channels1d,
    Channels2d,
    Channels3d,
    ChannelsInPlace,
    Checkpointed,
    FoldedTime,
    Functional,
    InPlace,
    LastLayer,
    NoisyWeights,
    OwnLaw,
    ParallelBranches,
    Recurrent,
    Residual,
    SequenceFirst,
    StackedViews,
    StochasticDepth,
    Twin,
    TwoSites,
    WithoutGradient,
)


class Alpha(Twin):
    """Dropped units take SELU's floor; scale and shift keep mean 0 and variance 1 (Klambauer et al. 2017)."""

    kind = "alpha_dropout"
    floor = -1.7580993408473766
    sites = (((3,), 0.5),)

    def __init__(self):
        super().__init__()
        self.drop = nn.AlphaDropout(0.5)
        variance = 0.5 * (1 + self.floor**2 * 0.5)
        self.scale = variance**-0.5
        self.shift = -self.scale * 0.5 * self.floor

    def masked(self, x, masks):
        h = torch.where(masks[0] > 0, self.body(x), self.floor)
        return self.head(h * self.scale + self.shift)


class AlphaInPlace(Alpha):
    def forward(self, x):
        return self.head(F.alpha_dropout(self.body(x), 0.5, self.training, inplace=True))


class AlphaChannels(Alpha):
    kind = "feature_alpha_dropout"
    row = (3, 2)

    def __init__(self):
        super().__init__()
        self.drop = nn.FeatureAlphaDropout(0.5)

    def forward(self, x):
        return self.head(self.drop(x).tanh().sum(2))

    def masked(self, x, masks):
        h = torch.where(masks[0].unsqueeze(-1) > 0, x, self.floor)
        return self.head((h * self.scale + self.shift).tanh().sum(2))


class Probabilities(Twin):
    """Bernoulli draws whose probabilities are values of the network; here the same for all rows."""

    kind = "bernoulli"
    sites = (((3,), 0.25),)

    def forward(self, x):
        h = self.body(x)
        keep = (h * 0 + 0.75).clamp(0, 1)
        return self.head(h * (torch.bernoulli(keep) if self.training else keep))

    def masked(self, x, masks):
        return self.head(self.body(x) * (masks[0] > 0))


class DrawnBranch(Twin):
    """Stochastic depth as libraries write it: a mask of 0 and 1 that the network scales."""

    kind = "unscaled"
    sites = (((1,), 0.5),)

    def drawn(self, h):
        return h.new_empty(h.shape[0], 1).bernoulli_(0.5)

    def forward(self, x):
        h = self.body(x)
        return self.head(h * self.drawn(h).div_(0.5) if self.training else h)


class FlooredBranch(DrawnBranch):
    def drawn(self, h):
        noise = 0.5 + torch.rand((h.shape[0], 1), dtype=h.dtype, device=h.device)
        return noise.floor_()


class EmptyBranch(DrawnBranch):
    def drawn(self, h):
        return torch.empty((h.shape[0], 1), dtype=h.dtype, device=h.device).bernoulli_(0.5)


class DrawnUnits(DrawnBranch):
    """The first form of dropout: nothing is scaled in training."""

    sites = (((3,), 0.25),)

    def forward(self, x):
        h = self.body(x)
        return self.head(h * torch.empty_like(h).bernoulli_(0.75) if self.training else h * 0.75)

    def masked(self, x, masks):
        return self.head(self.body(x) * (masks[0] > 0))


class FlooredUnits(DrawnUnits):
    def forward(self, x):
        h = self.body(x)
        return self.head(h * (torch.rand_like(h) + 0.75).floor() if self.training else h * 0.75)


class Attention(Twin):
    """Dropout inside torch's attention; the first key is masked for the second query."""

    row = (2, 2)
    sites = (((2, 2), 0.5),)

    def forward(self, x):
        h, mask = self.body(x), torch.tensor([[True, True], [False, True]])
        h = F.scaled_dot_product_attention(h, h, h.tanh(), mask, dropout_p=0.5 * self.training)
        return self.head(h).sum(1)

    def masked(self, x, masks):
        h = self.body(x)
        scores = (h @ h.mT / 3**0.5).masked_fill(torch.tensor([[False, False], [True, False]]), -torch.inf)
        return self.head((scores.softmax(-1) * masks[0]) @ h.tanh()).sum(1)


class CausalAttention(Attention):
    def forward(self, x):
        h = self.body(x)
        h = F.scaled_dot_product_attention(h, h, h.tanh(), dropout_p=0.5 * self.training, is_causal=True, scale=0.3)
        return self.head(h).sum(1)

    def masked(self, x, masks):
        h = self.body(x)
        scores = (h @ h.mT * 0.3).masked_fill(torch.tensor([[False, True], [False, False]]), -torch.inf)
        return self.head((scores.softmax(-1) * masks[0]) @ h.tanh()).sum(1)


class StackedLSTM(Twin):
    """Dropout between torch's recurrent layers."""

    row = (2, 2)
    sites = (((2, 3), 0.5),)
    layer = nn.LSTM

    def __init__(self):
        super().__init__()
        self.body = self.layer(2, 3, num_layers=2, batch_first=True, dropout=0.5)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])

    def masked(self, x, masks):
        first, second = self.layer(2, 3, batch_first=True), self.layer(3, 3, batch_first=True)
        for part, number in ((first, 0), (second, 1)):
            weights = {name: getattr(self.body, name.replace("l0", f"l{number}")) for name in part.state_dict()}
            part.to(self.dtype).load_state_dict(weights)
        return self.head(second(first(x)[0] * masks[0])[0][:, -1])


class StackedGRU(StackedLSTM):
    layer = nn.GRU


class StackedRNN(StackedLSTM):
    layer = nn.RNN


class SequenceFirstLSTM(StackedLSTM):
    """Steps on axis 0, and an answer that is the last state."""

    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(2, 3, num_layers=2, dropout=0.5)

    def forward(self, x):
        return self.head(self.body(x.transpose(0, 1))[1][0][-1])


TWINS = [
    LastLayer, TwoSites, Residual, ParallelBranches, FoldedTime, SequenceFirst, StackedViews, NoisyWeights,
    Channels1d, Channels2d, Channels3d, ChannelsInPlace, InPlace, Functional, AlwaysOn, StochasticDepth, Recurrent,
    Attention, CausalAttention, StackedLSTM, StackedGRU, StackedRNN, SequenceFirstLSTM, Alpha, AlphaInPlace,
    AlphaChannels, Probabilities, DrawnBranch, FlooredBranch, EmptyBranch, DrawnUnits, FlooredUnits, BatchNorm,
    OwnLaw, WithoutGradient, Checkpointed, Autocast, *HANDMADE,
]  # fmt: skip
