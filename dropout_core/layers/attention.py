"""Dropout of attention weights: uniform, or guided by the weights.

Guided dropout drops light connections more often and heavy ones less. Of the n keys of a query whose weights w are
above 0, with w̄ their mean (1 / n if they sum to 1), key j is dropped with probability

    q_j = p · (1 − t + t · s_j / s̄),    s_j = w̄ / (w̄ + w_j),    t = min(1, 7 (1 − p) / (8 p)),

where s̄ is the mean of s over these keys. Kept keys are divided by their own keep probability 1 − q_j. It follows that

* the mean of q is p in every row, so p is the drop probability of a query's connections, and the expectation of each
  weight is the weight;
* a heavier weight is never dropped more often; a weight that carries everything is dropped with
  p · (1 − t + t / n), which is p / n if t is 1;
* equal weights are all dropped with probability p, as without guidance; so is a single key;
* masked keys (weight 0) stay 0 and change nothing;
* s̄ is at least 1/2, because s is convex in w, so q is at most p · (1 + t): 2p for p up to 7/15, where t is 1. Above
that,
  t weakens the guidance so that the keep probability is at least (1 − p) / 8: a weight grows at most eight times as
  much as under plain dropout;
* for values of equal size, the variance added to the output never exceeds that of plain dropout.

The rule is ours. It is milder than keep = min(1, c · w), which adds the least variance of all rules with one mean
(Wangni et al. 2018, arXiv 1710.09854) and leaves almost no noise in a row with a few heavy keys.

Gradients treat mask and keep probability as constants: they are those of w · m / keep, whose expectation is 1. Through
the keep probability they would reward weights that produce their own noise.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rate

_LEAST_SHARE = 1 / 8
# Smaller than every sum of weights that matters, and large enough to divide by.
_TINY = 2.0**-100


def attention_dropout(weights: Tensor, p: float, training: bool = True, guided: bool = False) -> Tensor:
    """Return w · m / keep with m ~ Bernoulli(keep) for each weight. Rows are not normalised again.

    Args:
        weights: Attention weights [B, *, K] over the K keys of each query, at least 0.
        p: Mean drop probability of a query's connections.
        training: Whether to drop; otherwise the weights are returned.
        guided: Whether keep is that of `guided_keep`; otherwise it is 1 − p.

    Returns:
        A tensor of the same shape.
    """
    if not training or p == 0:
        return weights
    if not guided or p == 1:
        return F.dropout(weights, p, training)
    keep = guided_keep(weights, p)
    drawn = torch.bernoulli(keep) if capturing() else torch.rand_like(keep) < keep
    return (weights * drawn / keep).to(weights.dtype)


def guided_keep(weights: Tensor, p: float) -> Tensor:
    """Return the keep probability of each attention weight by the rule of this module.

    Args:
        weights: Attention weights [B, *, K], at least 0.
        p: Mean drop probability, above 0 and below 1.

    Returns:
        The same shape in float32, or float64 for such weights, without gradient. The mean over the keys above 0 is 1 −
        p.
    """
    wide = weights.detach().to(torch.promote_types(weights.dtype, torch.float32))
    present = wide > 0
    count = present.sum(-1, keepdim=True).clamp_min(1)
    relative = wide * (count / wide.sum(-1, keepdim=True).clamp_min(_TINY))
    lightness = present / (1.0 + relative)
    # At least 1/2, but for a row without keys, where it is 0.
    mean = (lightness.sum(-1, keepdim=True) / count).clamp_min(0.5)
    strength = min(1.0, (1.0 - _LEAST_SHARE) * (1.0 - p) / p)
    return 1.0 - p * (1.0 - strength + strength * lightness / mean)


class AttentionDropout(RateLayer):
    """Drops attention weights after the softmax.

    The input has the shape [B, *, K], such as [B, H, Q, K], which is kept. Place the layer between the softmax and the
    product with the values, at p = 0.1. Rows of kept weights sum to 1 in expectation only. Eval mode returns the
    weights.

    Args:
        p: Mean drop probability of a query's connections, between 0 and 1.
        guided: Whether heavy connections are dropped less often at the same mean rate, by the rule of the module.

    Raises:
        InvalidInput: p is out of range.

    References:
        Vaswani et al. 2017, arXiv 1706.03762, whose reference code drops the attention weights. The guided rule is
        ours.
    """

    def __init__(self, p: float, guided: bool = False) -> None:
        super().__init__(p)
        self.guided = guided

    def forward(self, weights: Tensor) -> Tensor:
        """Drop weights."""
        if weights.dim() < 2:
            raise InvalidInput(f"the weights have shape {list(weights.shape)}; [B, *, K] is wanted.")
        return attention_dropout(weights, self.p, self.training, self.guided)

    def extra_repr(self) -> str:
        """Return the drop probability, and whether it is guided."""
        return f"p={self.p}, guided={self.guided}"


class MultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention that drops attention weights. It accepts the weights of an nn.MultiheadAttention.

    The first axis is always the row: query [B, Q, E], key and value [B, K, E], output [B, Q, E]. It can replace an
    nn.MultiheadAttention(batch_first=True), in nn.TransformerEncoderLayer too. A query whose keys are all masked
    attends to
    nothing: its output is the bias of the last projection and not NaN.

    Args:
        embed_dim: Size E of the embeddings.
        num_heads: Number of heads H; it must divide embed_dim.
        p: Mean drop probability of a query's connections.
        guided: Whether heavy connections are dropped less often, as in AttentionDropout.
        bias: Whether the projections have a bias.
        **factory: dtype and device, as in nn.MultiheadAttention.

    Raises:
        InvalidInput: num_heads does not divide embed_dim, or p is out of range.

    References:
        Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, p: float, guided: bool = False, bias: bool = True, **factory: Any
    ) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads != 0:
            raise InvalidInput(f"{num_heads} heads share embed_dim = {embed_dim}; a divisor of it is wanted.")
        super().__init__(embed_dim, num_heads, checked_rate(p), bias, batch_first=True, **factory)
        self.guided = guided

    @property
    def p(self) -> float:
        """The drop probability of an attention weight; `dropout`, as nn.MultiheadAttention has it, is the same."""
        return float(self.dropout)

    @p.setter
    def p(self, value: float) -> None:
        self.dropout = checked_rate(value)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to the keys.

        Args:
            query: Queries [B, Q, E].
            key: Keys [B, K, E]; the query by default.
            value: Values [B, K, E]; the key by default.
            key_padding_mask: [B, K], bool (True where a key is ignored) or float (added to the scores).
            need_weights: Whether to return the attention weights after dropout. nn.MultiheadAttention returns them by
                default; this layer does not, because it is faster without.
            attn_mask: [Q, K] or [B, H, Q, K], where B and H may be 1, bool or float as above.
            average_attn_weights: Whether the returned weights are the mean over heads [B, Q, K]; otherwise [B, H, Q,
                K].
            is_causal: Whether a query sees only the keys up to its own position.

        Returns:
            The output [B, Q, E], and the weights or None.
        """
        key = query if key is None else key
        value = key if value is None else value
        self._check(query, key, value)
        q, k, v = self._heads(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask, is_causal)
        if not need_weights and (not self.training or self.p == 0):
            return self._merged(_attended(q, k, v, mask)), None
        weights = attention_dropout(_weights(q, k, mask), self.p, self.training, self.guided).to(v.dtype)
        output = self._merged(weights @ v)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Check that there is one batch and as many values as keys."""
        for x in (query, key, value):
            if x.dim() != 3 or x.shape[2] != self.embed_dim:
                raise InvalidInput(f"the input has shape {list(x.shape)}; [B, L, {self.embed_dim}] is wanted.")
        if key.shape[0] != query.shape[0] or key.shape[:2] != value.shape[:2]:
            shapes = f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
            raise InvalidInput(f"query, key and value have shapes {shapes}; [B, Q, E] and twice [B, K, E] is wanted.")

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries [B, H, Q, D], keys and values [B, H, K, D]."""
        if query is key and key is value:
            parts = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights = self.in_proj_weight.chunk(3)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            parts = tuple(F.linear(*each) for each in zip((query, key, value), weights, biases, strict=True))
        return tuple(part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in parts)

    def _merged(self, attended: Tensor) -> Tensor:
        """Merge the heads [B, H, Q, D] and apply the last projection, [B, Q, E]."""
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _mask(
        self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """Return what is added to the scores, broadcast to [B, H, Q, K]: −inf where a key is ignored."""
        rows, queries, keys = q.shape[0], q.shape[2], k.shape[2]
        masks = []
        if key_padding_mask is not None:
            if key_padding_mask.shape != (rows, keys):
                raise InvalidInput(f"key_padding_mask has shape {list(key_padding_mask.shape)}; [B, {keys}] is wanted.")
            masks.append(_added(key_padding_mask, q.dtype)[:, None, None])
        if attn_mask is not None:
            outer = zip(attn_mask.shape[:-2], (rows, self.num_heads), strict=False)
            fits = attn_mask.dim() in (2, 4) and all(size in (whole, 1) for size, whole in outer)
            if not fits or attn_mask.shape[-2:] != (queries, keys):
                raise InvalidInput(
                    f"attn_mask has shape {list(attn_mask.shape)}; "
                    f"[{queries}, {keys}] or [B, {self.num_heads}, {queries}, {keys}] is wanted."
                )
            masks.append(_added(attn_mask, q.dtype))
        if is_causal:
            masks.append(q.new_full((queries, keys), -torch.inf).triu(1))
        return sum(masks[1:], masks[0]) if masks else None

    def extra_repr(self) -> str:
        """Return the sizes and the dropout."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, p={self.p}, guided={self.guided}"


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as a number that is added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)


def _none_left(mask: Tensor) -> Tensor:
    """Return which queries have only masked keys."""
    return (mask == -torch.inf).all(-1, keepdim=True)


def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention weights [B, H, Q, K]; 0 for a query without keys."""
    scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)
    # What float16 rounds to 0 would count as masked.
    dtype = torch.promote_types(q.dtype, torch.float32)
    if mask is None:
        return scores.softmax(-1, dtype=dtype)
    none_left = _none_left(mask)
    return (scores + mask).masked_fill(none_left, 0.0).softmax(-1, dtype=dtype).masked_fill(none_left, 0.0)


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return weights times values, without dropout."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    none_left = _none_left(mask)
    # Not every kernel answers a query without keys by 0.
    return F.scaled_dot_product_attention(q, k, v, mask.masked_fill(none_left, 0.0)).masked_fill(none_left, 0.0)
