import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dropout_core.capture.capture import capture
from dropout_core.engine import chunks as chunk_sizes
from dropout_core.engine.chunks import chunks_of
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.measures.moments import Moments
from dropout_core.noise.philox import keep_mask
from tests.support import references
from tests.support.captured import captured, made
from tests.support.nets import LastLayer, NoisyWeights, TwoSites
from tests.support.twins import TWINS

each_net = pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)


def exactness(net):
    """Rounding of a handful of operations, relative to the output's scale."""
    return 1e-12 if net.dtype == torch.float64 else 1e-5


def assert_same(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def drawn_masks(net, number, seed=0):
    """The masks of one pass, straight from the noise."""
    return [
        keep_mask(seed, site, torch.tensor([number]), shape, rate)[0].to(net.dtype) / (1 - rate)
        for site, (shape, rate) in enumerate(net.sites)
    ]


def folded(captured_net, x, passes, seed=0):
    """Moments over passes of [T, B, C]."""
    engine, weights = captured_net.engine, captured_net.program.weights
    parts = [Moments.of(chunk.outputs) for chunk in engine.run(weights, x, PassOptions(passes, seed, sampling="iid"))]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


@each_net
def test_each_pass_is_the_network_with_that_pass_s_masks(kind):
    """The same masks for all rows, across the boundary of 32 passes."""
    one = captured(kind)
    x = one.rows(3)
    with torch.no_grad():
        wanted = torch.stack([one.net.masked(x, drawn_masks(one.net, number, seed=5)) for number in range(40)])
    assert_same(one.outputs(x, 40, seed=5), wanted, exactness(one.net))


@each_net
def test_mean_and_variance_agree_with_the_enumeration_of_all_masks(kind):
    """5 standard errors, of squares σ² / T and (μ₄ − σ⁴) / T.

    The population variance is the mean square around the truth less the mean's squared error, of at most 25 σ² / T.
    """
    one, num_passes = captured(kind), 2000
    x = one.rows(2)
    mean, variance, fourth = references.enumerated(one.net, x)
    found = folded(one, x, num_passes)
    assert found.count == num_passes
    assert ((found.mean - mean).abs() <= 5 * (variance / num_passes).sqrt()).all()
    error = 5 * ((fourth - variance**2).clamp_min(0) / num_passes).sqrt() + 25 * variance / num_passes
    assert ((found.variance - variance).abs() <= error).all()


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_last_layer_dropout_has_its_closed_form_mean_and_covariance(rate):
    """Covariance over outputs and over rows: rows share their masks, so that they covary."""
    num_passes, hidden = 4000, 16
    net = made(lambda: nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Dropout(rate), nn.Linear(hidden, 2))).eval()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    program = capture(net, x)
    draws = torch.cat(
        [chunk.outputs for chunk in Engine(program).run(program.weights, x, PassOptions(num_passes, 0, sampling="iid"))]
    )
    with torch.no_grad():
        factors = (net[:2](x)[:, None, :] * net[3].weight).double().flatten(0, 1)  # [B · C, H]
        mean = net(x).double().flatten()
    covariance, of_products = references.last_layer_dropout(factors, rate)
    central = draws.double().flatten(1) - mean
    standard_error = (covariance.diagonal() / num_passes).sqrt()
    assert (central.mean(0).abs() <= 5 * standard_error).all()
    found = central.T @ central / num_passes
    assert ((found - covariance).abs() <= 5 * (of_products / num_passes).sqrt()).all()


@each_net
def test_the_first_passes_of_many_are_the_passes_of_few(kind):
    one = captured(kind)
    x = one.rows(2)
    assert_same(one.outputs(x, 30), one.outputs(x, 100)[:30], exactness(one.net))


