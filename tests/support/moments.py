"""Exact moments and inputs for the table of cases, by hand."""

import torch
import torch.nn.functional as F
from torch import nn

SELU_FLOOR = -1.7580993408473766


def alpha_scale(p):
    return ((1 - p) * (1 + p * SELU_FLOOR**2)) ** -0.5


def alpha_mean(layer, x):
    return alpha_scale(layer.p) * (1 - layer.p) * x


def alpha_variance(layer, x):
    return alpha_scale(layer.p) ** 2 * layer.p * (1 - layer.p) * (x - SELU_FLOOR).square()


def without_dropout(layer, x):
    return layer.eval()(x)


def of_weights(layer, x):
    """The variance of a sum whose weights are dropped one by one: by hand, over the weights of a linear layer."""
    return layer.p / (1 - layer.p) * (x.square() @ layer.weight.square().T)


def bias_only(layer, x):
    return layer.eval()(torch.zeros_like(x))


def of_kernel(layer, x):
    """The same for a convolution: what each weight adds to each output, one at a time."""
    weight, total = layer.weight, 0
    for index in range(weight.numel()):
        one = torch.zeros_like(weight).flatten()
        one[index] = weight.flatten()[index]
        total = total + layer._linear(x, one.reshape(weight.shape), None).square()
    return layer.p / (1 - layer.p) * total


def of_alpha(layer, x):
    """The same with weights times N(1, α)."""
    return x.square() @ (layer.log_alpha.exp() * layer.weight.square()).T


def of_alpha_kernel(layer, x):
    """The same for a convolution, one kernel weight at a time."""
    noisy = (0.5 * layer.log_alpha).exp() * layer.weight
    alone = torch.eye(noisy.numel(), dtype=noisy.dtype).reshape(-1, *noisy.shape) * noisy
    return sum(F.conv2d(x, weight, None, layer.stride, layer.padding).square() for weight in alone)


def concrete_moments(layer):
    """Mean and variance of a concrete draw over 1 − p, by quadrature over its uniform noise."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    p = layer.p.detach()
    odds = (p / (1 - p)) * (u / (1 - u))
    draws = 1 / (1 + odds ** (1 / layer.temperature)) / (1 - p)
    return draws.mean(), draws.var(unbiased=False)


def concrete_mean(layer, x):
    return x * concrete_moments(layer)[0]


def concrete_variance(layer, x):
    return x.square() * concrete_moments(layer)[1]


def standout_keep(z):
    return 1 / (1 + torch.exp(-(2.0 * z - 0.5)))


def standout_mean(_layer, z):
    return z.clamp(min=0) * standout_keep(z)


def standout_variance(_layer, z):
    return z.clamp(min=0).square() * standout_keep(z) * (1 - standout_keep(z))


def weights_of_rows(shape, generator):
    """Attention weights: each row adds up to 1."""
    return (2 * torch.randn(shape, generator=generator)).softmax(-1)


def guided_keep(weights, p):
    """The keep probabilities of one row of weights: the slow twin of layers.attention.guided_keep."""
    present = [weight for weight in weights if weight > 0]
    mean = sum(present) / len(present)
    shares = [mean / (mean + weight) for weight in present]
    strength = 1.0 if p <= 7 / 15 else 7 * (1 - p) / (8 * p)
    scale = strength * p * len(present) / sum(shares)
    return [1 - p + p * strength - scale * mean / (mean + weight) if weight > 0 else 1.0 for weight in weights]


def guided_odds(weights, p):
    """(1 − keep) / keep of every weight [*, K]."""
    rows = weights.double().reshape(-1, weights.shape[-1]).tolist()
    keep = torch.tensor([guided_keep(row, p) for row in rows], dtype=torch.float64).reshape(weights.shape)
    return (1 - keep) / keep


def guided_variance(layer, weights):
    return weights.square() * guided_odds(weights, layer.p)


class Attended(nn.Module):
    """A MultiheadAttention by its output alone, with biases that are not 0."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        for bias in (attention.in_proj_bias, attention.out_proj.bias):
            nn.init.normal_(bias)

    @property
    def p(self):
        return self.attention.p

    def forward(self, x):
        return self.attention(x)[0]


def attention_parts(attention, x):
    """For each head its weights [B, Q, K], and what each key adds to the output at a weight of 1, [B, K, E]."""
    size, width = attention.embed_dim // attention.num_heads, attention.embed_dim
    projected = x @ attention.in_proj_weight.T + attention.in_proj_bias
    for start in range(0, width, size):
        q, k, v = (projected[..., part + start : part + start + size] for part in (0, width, 2 * width))
        scores = torch.einsum("bqd,bkd->bqk", q, k) / size**0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        yield weights, v @ attention.out_proj.weight[:, start : start + size].T


