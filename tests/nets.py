"""Small networks, each with a hand-written twin: its forward with the masks given, the oracle of the engine."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Twin(nn.Module):
    """Two linear layers around a dropout; subclasses say where the noise goes.

    row: the shape of an input row. sites: for each site the shape of one pass's mask, rows left out, and its rate.
    kind: that of the sites.
    """

    kind: ClassVar[str] = "dropout"

    row: ClassVar[tuple[int, ...]] = (2,)
    sites: ClassVar[Sequence[tuple[tuple[int, ...], float]]] = (((3,), 0.5),)
    dtype: ClassVar[torch.dtype] = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.drop = nn.Dropout(self.sites[0][1])
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x)))

    def masked(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        return self.head(self.body(x) * masks[0])


class LastLayer(Twin):
    pass


class TwoSites(Twin):
    sites = (
        ((3,), 0.5),
        ((3,), 0.2),
    )

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(3, 3)
        self.second = nn.Dropout(0.2)

    def forward(self, x):
        return self.head(self.second(self.middle(self.drop(self.body(x)).tanh()).tanh()))

    def masked(self, x, masks):
        return self.head(self.middle((self.body(x) * masks[0]).tanh()).tanh() * masks[1])


class Residual(Twin):
    def forward(self, x):
        h = self.body(x)
        return self.head(h + self.drop(h.tanh()))

    def masked(self, x, masks):
        h = self.body(x)
        return self.head(h + h.tanh() * masks[0])


class ParallelBranches(Twin):
    def __init__(self):
        super().__init__()
        self.quiet = nn.Linear(2, 2)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.cat([self.quiet(x), self.drop(self.body(x))], dim=1).tanh())

    def masked(self, x, masks):
        return self.head(torch.cat([self.quiet(x), self.body(x) * masks[0]], dim=1).tanh())


class FoldedTime(Twin):
    """Time-distributed: steps are folded into rows, each with noise of its own, beside a quiet branch."""

    row = (2, 2)
    sites = (((2, 3), 0.5),)

    def forward(self, x):
        h = self.body(x.view(-1, 2))
        return self.head(h + self.drop(h.tanh())).tanh().view(x.shape[0], 2, 2).mean(1)

    def step(self, x, mask):
        h = self.body(x)
        return self.head(h + h.tanh() * mask).tanh()

    def masked(self, x, masks):
        return torch.stack([self.step(x[:, t], masks[0][t]) for t in (0, 1)]).mean(0)


class SequenceFirst(FoldedTime):
    """Rows lie on axis 1 where the noise enters."""

    def forward(self, x):
        h = self.body(x.transpose(0, 1))
        return self.head(h + self.drop(h.tanh())).tanh().mean(0)


class StackedViews(FoldedTime):
    """Two views of each row one below the other: as many rows as folded time, in another order."""

    row = (2,)

    def forward(self, x):
        h = self.body(torch.cat([x, -x]))
        return self.head(h + self.drop(h.tanh())).tanh().view(2, -1, 2).mean(0)

    def masked(self, x, masks):
        return super().masked(torch.stack([x, -x], dim=1), masks)


class NoisyWeights(Twin):
    """Dropout on weights: one draw a pass."""

    sites = (((3, 2), 0.5),)

    def forward(self, x):
        return self.head(F.linear(x, self.drop(self.body.weight), self.body.bias).tanh())

    def masked(self, x, masks):
        return self.head((x @ (self.body.weight * masks[0]).T + self.body.bias).tanh())


class Channels1d(Twin):
    """Feature dropout takes whole channels, axis 1."""

    kind = "feature_dropout"
    row = (3, 2)
    sites = (((3,), 0.25),)
    dims = 1
    layer = nn.Dropout1d

    def __init__(self):
        super().__init__()
        self.drop = self.layer(0.25)

    def forward(self, x):
        return self.head(self.drop(x).tanh().flatten(2).sum(2))

    def masked(self, x, masks):
        return self.head((x * masks[0].reshape(3, *[1] * self.dims)).tanh().flatten(2).sum(2))


class Channels2d(Channels1d):
    row, dims, layer = (3, 2, 2), 2, nn.Dropout2d


class Channels3d(Channels1d):
    row, dims, layer = (3, 2, 1, 2), 3, nn.Dropout3d


class ChannelsInPlace(Channels2d):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout2d(0.25, inplace=True)

    def forward(self, x):
        return super().forward(x * 1)


class InPlace(Twin):
    sites = (((3,), 0.25),)

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.25, inplace=True)


class Functional(Twin):
    sites = (((3,), 0.25),)

    def forward(self, x):
        return self.head(F.dropout(self.body(x), 0.25, self.training))


class AlwaysOn(Twin):
    """The classic recipe: a dropout that eval mode does not switch off."""

    def forward(self, x):
        return self.head(F.dropout(self.body(x)))


class StochasticDepth(Twin):
    """A whole branch is on or off, by the rewrite that DataDependent advises."""

    sites = (((1,), 0.5),)

    def forward(self, x):
        return self.head(self.body(x) * F.dropout(x.new_ones(x.shape[0], 1), 0.5, training=True))


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


class Recurrent(Twin):
    """The recurrent layer's zero state is made for the rows of the suffix, not of the prefix."""

    row = (2, 2)
    sites = (((2, 2), 0.5),)

    def __init__(self):
        super().__init__()
        self.body = nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.head(self.body(self.drop(x))[0][:, -1])

    def masked(self, x, masks):
        return self.head(self.body(x * masks[0])[0][:, -1])


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