@each_net
def test_a_row_alone_is_that_row_in_a_batch(kind):
    one = captured(kind)
    x = one.rows(9)
    whole = one.outputs(x, 20)
    for row in (0, 4, 8):
        assert_same(one.outputs(x[row : row + 1], 20), whole[:, row : row + 1], exactness(one.net))
    assert_same(one.outputs(x.flip(0), 20), whole.flip(1), exactness(one.net))


def all_outputs(engine, program, x, passes):
    """[T, B, C] from chunks of any sizes, and their number."""
    rows, chunks = {}, list(engine.run(program.weights, x, PassOptions(passes, 0, sampling="iid")))
    for chunk in chunks:
        rows.setdefault(chunk.index, []).append(chunk.outputs)
    return torch.cat([torch.cat(parts) for parts in rows.values()], dim=1), len(chunks)


def test_a_float32_row_does_not_feel_its_batchmates():
    """The promise: 1e-5 of the output's scale, also where sums are taken in another order."""
    net = made(lambda: nn.Sequential(nn.Linear(50, 200), nn.ReLU(), nn.Dropout(0.5), nn.Linear(200, 3))).eval()
    x = torch.randn(300, 50, generator=torch.Generator().manual_seed(0))
    program = capture(net, x[:4])
    whole, _ = all_outputs(Engine(program), program, x, 16)
    alone, _ = all_outputs(Engine(program), program, x[123:124], 16)
    assert_same(alone, whole[:, 123:124], 1e-5)


CHUNKS = {
    "a row and a pass at a time": {"_CHUNK_BYTES": {"cpu": 1, "cuda": 1}, "_MIN_CHUNK_ROWS": 1},
    "three rows at a time": {"_CHUNK_BYTES": {"cpu": 1, "cuda": 1}, "_MIN_CHUNK_ROWS": 3},
    "blocks of four rows": {"_CHUNK_BYTES": {"cpu": 1, "cuda": 1}, "_MIN_CHUNK_ROWS": 4, "_BOUNDARY_BYTES": 1},
    "masks of five passes": {"_MASK_PASSES": 5},
    "masks of one pass": {"_MASK_UNITS": 1},
}


@pytest.mark.parametrize("constants", CHUNKS.values(), ids=CHUNKS.keys())
@each_net
def test_chunk_sizes_change_no_answer(kind, constants, monkeypatch):
    one = captured(kind)
    x = one.rows(11)
    wanted, few = all_outputs(one.engine, one.program, x, 23)
    for name, value in constants.items():
        monkeypatch.setattr(chunk_sizes, name, value)
    found, many = all_outputs(Engine(one.program), one.program, x, 23)
    assert_same(found, wanted, exactness(one.net))
    assert many > few or one.engine.looped


@each_net
def test_a_prefix_run_in_parts_changes_no_answer(kind, monkeypatch):
    one = captured(kind)
    x = one.rows(7)

    def in_parts(*measured):
        return replace(chunks_of(*measured), prefix_rows=2)

    monkeypatch.setattr(chunk_sizes, "chunks_of", in_parts)
    assert_same(all_outputs(Engine(one.program), one.program, x, 5)[0], one.outputs(x, 5), exactness(one.net))


def test_chunks_do_not_grow_with_the_number_of_passes(monkeypatch):
    monkeypatch.setattr(chunk_sizes, "_CHUNK_BYTES", {"cpu": 1024, "cuda": 1024})
    one = captured(TwoSites)
    engine, x = Engine(one.program), one.rows(50)

    def largest(passes):
        return max(
            chunk.outputs.numel()
            for chunk in engine.run(one.program.weights, x, PassOptions(passes, 0, sampling="iid"))
        )

    assert largest(40) == largest(400) < 40 * 50


