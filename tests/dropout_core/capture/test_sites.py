import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.masks import quiet
from dropout_core.engine.options import PassOptions
from dropout_core.errors import UnknownRandomness
from dropout_core.graph.stage import Stage
from dropout_core.noise.philox import uniform
from dropout_core.verify import is_the_model
from tests.support.captured import made

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x * torch.randperm(3)
"""


def test_the_line_is_named_also_in_a_folder_called_torch(tmp_path):
    file = tmp_path / "torch" / "net.py"
    file.parent.mkdir()
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("net_in_torch", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    with pytest.raises(UnknownRandomness, match=rf"aten\.randperm\.default at {file}:7 "):
        capture(module.Net(), torch.ones(2, 3))


def test_a_pattern_like_alpha_dropout_with_other_constants_is_a_mask_and_no_alpha_dropout():
    class Floored(nn.Module):
        def forward(self, x):
            kept = torch.empty_like(x).bernoulli_(0.5)
            return x * (kept * 0.86) + ((kept - 1) * 1.5 + 0.4)

    (site,) = capture(Floored(), torch.ones(2, 3)).graph.sites
    assert (site.kind, site.rate) == ("unscaled", 0.5)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def output_and_mask(x, *rate_and_switch):
    output, mask = torch.native_dropout(x, *rate_and_switch)
    return torch.cat([output, mask], -1)


def test_a_draw_that_is_certain_is_a_constant():
    """As in the first block of a network whose rate of stochastic depth rises from 0."""

    def certain(x):
        ones = [
            torch.empty_like(x).bernoulli_(1.0),
            torch.bernoulli(torch.full_like(x, 1.0)),
            (torch.rand_like(x) < 1.5).to(x.dtype),
            torch.floor(1 + torch.rand_like(x)),
            torch.native_dropout(x, 0.0, True)[1],
            torch.native_dropout(x, 0.5, False)[1],
        ]
        zeros = [
            torch.empty_like(x).bernoulli_(0.0),
            (torch.rand_like(x) > 1.5).to(x.dtype),
            torch.native_dropout(x, 1.0, True)[0],
            torch.native_dropout(x, 1.0, True)[1],
        ]
        noisy = F.dropout(x, 0.5, training=True) * 0
        quiet = [output_and_mask(x, 0.5, False), output_and_mask(x, 0.0, True), output_and_mask(x, 1.0, True)]
        return torch.cat([noisy, *ones, *zeros, *quiet], -1)

    program = capture(Function(certain), X)
    (chunk,) = Engine(program).run(program.weights, X, PassOptions(8, 0, sampling="iid"))
    one, zero = torch.ones_like(X), torch.zeros_like(X)
    wanted = torch.cat([zero, *[one] * 6, *[zero] * 4, X, one, X, one, zero, zero], -1)
    assert torch.equal(chunk.outputs, wanted.expand(8, -1, -1))


@pytest.mark.parametrize("draw", [torch.randn_like, torch.rand_like])
def test_a_draw_of_another_type_than_its_template_has_its_own(draw):
    """In float32 a sum would have lost it."""
    program = capture(Function(lambda x: 2.0**24 + draw(x, dtype=torch.float64)), X)
    (chunk,) = Engine(program).run(program.weights, X, PassOptions(8, 0, sampling="iid"))
    assert chunk.outputs.dtype == torch.float64
    assert len((chunk.outputs - 2.0**24).unique()) == 8 * 3


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_dropout_of_torchs_attention_is_a_site_with_and_without_its_weights(need_weights):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.3)

        def forward(self, x):
            steps = x.transpose(0, 1)
            return self.attention(steps, steps, steps, need_weights=need_weights)[0].sum(0)

    net, x = made(Attending), torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0))
    program = capture(net, x)
    assert [(site.kind, site.rate, site.module) for site in program.graph.sites] == [("dropout", 0.3, "attention")]
    is_the_model(program, net, x)


def test_a_comparison_with_a_wider_value_stays_one_of_a_uniform_site():
    """One draw decides for several units: they are no draws of their own."""
    net = Function(lambda x: x * (torch.rand(x.shape[0], 1) < x.sigmoid()))
    program = capture(net, X)
    (site,) = program.graph.sites
    assert site.kind == "uniform"
    (chunk,) = Engine(program).run(program.weights, X, PassOptions(8, 0, sampling="iid"))
    drawn = uniform(0, 0, torch.arange(8), (1,))[:, None].float()
    assert torch.equal(chunk.outputs, X * (drawn < X.sigmoid()))


def test_a_probability_beyond_0_and_1_is_cut():
    net = Function(lambda x: (torch.rand_like(x) < 4 * x.double()).to(x.dtype))
    program = capture(net, X)
    assert [site.kind for site in program.graph.sites] == ["bernoulli"]
    is_the_model(program, net, X)
    stage = Stage(program.graph.nodes, keep=[program.graph.output])
    values = stage.run({**program.weights, "x": X}, {"rows": 4}, X.device, quiet)
    assert torch.allclose(values[program.graph.output], (4 * X).clamp(0, 1))


def test_a_mask_leaves_a_coarser_type_as_it_is():
    """A Boolean does not decide the type of a product: nor does the number that stands for it."""
    x = X.bfloat16()
    program = capture(Function(lambda x: torch.where(torch.rand(x.shape) < 0.5, x * (torch.rand(x.shape) < 0.5), 0)), x)
    (chunk,) = Engine(program).run(program.weights, x, PassOptions(8, 0, sampling="iid"))
    assert chunk.outputs.dtype == torch.bfloat16
    assert ((chunk.outputs == 0) | (chunk.outputs == x)).all()
