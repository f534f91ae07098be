"""Dropout on graphs: of edges, of nodes, of features.

A graph of N nodes is an adjacency matrix A, at least 0, where A_ij is the weight of the edge by which node i reads
node j, and features x [B, N, F]. Either each row has its own graph, [B, N, N], or all rows share one, [N, N]; in the
second case training draws once for a batch, and a Monte Carlo pass once for all its rows.
"""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rank, kept, mask

_ADJACENCY = "[B, N, N] or [N, N]"


def drop_edge(adjacency: Tensor, p: float, training: bool = True, undirected: bool = True) -> Tensor:
    """Return A · m with m ~ Bernoulli(1 − p) for each edge. Kept edges are not rescaled, and self-loops are kept.

    Args:
        adjacency: [B, N, N] or [N, N].
        p: Drop probability of an edge.
        training: Whether to drop; otherwise the matrix is returned.
        undirected: Whether (i, j) and (j, i) share one draw, even if their weights differ.

    Returns:
        A tensor of the same shape.

    Raises:
        InvalidInput: The matrix has another shape.
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
    """Return D^(−1/2) (A + I) D^(−1/2), where D holds the row sums of A + I.

    The sums are at least 1: a node without edges reads itself. An existing self-loop gains 1.

    Args:
        adjacency: [B, N, N] or [N, N], at least 0.

    Returns:
        A tensor of the same shape.

    References:
        Kipf, Welling 2017, arXiv 1609.02907, eq. 2.
    """
    checked_adjacency(adjacency)
    with_loops = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = with_loops.sum(-1).rsqrt()
    return scale.unsqueeze(-1) * with_loops * scale.unsqueeze(-2)


class DropEdge(RateLayer):
    """Removes edges of a graph, and normalises the remaining ones.

    The adjacency is [B, N, N] (a graph for each row) or [N, N] (one for all), and keeps its shape. Eval mode keeps all
    edges. Kept edges are not rescaled, so this is not the expectation, in which an edge has the weight 1 − p. Place
    the layer before the graph convolutions, at p = 0.2 … 0.8: one for all layers of a network, or one before each. The
    paper removes exactly the share p of the edges; here each edge is drawn on its own.

    Args:
        p: Drop probability of an edge, between 0 and 1.
        undirected: Whether (i, j) and (j, i) share one draw.
        normalize: Whether to return `normalize_adjacency` of the remaining edges instead of the edges.

    Raises:
        InvalidInput: p is out of range, or the matrix has another shape.

    References:
        Rong et al. 2020, arXiv 1907.10903, section 4.
    """

    def __init__(self, p: float, undirected: bool = True, normalize: bool = True) -> None:
        super().__init__(p)
        self.undirected, self.normalize = undirected, normalize

    def forward(self, adjacency: Tensor) -> Tensor:
        """Remove edges."""
        left = drop_edge(adjacency, self.p, self.training, self.undirected)
        return normalize_adjacency(left) if self.normalize else left

    def extra_repr(self) -> str:
        """Return the drop probability and the options."""
        return f"p={self.p}, undirected={self.undirected}, normalize={self.normalize}"


def drop_edge_index(
    edge_index: Tensor, p: float, training: bool = True, undirected: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the remaining edges of a list, in order, and which edges these are.

    Self-loops are kept. The function is for training only: E' depends on the draws, so it cannot be captured. A
    network to publish uses `drop_edge` of an adjacency matrix.

    Args:
        edge_index: int64 [2, E], as in torch_geometric.
        p: Drop probability of an edge.
        training: Whether to drop; otherwise all edges are returned.
        undirected: Whether all edges between two nodes, in either direction, share one draw.

    Returns:
        The edges [2, E'], and bool [E], by which weights and features of edges are selected.

    Raises:
        InvalidInput: The network is being captured, or the list has another shape.
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
    """Return x · m / (1 − p) with one m ~ Bernoulli(1 − p) for each row and node.

    Args:
        x: Features [B, N, F].
        p: Drop probability of a node.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    return torch.feature_dropout(x, p, training)


class DropNode(RateLayer):
    """Drops all features of a node.

    The input is [B, N, F] and keeps its shape; use x[None] for a single graph. Eval mode returns the input. Place the
    layer on the input features, before they are propagated, at p = 0.5: neighbours carry the information of a dropped
    node.

    Args:
        p: Drop probability of a node, between 0 and 1.

    Raises:
        InvalidInput: p is out of range, or the input has other axes.

    References:
        Feng et al. 2020, arXiv 2005.11079, section 3.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop nodes of x."""
        checked_rank(x, (3,), "[B, N, F]")
        return drop_node(x, self.p, self.training)


def feature_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · m / (1 − p) with one m ~ Bernoulli(1 − p) for each row and feature, at all its nodes.

    Args:
        x: Features [B, N, F].
        p: Drop probability of a feature.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    if not training or p == 0:
        return x
    return x * mask(x, (x.shape[0], 1, x.shape[2]), p)


class FeatureDropout(RateLayer):
    """Drops a feature at all nodes of a graph.

    The input is [B, N, F] and keeps its shape; use x[None] for a single graph. Eval mode returns the input. Place the
    layer on the input features, at p = 0.1 … 0.4. A feature dropped at single nodes could be read from their
    neighbours.

    Args:
        p: Drop probability of a feature, between 0 and 1.

    Raises:
        InvalidInput: p is out of range, or the input has other axes.

    References:
        Zhu et al. 2020, arXiv 2006.04131, "masking node features", there without rescaling.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x."""
        checked_rank(x, (3,), "[B, N, F]")
        return feature_dropout(x, self.p, self.training)


def checked_adjacency(adjacency: Tensor) -> None:
    """Check that an adjacency is a square matrix, or one for each row.

    Args:
        adjacency: The adjacency.

    Raises:
        InvalidInput: It is not.
    """
    checked_rank(adjacency, (2, 3), _ADJACENCY)
    if adjacency.shape[-1] != adjacency.shape[-2]:
        raise InvalidInput(f"the input has shape {list(adjacency.shape)}; {_ADJACENCY} is wanted.")