class Calls(TorchDispatchMode):
    """Counts the rows that go through each operator."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim():
            self.rows[func._opname] = self.rows.get(func._opname, 0) + out.shape[0]
        return out


@pytest.mark.parametrize("passes", [1, 10, 300])
def test_the_prefix_runs_once_for_any_number_of_passes(passes):
    net = made(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2), nn.Tanh())
    ).eval()
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    program = capture(net, x)
    engine = Engine(program)
    list(engine.run(program.weights, x, PassOptions(1, 0, sampling="iid")))  # measures
    with Calls() as calls:
        list(engine.run(program.weights, x, PassOptions(passes, 0, sampling="iid")))
    assert calls.rows["conv2d"] == calls.rows["relu"] == 6
    assert calls.rows["tanh"] == 6 * passes


def test_noise_on_weights_is_drawn_for_each_pass():
    """One mask for all passes would make them agree; the engine says why it loops."""
    one = captured(NoisyWeights)
    outputs = one.outputs(one.rows(2), 30)
    assert len(outputs.flatten(1).unique(dim=0)) > 20
    assert one.engine.looped == "noise on weights takes one draw for each pass"


def test_noise_on_weights_leaves_no_less_room_for_rows():
    """A row adds three numbers of eight bytes; the six of a weight are there once."""
    one = captured(NoisyWeights)
    assert one.engine.chunk_rows(one.program.weights, one.rows(1)) == 2**20 // 24


def test_noise_on_activations_runs_in_batches_of_passes():
    one = captured(TwoSites)
    assert one.engine.looped == ""
    assert [
        len(chunk.outputs)
        for chunk in one.engine.run(one.program.weights, one.rows(2), PassOptions(40, 0, sampling="iid"))
    ] == [32, 8]


@each_net
def test_no_rows_have_outputs_of_no_rows(kind):
    one = captured(kind)
    (chunk,) = one.engine.run(one.program.weights, one.rows(1)[:0], PassOptions(7, 0, sampling="iid"))
    assert chunk.outputs.shape == (7, 0, 2)
    assert chunk.outputs.dtype == one.net.dtype


def test_a_rate_of_1_drops_everything():
    net = made(lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout(1.0), nn.Dropout(0.5), nn.Linear(3, 2))).eval()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    program = capture(net, x)
    assert [site.rate for site in program.graph.sites] == [1.0, 0.5]
    (chunk,) = Engine(program).run(program.weights, x, PassOptions(10, 0, sampling="iid"))
    assert torch.equal(chunk.outputs, net[3].bias.detach().expand(10, 3, 2))


def test_seeds_decide_the_passes():
    one = captured(TwoSites)
    x = one.rows(2)
    assert torch.equal(one.outputs(x, 20, seed=3), one.outputs(x, 20, seed=3))
    assert not torch.equal(one.outputs(x, 20, seed=3), one.outputs(x, 20, seed=4))


def test_a_row_of_nan_spoils_itself_only():
    one = captured(TwoSites)
    x = one.rows(3)
    spoilt = x.clone()
    spoilt[1, 0] = math.nan
    outputs, clean = one.outputs(spoilt, 10), one.outputs(x, 10)
    assert outputs[:, 1].isnan().all()
    assert torch.equal(outputs[:, [0, 2]], clean[:, [0, 2]])


def test_an_engine_runs_on_the_weights_of_the_call():
    one = captured(LastLayer)
    x, weights = one.rows(2), dict(one.program.weights)
    wanted = one.outputs(x, 10)
    doubled = {name: weight * 2 if "head" in name else weight for name, weight in weights.items()}
    found = torch.cat([chunk.outputs for chunk in one.engine.run(doubled, x, PassOptions(10, 0, sampling="iid"))])
    assert torch.equal(found, 2 * wanted)
    assert one.program.weights == weights


def test_an_engine_does_not_need_the_lines_of_the_source():
    """A bundle keeps none."""
    one = captured(TwoSites)
    nodes = tuple(replace(node, where="") for node in one.program.graph.nodes)
    bare = replace(one.program, graph=replace(one.program.graph, nodes=nodes))
    assert bare.graph == one.program.graph
    outputs, _ = all_outputs(Engine(bare), bare, one.rows(2), 10)
    assert torch.equal(outputs, one.outputs(one.rows(2), 10))
