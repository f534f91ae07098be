import math
from itertools import product

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CaptureError, InvalidInput
from dropout_core.layers import DropEdge, drop_edge_index, normalize_adjacency
from dropout_core.layers.graph import drop_edge
from dropout_core.verify import is_the_model, verify
from tests.support import moments

P = 0.3
PAIRS = ((0, 1), (0, 2), (1, 2))


def adjacency(*rows):
    return torch.tensor(rows, dtype=torch.float64)


PATH = adjacency((0, 2, 0), (2, 0, 1), (0, 1, 0))
TRIANGLE = adjacency((0, 2, 0.5), (2, 0.25, 1), (0.5, 1, 0))
LONELY = adjacency((0, 1, 0), (1, 0, 0), (0, 0, 0))


def test_normalisation_is_that_of_kipf_and_welling():
    graphs = torch.stack([PATH, TRIANGLE, LONELY, torch.zeros(3, 3), TRIANGLE.triu()])
    wanted = moments.normalized(None, graphs)
    assert torch.allclose(normalize_adjacency(graphs), wanted, rtol=1e-12, atol=0)
    for graph, one in zip(graphs, wanted, strict=True):
        assert torch.allclose(normalize_adjacency(graph), one, rtol=1e-12, atol=0)
    a, b = 2 / math.sqrt(3 * 4), 1 / math.sqrt(4 * 2)
    by_hand = (1 / 3, a, 0), (a, 1 / 4, b), (0, b, 1 / 2)
    assert torch.allclose(wanted[0], adjacency(*by_hand), rtol=1e-12, atol=0)


def test_a_node_without_edges_reads_itself():
    assert normalize_adjacency(LONELY)[2].tolist() == [0, 0, 1]
    empty = torch.zeros(2, 3, 3, requires_grad=True)
    y = normalize_adjacency(empty)
    y.sum().backward()
    assert torch.equal(y, torch.eye(3).expand(2, 3, 3))
    assert empty.grad.isfinite().all()


def all_subgraphs(graph, p=P):
    """Every set of pairs that may stay: its probability, and the graph with these edges and its self-loops."""
    for kept in product((False, True), repeat=len(PAIRS)):
        left = torch.diag(graph.diagonal())
        for (i, j), stays in zip(PAIRS, kept, strict=True):
            left[i, j], left[j, i] = graph[i, j] * stays, graph[j, i] * stays
        yield math.prod(1 - p if stays else p for stays in kept), left


def assert_frequencies(drawn, possible):
    """Draws [T, …], each one of the possible values, as often as its probability says: within five standard errors."""
    count, found = len(drawn), torch.zeros(len(drawn), dtype=torch.int64)
    for probability, value in possible:
        same = torch.isclose(drawn, value, rtol=0, atol=1e-9).flatten(1).all(1)
        found += same
        assert abs(same.sum() - count * probability) < 5 * math.sqrt(count * probability * (1 - probability))
    assert (found == 1).all()


@pytest.mark.parametrize("graph", [TRIANGLE, TRIANGLE * adjacency((1, 2, 2), (1, 1, 2), (1, 1, 1))])
def test_every_subgraph_comes_as_often_as_it_should(graph):
    """Also where the two directions of an edge weigh differently: they share a draw."""
    torch.manual_seed(0)
    subgraphs = list(all_subgraphs(graph))
    assert_frequencies(drop_edge(graph.expand(4000, 3, 3), P), subgraphs)
    assert_frequencies(torch.stack([drop_edge(graph, P) for _ in range(1000)]), subgraphs)
    normalized = [(probability, normalize_adjacency(left)) for probability, left in subgraphs]
    assert_frequencies(DropEdge(P)(graph.expand(4000, 3, 3)), normalized)


def test_directed_edges_are_dropped_one_by_one():
    torch.manual_seed(0)
    gone = drop_edge(torch.ones(4000, 3, 3), 0.5, undirected=False) == 0
    assert not gone.diagonal(dim1=1, dim2=2).any()
    apart = (gone != gone.mT)[:, 0, 1].double().mean()
    assert abs(apart - 0.5) < 5 * 0.5 / math.sqrt(4000)


class Gcn(nn.Module):
    """Two graph convolutions over one draw of the edges; x [B, 3, 2] → [B, 3]."""

    def __init__(self):
        super().__init__()
        self.drop = DropEdge(P)
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 1)

    def propagate(self, edges, x):
        return (edges @ self.second((edges @ self.first(x)).tanh())).squeeze(-1)


class OneGraph(Gcn):
    """All rows have one graph."""

    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", TRIANGLE.clone())

    def forward(self, x):
        return self.propagate(self.drop(self.adjacency), x)

    def graph(self, _row):
        return self.adjacency, _row


class GraphOfEachRow(Gcn):
    """x [B, 3, 5]: the adjacency matrix, and the features beside it."""

    def forward(self, x):
        return self.propagate(self.drop(x[..., :3]), x[..., 3:])

    def graph(self, row):
        return row[:, :3], row[:, 3:]


def rows_of(kind):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 3, 2, generator=generator, dtype=torch.float64)
    graphs = moments.graphs((3, 3, 3), generator).double()
    return torch.cat([graphs, features], dim=-1) if kind is GraphOfEachRow else features


