"""The laws of draws, and every way to write one: its site, its moments, and its mean where eval mode draws as well."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Gumbel, Laplace, Normal, Uniform

from dropout_core.capture.capture import capture
from dropout_core.capture.expectation import AtExpectation
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import NotTheModel
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.noise.philox import uniform
from dropout_core.verify import is_the_model
from tests.support.captured import made

WORDS = torch.tensor([0, 1, 2**31, 2**32 - 2**8, 2**32 - 1])
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EULER = 0.5772156649015329

# torch.rand resolves 2^-24 in float32, 2^-11 and 2^-8 in the half precisions; a word has 32 bits
RESOLUTION = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


@pytest.mark.parametrize("dtype", RESOLUTION, ids=str)
def test_a_uniform_draw_is_its_word_cut_to_what_its_type_resolves_and_never_1(dtype):
    drawn = NOISE_KINDS["uniform"].draw(WORDS, 0.0, dtype)
    bits = RESOLUTION[dtype]
    assert drawn.dtype == dtype
    assert drawn.double().tolist() == [(word >> (32 - bits)) / 2**bits for word in WORDS.tolist()]
    assert drawn.max() < 1


@pytest.mark.parametrize("dtype", RESOLUTION, ids=str)
def test_an_exponential_draw_inverts_its_distribution_and_is_never_0(dtype):
    drawn = NOISE_KINDS["exponential"].draw(WORDS, 0.0, dtype)
    info = torch.finfo(dtype)
    wanted = [max(-math.log((word + 0.5) / 2**32), info.tiny) for word in WORDS.tolist()]
    assert drawn.dtype == dtype
    assert drawn.double().tolist() == pytest.approx(wanted, rel=2 * info.eps)
    assert drawn.min() > 0


@pytest.mark.parametrize(("kind", "mean"), [("uniform", 0.5), ("exponential", 1.0), ("normal", 0.0)])
def test_a_draw_is_quiet_at_its_mean_whatever_its_template_holds(kind, mean):
    template = torch.full((2, 3), math.nan, dtype=torch.bfloat16)
    assert torch.equal(NOISE_KINDS[kind].quiet(template, 0.0), torch.full((2, 3), mean, dtype=torch.bfloat16))


UNIFORM, EXPONENTIAL, NORMAL = ("uniform", 9 / 5), ("exponential", 9.0), ("normal", 3.0)
# a name: the draw, its kind and fourth standardized moment, its mean and its standard deviation
FORMS = {
    "rand": (lambda h: h * torch.rand(h.shape), UNIFORM, lambda h: h / 2, lambda h: h / 12**0.5),
    "rand_like": (lambda h: h + torch.rand_like(h), UNIFORM, lambda h: h + 0.5, lambda h: 0 * h + 12**-0.5),
    "uniform_": (
        lambda h: h * torch.empty_like(h).uniform_(0.5, 2), UNIFORM, lambda h: 1.25 * h, lambda h: h * 1.5 / 12**0.5
    ),
    "Uniform": (
        lambda h: Uniform(h, h + 2, False).rsample(), UNIFORM, lambda h: h + 1, lambda h: 0 * h + 2 / 12**0.5
    ),
    "randn": (lambda h: h + torch.randn(h.shape), NORMAL, lambda h: h, torch.ones_like),
    "randn of another type": (
        lambda h: h + torch.randn_like(h, dtype=torch.float32), NORMAL, lambda h: h, torch.ones_like
    ),
    "normal_": (lambda h: h * h.new_empty(h.shape).normal_(2, 0.5), NORMAL, lambda h: 2 * h, lambda h: h / 2),
    "normal of numbers": (
        lambda h: h * torch.normal(2.0, 0.5, h.shape), NORMAL, lambda h: 2 * h, lambda h: h / 2
    ),
    "normal around": (lambda h: torch.normal(h, 0.5), NORMAL, lambda h: h, lambda h: 0 * h + 0.5),
    "normal as wide as": (lambda h: torch.normal(0.5, h.exp()), NORMAL, lambda h: 0 * h + 0.5, torch.exp),
    "normal around, as wide as": (lambda h: torch.normal(h, h.exp()), NORMAL, lambda h: h, torch.exp),
    "Normal": (lambda h: Normal(h, h.exp(), False).rsample(), NORMAL, lambda h: h, torch.exp),
    "exponential_": (
        lambda h: h * torch.empty_like(h).exponential_(2), EXPONENTIAL, lambda h: h / 2, lambda h: h / 2
    ),
    "rrelu": (
        lambda h: F.rrelu(h, 0.1, 0.5, training=True), UNIFORM,
        lambda h: torch.where(h > 0, h, 0.3 * h), lambda h: torch.where(h > 0, 0, 0.4 * h / 12**0.5),
    ),
    "rrelu_": (
        lambda h: F.rrelu_(h * 1, 0.1, 0.5, training=True), UNIFORM,
        lambda h: torch.where(h > 0, h, 0.3 * h), lambda h: torch.where(h > 0, 0, 0.4 * h / 12**0.5),
    ),
}  # fmt: skip


class Draws(nn.Module):
    """Several functions of h beside each other, [B, N, 3]: one capture serves all."""

    def __init__(self, *drawn):
        super().__init__()
        self.body, self.drawn = nn.Linear(3, 3), drawn

    def forward(self, x):
        h = self.body(x)
        return torch.stack([draw(h) for draw in self.drawn], 1)


def features():
    with torch.no_grad():
        return made(Draws).double().body(X)


def passes(program, num_passes):
    return torch.cat(
        [chunk.outputs for chunk in Engine(program).run(program.weights, X, PassOptions(num_passes, 0, sampling="iid"))]
    ).double()


@cache
def joined(forms):
    """A network of several draws, its capture, and its 2000 passes."""
    net = made(Draws, *forms).double()
    program = capture(net, X)
    return net, program, passes(program, 2000)


def assert_moments(drawn, mean, std, kurtosis):
    """Five standard errors: of the mean σ² / T, of the mean square around the true mean (κ − 1) σ⁴ / T."""
    centred, variance = drawn - mean, std.square()
    assert (centred.mean(0).abs() <= 5 * (variance / len(drawn)).sqrt() + 1e-9).all()
    error = 5 * variance * ((kurtosis - 1) / len(drawn)) ** 0.5
    assert ((centred.square().mean(0) - variance).abs() <= error + 1e-9).all()


DRAWN = tuple(draw for draw, *_ in FORMS.values())
each_form = pytest.mark.parametrize("number", range(len(FORMS)), ids=FORMS.keys())


@each_form
def test_a_draw_is_a_site_of_its_law(number):
    _, (kind, kurtosis), mean, std = list(FORMS.values())[number]
    _, program, outputs = joined(DRAWN)
    assert (program.graph.sites[number].kind, program.graph.sites[number].rate) == (kind, 0.0)
    h = features()
    assert_moments(outputs[:, :, number], mean(h), std(h), kurtosis)


@each_form
def test_a_draw_that_eval_mode_leaves_on_is_at_its_mean(number):
    draw, _, mean, _ = list(FORMS.values())[number]
    h = features()
    with AtExpectation():
        quiet = draw(h)
    assert torch.allclose(quiet, mean(h), rtol=1e-12, atol=1e-12)


def test_draws_that_eval_mode_leaves_on_are_no_other_network():
    net, program, _ = joined(DRAWN)
    assert len(program.graph.sites) == len(FORMS)
    is_the_model(program, net, X)


def test_a_draw_for_all_rows_is_a_site_without_rows():
    net = made(Draws, lambda h: h + torch.rand(3)).double()
    program = capture(net, X)
    (site,) = program.graph.sites
    assert (site.kind, site.rows) == ("uniform", None)
    drawn = passes(program, 500)[:, :, 0] - features()
    assert torch.allclose(drawn, uniform(0, 0, torch.arange(500), (3,)).float().double()[:, None], atol=1e-7)


def gumbel_moments(h):
    return h + EULER * h.exp(), math.pi / 6**0.5 * h.exp()


def laplace_moments(h):
    return h, 2**0.5 * h.exp()


FUNCTIONS = {
    "Gumbel": (lambda h: Gumbel(h, h.exp(), False).rsample(), gumbel_moments, 5.4),
    "Gumbel by exponential": (lambda h: h - h.exp() * torch.empty_like(h).exponential_().log(), gumbel_moments, 5.4),
    "Laplace": (lambda h: Laplace(h, h.exp(), False).rsample(), laplace_moments, 6.0),
    "a choice": (lambda h: F.gumbel_softmax(h, tau=0.5, hard=True), None, None),
}
OF_DRAWS = tuple(draw for draw, *_ in FUNCTIONS.values())


@pytest.mark.parametrize("number", range(3), ids=list(FUNCTIONS)[:3])
def test_a_function_of_a_draw_has_its_law(number):
    """Its mean is not the function of the mean: only the passes are right."""
    _, moments, kurtosis = list(FUNCTIONS.values())[number]
    assert_moments(joined(OF_DRAWS)[2][:, :, number], *moments(features()), kurtosis)


def test_gumbel_softmax_chooses_each_class_as_often_as_softmax_says():
    chosen = joined(OF_DRAWS)[2][:, :, 3]
    assert torch.allclose(chosen.sum(-1), torch.ones((), dtype=torch.float64))
    probability = features().softmax(-1)
    error = (probability * (1 - probability) / len(chosen)).sqrt()
    assert ((chosen.mean(0) - probability).abs() <= 5 * error).all()


# how eval mode may leave a dropout of keep 0.75 on, written by hand
ALWAYS_ON = {
    "compared": lambda h: h * (torch.rand_like(h) < 0.75),
    "compared from above": lambda h: h * torch.rand(h.shape).gt(0.25),
    "compared on an axis of its own": lambda h: h * (torch.rand(h.shape[0]).unsqueeze(1) >= 0.25),
    "compared with a value": lambda h: h * (torch.rand_like(h) < h * 0 + 0.75),
    "compared by a value": lambda h: h * (h * 0 + 0.75 >= torch.rand_like(h)),
    "compared with all": lambda h: h * (torch.rand_like(h) > torch.tensor([0.25])),
    "between whole numbers": lambda h: h * torch.where(torch.rand_like(h) < 0.25, 0, 1),
    "chosen": lambda h: torch.where(torch.rand_like(h) > 0.75, 0, h),
    "filled": lambda h: (h * 1).masked_fill_(torch.rand_like(h) > 0.75, 0),
    "negated": lambda h: h * ~(torch.rand_like(h) < 0.25).logical_or_(torch.zeros(3, dtype=torch.bool)),
    "both": lambda h: h * ((torch.rand_like(h) < 0.75) & torch.ones(3, dtype=torch.bool)),
    "whole numbers": lambda h: h * (torch.rand_like(h) < 0.75).long(),
    "floored": lambda h: h * torch.rand_like(h).add_(0.75).floor_(),
    "floored anew": lambda h: h * torch.floor(0.75 + torch.rand(h.shape)),
    "a Boolean": lambda h: h * torch.empty(h.shape, dtype=torch.bool).bernoulli_(0.75),
    "a Boolean of probabilities": lambda h: h * torch.empty(h.shape, dtype=torch.bool).bernoulli_(0 * h + 0.75),
    "of probabilities": lambda h: h * torch.empty_like(h).bernoulli_(torch.full_like(h, 0.75)),
    "of a number": lambda h: h * torch.bernoulli(h, 0.75),
    "a mask": lambda h: 0.75 * torch.native_dropout(h, 0.25, True)[0],
    "its mask": lambda h: h * torch.native_dropout(h, 0.25, True)[1],
    "never": lambda h: 0.75 * h * (torch.rand_like(h) < 1) + (torch.rand_like(h) < 0) + h * 0 * torch.rand_like(h),
}  # fmt: skip


@pytest.mark.parametrize("dropped", ALWAYS_ON.values(), ids=ALWAYS_ON.keys())
def test_a_dropout_by_hand_that_eval_mode_leaves_on_is_at_its_expectation(dropped):
    h = features()
    with AtExpectation():
        quiet = dropped(h)
    assert torch.allclose(quiet, 0.75 * h, rtol=1e-6)


def test_dropouts_by_hand_that_eval_mode_leaves_on_hide_no_other_difference():
    net = made(Draws, *ALWAYS_ON.values()).double()
    program = capture(net, X)
    assert {site.kind for site in program.graph.sites} == {"unscaled", "bernoulli", "dropout", "uniform"}
    is_the_model(program, net, X)
    *others, last = ALWAYS_ON.values()
    other = made(Draws, *others, lambda h: last(h) + 0.01).double()
    with pytest.raises(NotTheModel):
        is_the_model(program, other, X)


@pytest.mark.parametrize(
    "scaled",
    [
        lambda h: torch.rand_like(h).mul_(2),
        lambda h: 2 * torch.rand_like(h),
        lambda h: torch.empty_like(h).uniform_(0, 2),
    ],
    ids=["in place", "anew", "from the start"],
)
def test_a_comparison_of_another_draw_than_torchs_uniform_one_is_as_at_its_mean(scaled):
    with AtExpectation():
        assert (scaled(X) < 1.25).all()
        assert torch.equal((scaled(X) < 1.25).double(), torch.ones_like(X))
        assert torch.equal((scaled(X) < 0.75).double(), torch.zeros_like(X))


def test_drawing_at_expectation_leaves_randomness_as_it_was():
    before = torch.get_rng_state()
    with AtExpectation():
        for draw in (*DRAWN, *OF_DRAWS, *ALWAYS_ON.values()):
            draw(X)
    assert torch.equal(torch.get_rng_state(), before)


def replaced(h, u):
    return F.embedding(torch.where(u < 0.25, 0, h.argmax(1, True) + 1), torch.eye(4, dtype=h.dtype)).flatten(1)


# a comparison of a draw u: word dropout, masked keys, one draw compared twice, and a place in a table
UNKNOWN_USES = {
    "tokens": replaced,
    "minus infinity": lambda h, u: h.masked_fill(u < 0.25, -torch.inf).softmax(-1).nan_to_num(),
    "two of one draw": lambda h, u: h * (u > 0.2) + h * (u > 0.3),
    "an index": lambda h, u: h.index_put((u < 0.25,), h.new_zeros(())),
    "a sum of Booleans": lambda h, u: h * ((u < 0.25) + (h > 0)),
}


def test_a_comparison_used_in_another_way_stays_one_of_a_uniform_site():
    """With its noise off it is as the likelier outcome, at u = 1/2: nothing dropped."""

    class Switched(Draws):
        def forward(self, x):
            h = self.body(x)
            draws = [torch.rand_like(h) if self.training else torch.full_like(h, 0.5) for _ in UNKNOWN_USES]
            return torch.cat([use(h, u) for use, u in zip(UNKNOWN_USES.values(), draws, strict=True)], 1)

    net = made(Switched).double()
    program, h = capture(net, X), features()
    assert [site.kind for site in program.graph.sites] == ["uniform"] * len(UNKNOWN_USES)
    is_the_model(program, net, X)
    numbers = torch.arange(64)
    drawn = [uniform(0, site, numbers, (3,)) for site in range(len(UNKNOWN_USES))]
    wanted = [
        torch.cat([use(h, u.expand_as(h)) for use, u in zip(UNKNOWN_USES.values(), us, strict=True)], 1)
        for us in zip(*drawn, strict=True)
    ]
    assert torch.allclose(passes(program, 64), torch.stack(wanted))