def attended_variance(layer, x):
    """The output is linear in the masks, which are independent: one term for each head and key."""
    total = 0
    for weights, added in attention_parts(layer.attention, x):
        odds = guided_odds(weights, layer.p) if layer.attention.guided else layer.p / (1 - layer.p)
        total = total + torch.einsum("bqk,bke->bqe", weights.square() * odds, added.square())
    return total


def last_bias(layer, x):
    return layer.attention.out_proj.bias.expand_as(x)


def graphs(shape, generator):
    """Symmetric adjacency matrices [B, N, N] without zeros, self-loops included."""
    a = 0.5 + torch.rand(shape, generator=generator)
    return (a + a.mT) / 2 if shape[-1] == shape[-2] else a


def each_pair(dropped):
    """Edges of an undirected graph: pairs go together, self-loops never."""
    assert (dropped == dropped.mT).all(), "one direction of an edge is dropped without the other"
    assert not dropped.diagonal(dim1=1, dim2=2).any(), "a self-loop is dropped"
    first, second = torch.triu_indices(*dropped.shape[1:], offset=1)
    return dropped[:, first, second]


def each_edge(dropped):
    """Edges of a directed graph: all but the self-loops, which stay."""
    assert not dropped.diagonal(dim1=1, dim2=2).any(), "a self-loop is dropped"
    return dropped[:, ~torch.eye(dropped.shape[1], dtype=torch.bool)]


def loops_only(_layer, adjacency):
    return torch.diag_embed(adjacency.diagonal(dim1=1, dim2=2))


def edges_mean(layer, adjacency):
    loops = loops_only(layer, adjacency)
    return (1 - layer.p) * (adjacency - loops) + loops


def edges_variance(layer, adjacency):
    return layer.p * (1 - layer.p) * (adjacency - loops_only(layer, adjacency)).square()


def normalized(_layer, adjacency):
    """Kipf and Welling's, one element at a time."""
    result = torch.zeros_like(adjacency)
    for graph, out in zip(adjacency, result, strict=True):
        degrees = [1 + float(row.sum()) for row in graph]
        for i, row in enumerate(graph):
            for j, weight in enumerate(row):
                out[i, j] = (weight + (i == j)) / (degrees[i] * degrees[j]) ** 0.5
    return result


def each_node(dropped):
    assert (dropped == dropped[..., :1]).all(), "a node is dropped in part"
    return dropped[..., 0]


def each_feature(dropped):
    assert (dropped == dropped[:, :1]).all(), "a feature is dropped at some nodes only"
    return dropped[:, 0]


class Sequences(nn.Module):
    """A recurrent layer by its output alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Padded(Sequences):
    """The same for rows of several lengths, which are read off the input."""

    def forward(self, x):
        return self.layer(x, (x[..., 0].abs() > 0.25).sum(1))[0]


def padded(shape, generator):
    """Sequences of lengths L, L − 1, … 0, L and so on, with zeros behind."""
    x = 0.5 + torch.rand(shape, generator=generator)
    steps = torch.arange(shape[1])
    lengths = shape[1] - torch.arange(shape[0]).unsqueeze(1) % (shape[1] + 1)
    return x * (steps < lengths).unsqueeze(-1)


def of_outputs(layer, x):
    p = layer.layer.p_output
    return layer.eval()(x).square() * p / (1 - p)


def with_zeros(layer, x, names):
    for name, value in layer.named_parameters():
        if names in name:
            nn.init.zeros_(value)
    return layer.eval()(x)


def without_recurrence(layer, x):
    return with_zeros(layer, x, "weight_hh")


def bias_over_time(layer, x):
    return with_zeros(layer, x, "weight")


def each_row(dropped):
    rows = dropped.flatten(1)
    assert (rows == rows[:, :1]).all(), "a row is dropped in part"
    return rows[:, :1]


def classic_mean(layer, x):
    return (1 - layer.p) * x


def classic_variance(layer, x):
    return layer.p * (1 - layer.p) * x.square()


def branched_mean(layer, x):
    return x + layer.branch(x) * (1 - layer.p if layer.classic else 1)


def branched_variance(layer, x):
    return layer.branch(x).square() * layer.p * ((1 - layer.p) if layer.classic else 1 / (1 - layer.p))