@pytest.mark.parametrize(("kind", "looped", "passes"), [(OneGraph, True, 1000), (GraphOfEachRow, False, 4000)])
@torch.no_grad()
def test_a_graph_network_is_captured_with_its_law(kind, looped, passes):
    """Against all eight subgraphs of each row: nothing but these answers, each at its frequency."""
    torch.manual_seed(0)
    net, x = kind().double(), rows_of(kind)
    program = capture(net, x)
    engine = Engine(program)
    is_the_model(program, net, x)
    verify(program, engine, x, "mean")
    assert bool(engine.looped) == looped
    drawn = torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(passes, 0, sampling="iid"))]
    )
    answers = []
    for index, row in enumerate(x):
        graph, features = net.graph(row)
        possible = [
            (probability, net.propagate(moments.normalized(None, left[None])[0], features))
            for probability, left in all_subgraphs(graph)
        ]
        assert_frequencies(drawn[:, index], possible)
        answers.append(torch.stack([value for _, value in possible]))
    which = [(drawn[:, index, None] - answer).abs().sum(-1).argmin(1) for index, answer in enumerate(answers)]
    assert all(torch.equal(each, which[0]) for each in which), "rows of a pass have different edges"


EDGES = torch.tensor([[0, 1, 2, 1, 3, 3, 0, 5], [1, 0, 1, 2, 3, 0, 1, 2]])
TOGETHER = [[0, 1, 6], [2, 3], [5], [7]]


def test_all_edges_between_two_nodes_live_or_die_together():
    torch.manual_seed(0)
    fates = torch.stack([drop_edge_index(EDGES, P)[1] for _ in range(2000)])
    assert fates[:, 4].all(), "a self-loop is dropped"
    for group in TOGETHER:
        assert (fates[:, group] == fates[:, group[:1]]).all()
    pairs = fates[:, [group[0] for group in TOGETHER]].double()
    assert ((pairs.mean(0) - (1 - P)).abs() < 5 * math.sqrt(P * (1 - P) / 2000)).all()
    assert (pairs.T.corrcoef() - torch.eye(4)).abs().max() < 5 / math.sqrt(2000)


def test_directed_edges_of_a_list_are_dropped_one_by_one():
    torch.manual_seed(0)
    fates = torch.stack([drop_edge_index(EDGES, P, undirected=False)[1] for _ in range(2000)]).double()
    assert fates[:, 4].all()
    others = fates[:, [0, 1, 2, 3, 5, 6, 7]]
    assert ((others.mean(0) - (1 - P)).abs() < 5 * math.sqrt(P * (1 - P) / 2000)).all()
    assert (others.T.corrcoef() - torch.eye(7)).abs().max() < 5 / math.sqrt(2000)


def test_what_is_left_of_a_list_keeps_its_order():
    torch.manual_seed(0)
    left, kept = drop_edge_index(EDGES, 0.5)
    assert torch.equal(left, EDGES[:, kept])
    assert kept.dtype == torch.bool
    assert 0 < int(kept.sum()) < 8
    left, kept = drop_edge_index(EDGES, 1.0)
    assert left.tolist() == [[3], [3]]
    for edges, p, training in ((EDGES, P, False), (EDGES, 0.0, True), (EDGES[:, :0], P, True)):
        left, kept = drop_edge_index(edges, p, training)
        assert torch.equal(left, edges)
        assert kept.tolist() == [True] * edges.shape[1]


def test_a_list_of_many_edges_drops_at_its_rate():
    torch.manual_seed(0)
    nodes, edges = 2_000_000_000, 40_000
    forth = torch.randint(0, nodes, (2, edges))
    _, kept = drop_edge_index(torch.cat([forth, forth.flip(0)], dim=1), P)
    assert torch.equal(kept[:edges], kept[edges:])
    assert abs(kept.double().mean() - (1 - P)) < 5 * math.sqrt(P * (1 - P) / edges)


def test_a_list_of_edges_cannot_be_captured():
    class Lists(nn.Module):
        def forward(self, x):
            _, kept = drop_edge_index(torch.tensor([[0, 1], [1, 0]]), P)
            return x * kept

    with pytest.raises(CaptureError, match="drop_edge of an adjacency is wanted"):
        capture(Lists(), torch.randn(3, 2))


@pytest.mark.parametrize("shape", [(8,), (3, 8), (1, 2, 8)])
def test_a_list_of_another_shape_is_refused(shape):
    with pytest.raises(InvalidInput, match=r"\[2, E\] is wanted"):
        drop_edge_index(torch.zeros(shape, dtype=torch.int64), P)


def test_an_adjacency_that_is_not_square_is_refused():
    for function in (normalize_adjacency, lambda a: drop_edge(a, P), lambda a: drop_edge(a, P, training=False)):
        for shape in ((3, 4), (2, 3, 4), (3,)):
            with pytest.raises(InvalidInput, match=r"\[B, N, N\] or \[N, N\] is wanted"):
                function(torch.ones(shape))


def test_a_layer_shows_its_options():
    assert repr(DropEdge(0.2, undirected=False)) == "DropEdge(p=0.2, undirected=False, normalize=True)"
