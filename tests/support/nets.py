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
