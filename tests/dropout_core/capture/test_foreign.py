"""Networks that nobody here wrote: every source of noise found, the same law as the loop that everybody runs."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dropout_core.capture.capture import capture, stochastic
from dropout_core.engine.engine import Engine
from dropout_core.engine.masks import quiet
from dropout_core.engine.options import PassOptions
from dropout_core.graph.program import Program
from dropout_core.graph.split import split
from dropout_core.graph.stage import Stage
from dropout_core.verify import is_the_model, verify
from tests.support.captured import made
from tests.support.foreign import FOREIGN, ROWS, Foreign

NUM_PASSES, COPIES = 8000, 400


@dataclass(frozen=True)
class Met:
    """A foreign network, its state before, and what capture makes of it."""

    foreign: Foreign
    net: nn.Module
    before: tuple
    program: Program


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}, [m.training for m in net.modules()]


@pytest.fixture(scope="module", params=FOREIGN)
def met(request):
    foreign = FOREIGN[request.param]
    net = made(foreign.build)
    before = state(net)
    return Met(foreign, net, before, capture(net, foreign.inputs, result=foreign.result))


def test_every_source_of_noise_is_a_site(met):
    sites = [(site.kind, round(site.rate, 6)) for site in met.program.graph.sites]
    assert sites == met.foreign.sites


def test_what_no_noise_reaches_is_in_the_prefix(met):
    """By FLOPs, exactly: the rest is in the suffix, and nothing is in both."""
    parts, weights, device = split(met.program.graph), met.program.weights, torch.device("cpu")

    def flops(nodes, keep, values):
        # torch's counter knows no recurrent layer
        with FlopCounterMode(display=False, custom_mapping={torch.ops.mcdrop.rnn: of_a_recurrent_layer}) as counter:
            kept = Stage(nodes, keep).run({**weights, **values}, {"rows": ROWS}, device, quiet)
        return counter.get_total_flops(), {name: kept[name] for name in keep}

    prefix, crossing = flops(parts.prefix, parts.crossing, met.foreign.inputs)
    suffix, _ = flops(parts.suffix, [met.program.graph.output], crossing)
    assert (prefix, suffix) == (met.foreign.prefix_flops, met.foreign.suffix_flops)


def of_a_recurrent_layer(x, lengths, weights, *options, out_shape=None, **kwargs):
    return sum(2 * x[0] * x[1] * rows * columns for rows, columns in (shape for shape in weights if len(shape) == 2))


def test_mean_and_variance_are_those_of_the_loop(met):
    """Within five standard errors of the difference: σ² / T, and (μ₄ − σ⁴) / T for the variance, of each side.

    In the loop each row draws for itself, so that copies of a row in one call are passes of their own.
    """
    chunks = Engine(met.program).run(
        met.program.weights, met.foreign.inputs, PassOptions(NUM_PASSES, 0, sampling="iid")
    )
    sides = [torch.cat([chunk.outputs for chunk in chunks]), looped(met)]
    (a, b), (va, vb) = (list(one) for one in zip(*map(moments, sides), strict=True))
    assert (va[0] > 0).all()
    assert ((a[0] - b[0]).abs() <= 5 * (a[1] + b[1]).sqrt()).all()
    assert ((va[0] - vb[0]).abs() <= 5 * (va[1] + vb[1]).sqrt()).all()


def looped(met) -> Tensor:
    copies = {name: value.repeat(COPIES, *[1] * (value.dim() - 1)) for name, value in met.foreign.inputs.items()}
    net = stochastic(made(met.foreign.build))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        answers = [net(**copies) for _ in range(NUM_PASSES // COPIES)]
    answers = [answer if met.foreign.result is None else answer[met.foreign.result] for answer in answers]
    return torch.cat([answer.unflatten(0, (COPIES, ROWS)) for answer in answers])


def moments(draws: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mean and variance over passes, each with its squared standard error."""
    draws = draws.double()
    mean, variance = draws.mean(0), draws.var(0)
    fourth = (draws - mean).pow(4).mean(0)
    return (mean, variance / len(draws)), (variance, (fourth - variance.square()) / len(draws))


def test_it_is_the_model_and_leaves_it_as_it_was(met):
    is_the_model(met.program, met.net, met.foreign.inputs, met.foreign.result)
    verify(met.program, Engine(met.program), met.foreign.inputs, "logits")
    (weights, modes), (tensors, now) = met.before, state(met.net)
    assert modes == now
    assert all(torch.equal(tensors[name], weight) for name, weight in weights.items())
