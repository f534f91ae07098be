"""Dropout on graphs: of edges, of nodes, of features.

A graph of N nodes is an adjacency matrix A, at least 0, with A_ij the weight of the edge by which node i reads node j,
and features x [B, N, F]. Either each row has a graph of its own, [B, N, N], or all rows have one, [N, N]: then training
draws once for a batch, and a Monte Carlo pass once for all its rows.
"""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rank, kept, mask

_ADJACENCY = "[B, N, N] or [N, N]"


def drop_edge(adjacency: Tensor, p: float, training: bool = True, undirected: bool = True) -> Tensor:
    """A · m with m ~ Bernoulli(1 − p) for each edge; what is kept is not rescaled. Self-loops are kept.

    adjacency: [B, N, N] or [N, N]. undirected: whether (i, j) and (j, i) share one draw, also where they weigh
    differently. Raises InvalidInput for another shape.
    """
    checked_adjacency(adjacency)
    if not training or p == 0:
        return adjacency
    stays = kept(adjacency, adjacency.shape, p)
    if undirected:
        pairs = stays.triu(1)
        stays = pairs.logical_or(pairs.transpose(-2, -1))
    return adjacency * stays.logical_or(torch.eye(adjacency.shape[-1], dtype=torch.bool, device=adjacency.device))


def normalize_adjacency(adjacency: Tensor) -> Tensor:
    """D^(−1/2) (A + I) D^(−1/2), with D the row sums of A + I, which are at least 1: a node without edges reads itself.

    adjacency: [B, N, N] or [N, N], at least 0; a self-loop that is there already gains 1.
    Source: Kipf, Welling 2017, arXiv 1609.02907, eq. 2.
    """
    checked_adjacency(adjacency)
    with_loops = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = with_loops.sum(-1).rsqrt()
    return scale.unsqueeze(-1) * with_loops * scale.unsqueeze(-2)


class DropEdge(RateLayer):
    """Removes edges of a graph, and normalises what is left.

    Shape: adjacency [B, N, N] (a graph for each row) or [N, N] (one for all), unchanged. undirected: (i, j) and (j, i)
    live or die together. normalize: return `normalize_adjacency` of the edges that are left, not the edges. In eval
    mode all edges are there; as kept edges are not rescaled, that is not the expectation, in which an edge weighs
    1 − p. Place it before the graph convolutions, at 0.2 … 0.8; one for all layers of a network, or one before each.
    The paper removes p of the edges to the number; here each is drawn by itself.
    Source: Rong et al. 2020, arXiv 1907.10903, section 4.
    """

    def __init__(self, p: float, undirected: bool = True, normalize: bool = True) -> None:
        super().__init__(p)
        self.undirected, self.normalize = undirected, normalize

    def forward(self, adjacency: Tensor) -> Tensor:
        """Remove edges."""
        left = drop_edge(adjacency, self.p, self.training, self.undirected)
        return normalize_adjacency(left) if self.normalize else left

    def extra_repr(self) -> str:
        """The drop probability and the options."""
        return f"p={self.p}, undirected={self.undirected}, normalize={self.normalize}"


def drop_edge_index(
    edge_index: Tensor, p: float, training: bool = True, undirected: bool = True
) -> tuple[Tensor, Tensor]:
    """The edges of a list that are left, in order, and which these are: (edges [2, E'], kept [E] bool).

    edge_index: int64 [2, E], as torch_geometric has it; weights and features of edges follow by `kept`. undirected:
    all edges between two nodes, in either direction, live or die together. Self-loops are kept. For training only: E'
    depends on the draws, so that it cannot be captured; a network to publish takes `drop_edge` of an adjacency matrix.
    Raises InvalidInput there, and for another shape.
    """
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise InvalidInput(f"the edges have shape {list(edge_index.shape)}; [2, E] is wanted.")
    if capturing():
        raise InvalidInput("a list of edges changes its length with the draws; drop_edge of an adjacency is wanted.")
    if not training or p == 0 or edge_index.shape[1] == 0:
        return edge_index, torch.ones_like(edge_index[0], dtype=torch.bool)
    source, target = edge_index
    if undirected:
        low, high = edge_index.aminmax(dim=0)
        pairs, pair = torch.unique(low * (high.max() + 1) + high, return_inverse=True)
        stays = kept(edge_index, pairs.shape, p)[pair]
    else:
        stays = kept(edge_index, source.shape, p)
    stays = stays.logical_or(source == target)
    return edge_index[:, stays], stays


def drop_node(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · m / (1 − p), with one m ~ Bernoulli(1 − p) for each row and node of x [B, N, F]."""
    return torch.feature_dropout(x, p, training)


class DropNode(RateLayer):
    """Drops all features of a node.

    Shape: [B, N, F], unchanged; x[None] for one graph alone. In eval mode x. Place it on the input features, before
    they are propagated, at 0.5: neighbours tell what a dropped node would have said.
    Source: Feng et al. 2020, arXiv 2005.11079, section 3.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop nodes of x."""
        checked_rank(x, (3,), "[B, N, F]")
        return drop_node(x, self.p, self.training)


def feature_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · m / (1 − p), with one m ~ Bernoulli(1 − p) for each row and feature of x [B, N, F], at all its nodes."""
    if not training or p == 0:
        return x
    return x * mask(x, (x.shape[0], 1, x.shape[2]), p)


class FeatureDropout(RateLayer):
    """Drops a feature at all nodes of a graph.

    Shape: [B, N, F], unchanged; x[None] for one graph alone. In eval mode x. Place it on the input features, at
    0.1 … 0.4. Dropping a feature at single nodes leaves it to be read from their neighbours.
    Source: Zhu et al. 2020, arXiv 2006.04131, "masking node features", there without rescaling.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x."""
        checked_rank(x, (3,), "[B, N, F]")
        return feature_dropout(x, self.p, self.training)


def checked_adjacency(adjacency: Tensor) -> None:
    """Raise InvalidInput unless this is a square matrix, or one for each row."""
    checked_rank(adjacency, (2, 3), _ADJACENCY)
    if adjacency.shape[-1] != adjacency.shape[-2]:
        raise InvalidInput(f"the input has shape {list(adjacency.shape)}; {_ADJACENCY} is wanted.")
