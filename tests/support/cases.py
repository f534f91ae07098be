"""Every variant of dropout_core.layers as a row of one table: its training law and its Monte Carlo law.

The laws that run over all rows are in tests/dropout_core/layers/test_laws.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropout_core import layers
from tests.support import moments
from tests.support.moments import (
    alpha_mean,
    alpha_variance,
    bias_only,
    concrete_mean,
    concrete_variance,
    of_alpha,
    of_alpha_kernel,
    of_kernel,
    of_weights,
    standout_mean,
    standout_variance,
    without_dropout,
)

Moments = Callable[[nn.Module, Tensor], Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def away_from_zero(shape, generator):
    """Numbers of either sign, none of them near 0, so that a 0 in an output was dropped."""
    signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    return signs * (0.5 + torch.rand(shape, generator=generator))


def itself(_layer, x):
    return x


def inverted(layer, x):
    """The variance of x · m / (1 − p), whichever units share their m."""
    return x.square() * layer.p / (1 - layer.p)


def each_unit(dropped):
    return dropped.flatten(1)


def each_channel(dropped):
    channels = dropped.flatten(2)
    assert (channels == channels[..., :1]).all(), "a channel is dropped in part"
    return channels[..., 0]


@dataclass(frozen=True)
class Case:
    """One variant, and what is true of it.

    make: the layer at a drop probability. row: the shape of one input row. sample: (shape, generator) → inputs.
    mean, variance: the exact moments of each element of the output in training, from (layer, x); None where they have
    no closed form (then the family's own tests enumerate). passes_mean, passes_variance: those of Monte Carlo passes,
    where they are others. off: the output in eval mode, where it is not the mean.
    kept: what a kept unit is multiplied by at a drop probability, where a unit is either 0 or kept. units: from
    "dropped" [B, *row] to one boolean for each draw [B, n]; asserts that what shares a draw agrees.
    rated: whether it has one drop probability that is given. per_batch: training draws once for a batch. kinds: of its
    sites in a capture. no_rate: p = 0 is "identity" or "refused"; full_rate: p = 1 is "zero" or "refused", or has an
    output of its own. refused: input shapes that are no input. dtypes: of the inputs it takes.
    smooth: whether the gradient of a draw is that of finite differences; not where keep probabilities that depend on
    the input are taken as constants (then the family's own tests say what it is).
    """

    name: str
    make: Callable[[float], nn.Module]
    row: tuple[int, ...]
    sample: Callable[[tuple[int, ...], torch.Generator], Tensor] = away_from_zero
    mean: Moments | None = itself
    variance: Moments | None = inverted
    passes_mean: Moments | None = None
    passes_variance: Moments | None = None
    off: Moments | None = None
    kept: Callable[[float], float] | None = None
    units: Callable[[Tensor], Tensor] = each_unit
    rated: bool = True
    per_batch: bool = False
    kinds: tuple[str, ...] = ("dropout",)
    no_rate: str = "identity"
    full_rate: str | Moments = "zero"
    refused: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOATS
    smooth: bool = True

    @property
    def has_gradient(self) -> bool:
        """Whether there is an input or a parameter that gradients flow to."""
        return self.rows(1).is_floating_point() or any(True for _ in self.layer().parameters())

    def layer(self, p: float = 0.3, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The layer in training mode, with weights drawn under one seed."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make(p).to(dtype).train()

    def rows(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """So many rows, the same at each call."""
        x = self.sample((count, *self.row), torch.Generator().manual_seed(count))
        return x.to(dtype) if x.is_floating_point() else x


def inverse_keep(p):
    return 1 / (1 - p)


def words(shape, generator):
    return torch.randint(0, 5, shape, generator=generator)


def embedded(layer, tokens):
    return torch.stack([torch.stack([layer.weight[token] for token in row]) for row in tokens])


def embedded_variance(layer, tokens):
    return embedded(layer, tokens).square() * layer.p / (1 - layer.p)


def unknown_mean(layer, tokens):
    return torch.where(tokens == 0, 0.0, tokens * (1 - layer.p) + 9 * layer.p)


def unknown_variance(layer, tokens):
    return torch.where(tokens == 0, 0.0, (9.0 - tokens).square() * layer.p * (1 - layer.p))


class Numbers(nn.Module):
    """Tokens as float64, so that moments can be taken of them."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("one", torch.tensor(1.0))

    @property
    def p(self):
        return self.layer.p

    def forward(self, tokens):
        return self.layer(tokens) * self.one


CASES = [
    Case("Dropout", layers.Dropout, (6,), kept=inverse_keep),
    Case("AlphaDropout", layers.AlphaDropout, (6,), mean=alpha_mean, variance=alpha_variance, off=itself,
         kinds=("alpha_dropout",)),
    Case("SpatialDropout1d", layers.SpatialDropout1d, (3, 4), kept=inverse_keep, units=each_channel,
         kinds=("feature_dropout",), refused=((3, 4), (2, 3, 4, 4))),
    Case("SpatialDropout2d", layers.SpatialDropout2d, (3, 2, 4), kept=inverse_keep, units=each_channel,
         kinds=("feature_dropout",), refused=((3, 4, 4), (2, 3))),
    Case("SpatialDropout3d", layers.SpatialDropout3d, (3, 2, 2, 2), kept=inverse_keep, units=each_channel,
         kinds=("feature_dropout",), refused=((3, 4, 4, 4),)),
    Case("GaussianDropout", layers.GaussianDropout, (6,), kinds=("normal",), full_rate="refused"),
    Case("GroupDropout", lambda p: layers.GroupDropout([0, 1, 0, 2], p), (4, 3), kept=inverse_keep,
         units=lambda dropped: each_channel(dropped)[:, [0, 1, 3]], refused=((2, 5), (4,))),
    Case("DropConnectLinear", lambda p: layers.DropConnectLinear(3, 4, p), (3,), mean=without_dropout,
         variance=of_weights, full_rate=bias_only, refused=((2, 4), (3,))),
    Case("DropConnectLinear, one mask a batch", lambda p: layers.DropConnectLinear(3, 4, p, per="batch"), (2, 3),
         mean=without_dropout, variance=of_weights, full_rate=bias_only, per_batch=True),
    Case("DropConnectLinear, by moments", lambda p: layers.DropConnectLinear(3, 4, p, monte_carlo="moments"), (3,),
         mean=without_dropout, variance=of_weights, full_rate=bias_only, kinds=("normal",)),
    Case("DropConnectConv1d", lambda p: layers.DropConnectConv1d(2, 4, 3, p=p, padding=1, padding_mode="circular"),
         (2, 5), mean=without_dropout, variance=of_kernel, full_rate=bias_only, refused=((2, 5),)),
    Case("DropConnectConv2d", lambda p: layers.DropConnectConv2d(2, 4, 2, p=p, stride=2, groups=2), (2, 4, 4),
         mean=without_dropout, variance=of_kernel, full_rate=bias_only, refused=((2, 4, 4),)),
    Case("VariationalLinear", lambda p: layers.VariationalLinear(3, 4, p), (3,), mean=without_dropout,
         variance=of_alpha, kinds=("normal",), no_rate="refused", full_rate="refused", refused=((2, 4), (3,))),
    Case("VariationalLinear, one rate a unit", lambda p: layers.VariationalLinear(3, 4, p, share="unit"), (2, 3),
         mean=without_dropout, variance=of_alpha, kinds=("normal",), no_rate="refused", full_rate="refused"),
    Case("VariationalConv2d", lambda p: layers.VariationalConv2d(2, 3, 2, p=p, padding=1, share="layer"), (2, 3, 3),
         mean=without_dropout, variance=of_alpha_kernel, kinds=("normal",), no_rate="refused", full_rate="refused",
         refused=((2, 3, 3),)),
    Case("ConcreteDropout", layers.ConcreteDropout, (6,), mean=concrete_mean, variance=concrete_variance,
         passes_mean=itself, passes_variance=inverted, off=itself, kinds=("bernoulli",), no_rate="refused",
         full_rate="refused"),
    Case("ConcreteDropout, below a half", lambda p: layers.ConcreteDropout(p, temperature=0.5, limit=0.5), (6,),
         mean=concrete_mean, variance=concrete_variance, passes_mean=itself, passes_variance=inverted, off=itself,
         kinds=("bernoulli",), no_rate="refused", full_rate="refused"),
    Case("ConcreteSpatialDropout", layers.ConcreteSpatialDropout, (3, 2, 2), mean=concrete_mean,
         variance=concrete_variance, passes_mean=itself, passes_variance=inverted, off=itself, kinds=("bernoulli",),
         no_rate="refused", full_rate="refused", refused=((2, 3),)),
    Case("AdaptiveDropout", lambda _: layers.AdaptiveDropout(nn.ReLU(), 2.0, -0.5), (6,), mean=standout_mean,
         variance=standout_variance, kinds=("bernoulli",), rated=False),
    Case("EmbeddingDropout", lambda p: layers.EmbeddingDropout(5, 3, p), (4,), sample=words, mean=embedded,
         variance=embedded_variance),
    Case("EmbeddingDropout, one mask a batch", lambda p: layers.EmbeddingDropout(5, 3, p, per="batch"), (4,),
         sample=words, mean=embedded, variance=embedded_variance, per_batch=True),
    Case("WordDropout", lambda p: Numbers(layers.WordDropout(p, unknown=9, spared=(0,))), (4,), sample=words,
         mean=unknown_mean, variance=unknown_variance, off=lambda _, tokens: tokens.double(),
         full_rate=lambda _, tokens: 9.0 * (tokens != 0).double()),
    Case("LockedDropout", layers.LockedDropout, (4, 3), kept=inverse_keep,
         units=moments.each_feature, refused=((4, 3), (2, 4, 3, 1))),
    Case("VariationalLSTM", lambda p: moments.Sequences(layers.VariationalLSTM(3, 4, p_input=p, p_recurrent=p,
         p_output=p)), (5, 3), mean=None, kinds=("dropout",) * 3, refused=((5, 3), (2, 5, 4), (2, 0, 3))),
    Case("VariationalLSTM, both ways, of lengths", lambda p: moments.Padded(layers.VariationalLSTM(3, 2, 2,
         bidirectional=True, p_recurrent=p)), (5, 3), sample=moments.padded, mean=None, kinds=("dropout",) * 2,
         full_rate=moments.without_recurrence),
    Case("VariationalGRU", lambda p: moments.Sequences(layers.VariationalGRU(3, 4, p_recurrent=p)), (5, 3), mean=None,
         full_rate=moments.without_recurrence, refused=((5, 3), (2, 5, 4), (2, 0, 3))),
    Case("VariationalGRU, outputs alone", lambda p: moments.Padded(layers.VariationalGRU(3, 4, bias=False,
         bidirectional=True, p_output=p)), (5, 3), sample=moments.padded, mean=without_dropout,
         variance=moments.of_outputs),
    Case("VariationalRNN", lambda p: moments.Sequences(layers.VariationalRNN(3, 4, p_input=p, p_recurrent=p)), (5, 3),
         mean=None, kinds=("dropout",) * 2, full_rate=moments.bias_over_time, refused=((5, 3), (2, 5, 4), (2, 0, 3))),
    Case("VariationalRNN, ReLU", lambda p: moments.Sequences(layers.VariationalRNN(3, 4, nonlinearity="relu",
         p_recurrent=p)), (5, 3), mean=None, full_rate=moments.without_recurrence),
    Case("AttentionDropout", layers.AttentionDropout, (2, 3, 4), sample=moments.weights_of_rows, kept=inverse_keep,
         refused=((4,),)),
    Case("AttentionDropout, guided", lambda p: layers.AttentionDropout(p, guided=True), (3, 4),
         sample=moments.weights_of_rows, variance=moments.guided_variance, kinds=("bernoulli",), smooth=False),
    Case("MultiheadAttention", lambda p: moments.Attended(layers.MultiheadAttention(4, 2, p)), (3, 4),
         mean=without_dropout, variance=moments.attended_variance, full_rate=moments.last_bias,
         refused=((2, 4), (2, 3, 5))),
    Case("MultiheadAttention, guided", lambda p: moments.Attended(layers.MultiheadAttention(4, 2, p, guided=True)),
         (3, 4), mean=without_dropout, variance=moments.attended_variance, kinds=("bernoulli",),
         full_rate=moments.last_bias, smooth=False),
    Case("DropEdge", layers.DropEdge, (3, 3), sample=moments.graphs, mean=None, off=moments.normalized,
         full_rate=lambda _, a: torch.eye(3).expand_as(a).to(a.dtype), refused=((2, 3, 4), (2, 2, 3, 3), (3, 4))),
    Case("DropEdge, edges alone", lambda p: layers.DropEdge(p, normalize=False), (3, 3), sample=moments.graphs,
         mean=moments.edges_mean, variance=moments.edges_variance, off=itself, kept=lambda _: 1.0,
         units=moments.each_pair, full_rate=moments.loops_only),
    Case("DropEdge, directed", lambda p: layers.DropEdge(p, undirected=False, normalize=False), (3, 3),
         sample=moments.graphs, mean=moments.edges_mean, variance=moments.edges_variance, off=itself,
         kept=lambda _: 1.0, units=moments.each_edge, full_rate=moments.loops_only),
    Case("DropNode", layers.DropNode, (4, 3), kept=inverse_keep, units=moments.each_node, kinds=("feature_dropout",),
         refused=((4, 3), (2, 4, 3, 1))),
    Case("FeatureDropout", layers.FeatureDropout, (4, 3), kept=inverse_keep, units=moments.each_feature,
         refused=((4, 3), (2, 4, 3, 1))),
    Case("DropBlock1d", lambda p: layers.DropBlock1d(p, 3), (2, 5), kept=inverse_keep, kinds=("bernoulli",),
         refused=((2, 5), (2, 2, 5, 5), (2, 2, 2))),
    Case("DropBlock2d", lambda p: layers.DropBlock2d(p, 3), (2, 3, 5), kept=inverse_keep, kinds=("bernoulli",),
         refused=((2, 5, 5), (2, 2, 2, 5), (2, 2, 5, 2))),
    Case("DropBlock2d, even blocks", lambda p: layers.DropBlock2d(p, 4), (2, 5, 4), kept=inverse_keep,
         kinds=("bernoulli",)),
    Case("DropBlock1d, by counts", lambda p: layers.DropBlock1d(p, 2, count_normalized=True), (3, 5), mean=None),
    Case("DropBlock2d, by counts", lambda p: layers.DropBlock2d(p, 2, count_normalized=True), (3, 4, 5), mean=None,
         refused=((2, 5, 5), (2, 3, 1, 5))),
    Case("DropPath", layers.DropPath, (2, 3), kept=inverse_keep, units=moments.each_row, refused=((),)),
    Case("DropPath, one draw a batch", lambda p: layers.DropPath(p, per="batch"), (2, 3), kept=inverse_keep,
         units=moments.each_row, per_batch=True),
    Case("DropPath, classic", lambda p: layers.DropPath(p, classic=True), (2, 3), mean=moments.classic_mean,
         variance=moments.classic_variance, kept=lambda _: 1.0, units=moments.each_row, kinds=("bernoulli",)),
    Case("StochasticDepth", lambda p: layers.StochasticDepth(nn.Linear(3, 3), p), (2, 3), mean=moments.branched_mean,
         variance=moments.branched_variance, full_rate=itself),
    Case("StochasticDepth, one draw a batch", lambda p: layers.StochasticDepth(nn.Linear(3, 3), p, per="batch"), (3,),
         mean=moments.branched_mean, variance=moments.branched_variance, full_rate=itself, per_batch=True),
    Case("StochasticDepth, classic", lambda p: layers.StochasticDepth(nn.Linear(3, 3), p, per="batch", classic=True),
         (3,), mean=moments.branched_mean, variance=moments.branched_variance, full_rate=itself, per_batch=True,
         kinds=("bernoulli",)),
    Case("ClassicDropout", layers.ClassicDropout, (6,), mean=moments.classic_mean, variance=moments.classic_variance,
         kept=lambda _: 1.0, kinds=("bernoulli",)),
]  # fmt: skip