class BatchNorm(Twin):
    """Running statistics are those of the model, also while its dropout is on."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 1, 2)

    def forward(self, x):
        return self.head(self.norm(self.drop(self.body(x))))

    def masked(self, x, masks):
        norm = self.norm
        h = (self.body(x) * masks[0] - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return self.head(h * norm.weight + norm.bias)


class OwnLaw(Twin):
    """Its Monte Carlo law is not its training law, and it says so."""

    def forward(self, x):
        h = self.body(x)
        if torch.compiler.is_exporting():
            return self.head(self.drop(h))
        return self.head(h * (1 + torch.randn_like(h)) if self.training else h)


class WithoutGradient(Twin):
    def forward(self, x):
        with torch.no_grad():
            h = self.drop(self.body(x))
        return self.head(h)


class Checkpointed(Twin):
    def forward(self, x):
        return self.head(checkpoint(lambda y: self.drop(self.body(y)), x, use_reentrant=False))


class Autocast(Twin):
    dtype = torch.float32

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.drop(self.body(x))
        return self.head(h.float())

    def masked(self, x, masks):
        h = F.linear(*(each.bfloat16() for each in (x, self.body.weight, self.body.bias)))
        return self.head(h.float() * masks[0])


class Rich(nn.Module):
    """Running statistics, power iterations, tied weights, a buffer that is not saved, and a plain tensor."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.norm = nn.BatchNorm1d(4)
        self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4)
        self.third.weight = self.second.weight
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)
        self.shift = torch.full((4,), 3.0)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)

    def forward(self, x):
        h = F.dropout(self.norm(self.first(x)), 0.5, self.training)
        return self.frozen(self.third(self.second(h)) * self.scale + self.shift)


TWINS = [
    LastLayer, TwoSites, Residual, ParallelBranches, FoldedTime, SequenceFirst, StackedViews, NoisyWeights,
    Channels1d, Channels2d, Channels3d, ChannelsInPlace, InPlace, Functional, AlwaysOn, StochasticDepth, Recurrent,
    Attention, CausalAttention, StackedLSTM, StackedGRU, StackedRNN, SequenceFirstLSTM, Alpha, AlphaInPlace,
    AlphaChannels, Probabilities, DrawnBranch, FlooredBranch, EmptyBranch, DrawnUnits, FlooredUnits, BatchNorm,
    OwnLaw, WithoutGradient, Checkpointed, Autocast,
]  # fmt: skip
