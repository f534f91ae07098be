"""Dropout of words: whole types of a vocabulary, and single tokens."""

from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import Per, Rate, RateLayer, capturing, kept, mask


def embedding_dropout(
    vectors: Tensor, tokens: Tensor, num_types: int, p: float, training: bool = True, per: Per = "row"
) -> Tensor:
    """Return v · m[token] / (1 − p) with one m ~ Bernoulli(1 − p) for each type of the vocabulary.

    Args:
        vectors: Embeddings of the tokens, [B, *, E].
        tokens: int [B, *], each 0 … num_types − 1.
        num_types: Size of the vocabulary.
        p: Drop probability of a type.
        training: Whether to drop; otherwise the vectors are returned.
        per: "row" draws m for each row, "batch" once.

    Returns:
        [B, *, E].
    """
    if not training or p == 0:
        return vectors
    if per == "batch" or capturing():
        drawn = F.embedding(tokens, mask(vectors, (num_types, 1), p))
    else:
        drawn = mask(vectors, (tokens.shape[0], num_types), p).gather(1, tokens.flatten(1).long())
    return vectors * drawn.reshape(*tokens.shape, 1)


class EmbeddingDropout(nn.Embedding):
    """An embedding that drops whole types: a word disappears wherever it stands.

    It accepts the weights of an nn.Embedding.
    The shape changes from int [B, *] to [B, *, embedding_dim]. A Monte Carlo pass has one mask. Place it at the input
    of a recurrent network or transformer, at p = 0.1 … 0.2.

    Args:
        num_embeddings: Size V of the vocabulary.
        embedding_dim: Size of a vector.
        p: Drop probability of a type, between 0 and 1.
        per: "row" draws a mask over the vocabulary for each sequence (Gal), in B · V numbers; "batch" draws one
            (Merity).
        **arguments: Other arguments of nn.Embedding. max_norm is refused, because it changes weights while reading
            them.

    Raises:
        InvalidInput: An argument is not allowed, or the tokens are not integers.

    References:
        Gal, Ghahramani 2016, arXiv 1512.05287. Merity et al. 2018, arXiv 1708.02182.
    """

    p = Rate()

    def __init__(self, num_embeddings: int, embedding_dim: int, p: float, per: Per = "row", **arguments: Any) -> None:
        if arguments.get("max_norm") is not None:
            raise InvalidInput("max_norm is set; an embedding that drops types takes none: its weights are only read.")
        super().__init__(num_embeddings, embedding_dim, **arguments)
        if per not in get_args(Per):
            raise InvalidInput(f"per is {per!r}; it is one of {', '.join(get_args(Per))}.")
        self.p, self.per = p, per

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens without the dropped types."""
        checked_tokens(tokens)
        vectors = super().forward(tokens)
        return embedding_dropout(vectors, tokens, self.num_embeddings, self.p, self.training, self.per)

    def extra_repr(self) -> str:
        """Return the embedding's own arguments and those of the dropout."""
        return f"{super().extra_repr()}, p={self.p}, per={self.per}"


def word_dropout(tokens: Tensor, p: float, unknown: int, spared: tuple[int, ...] = (), training: bool = True) -> Tensor:
    """Return tokens, each replaced by `unknown` with probability p.

    Args:
        tokens: int [B, *].
        p: Probability of a replacement.
        unknown: Token that stands for a dropped one.
        spared: Tokens that are never replaced.
        training: Whether to replace.

    Returns:
        int [B, *].
    """
    if not training or p == 0:
        return tokens
    stays = kept(tokens, tokens.shape, p)
    for token in spared:
        stays = torch.logical_or(stays, tokens == token)
    return tokens.where(stays, tokens.new_full((), unknown))


class WordDropout(RateLayer):
    """Replaces tokens by the unknown token, so that the network learns to do without any single word.

    The input is int [B, *] and keeps its shape. Place the layer before the embedding, at p = 0.05 … 0.2. Eval mode
    returns the tokens.

    Args:
        p: Probability of a replacement, between 0 and 1.
        unknown: Number of the token that stands for a dropped one.
        spared: Numbers of tokens that stay, such as padding and separators.

    Raises:
        InvalidInput: p is out of range, or the tokens are not integers.

    References:
        Bowman et al. 2016, arXiv 1511.06349 (tokens → unk). Gal, Ghahramani 2016, arXiv 1512.05287 (whole types).
    """

    def __init__(self, p: float, unknown: int, spared: tuple[int, ...] = ()) -> None:
        super().__init__(p)
        self.unknown, self.spared = unknown, tuple(spared)

    def forward(self, tokens: Tensor) -> Tensor:
        """Replace tokens."""
        checked_tokens(tokens)
        return word_dropout(tokens, self.p, self.unknown, self.spared, self.training)

    def extra_repr(self) -> str:
        """Return the drop probability and the special tokens."""
        return f"p={self.p}, unknown={self.unknown}, spared={self.spared}"


def checked_tokens(tokens: Tensor) -> None:
    """Check that tokens are integers with rows first.

    Args:
        tokens: The tokens.

    Raises:
        InvalidInput: They are not.
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dim() < 2:
        raise InvalidInput(f"the input has shape {list(tokens.shape)} and type {tokens.dtype}; int [B, *] is wanted.")
