import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.layers import AttentionDropout, MultiheadAttention
from dropout_core.layers.attention import attention_dropout, guided_keep
from tests.support import moments

ROWS = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1.0)), min_size=1, max_size=12).filter(any)
RATES = st.floats(0.001, 0.999)


def keep_of(row, p):
    return guided_keep(torch.tensor(row, dtype=torch.float64), p).tolist()


def alive(row, values):
    return [value for weight, value in zip(row, values, strict=True) if weight > 0]


@given(ROWS, RATES)
def test_guided_keep_is_the_documented_rule(row, p):
    assert alive(row, keep_of(row, p)) == pytest.approx(alive(row, moments.guided_keep(row, p)), abs=1e-9)


@given(ROWS, RATES)
def test_guided_keep_has_the_mean_of_plain_dropout_in_every_row(row, p):
    keep = alive(row, keep_of(row, p))
    assert math.fsum(keep) / len(keep) == pytest.approx(1 - p, abs=1e-9)
    assert min(keep) >= (1 - 2 * p if p <= 7 / 15 else (1 - p) / 8) - 1e-12
    assert max(keep) < 1


@given(ROWS, RATES)
def test_what_weighs_more_is_dropped_less(row, p):
    keep = [k for weight, k in sorted(zip(row, keep_of(row, p), strict=True)) if weight > 0]
    assert keep == sorted(keep)


@given(st.integers(1, 100), st.floats(0.001, 7 / 15))
def test_of_n_keys_one_that_carries_all_is_dropped_n_times_less(count, p):
    assert keep_of([1.0] + [1e-15] * (count - 1), p)[0] == pytest.approx(1 - p / count, abs=1e-9)


@given(st.integers(1, 40), RATES, st.integers(0, 3))
def test_equal_weights_are_dropped_as_without_guidance(count, p, masked):
    keep = keep_of([1 / count] * count + [0.0] * masked, p)
    assert keep[:count] == pytest.approx([1 - p] * count, rel=1e-12)


@given(ROWS, RATES)
def test_masked_keys_change_nothing(row, p):
    spread = [each for weight in row for each in (0.0, weight)]
    assert keep_of(spread, p)[1::2] == pytest.approx(keep_of(row, p), rel=1e-12)


@given(ROWS, RATES)
def test_guidance_never_adds_variance(row, p):
    guided = math.fsum(w * w * (1 - k) / k for w, k in zip(row, keep_of(row, p), strict=True) if w > 0)
    assert guided <= math.fsum(w * w for w in row) * p / (1 - p) * (1 + 1e-9)


def test_guided_keep_by_hand():
    """Shares 5/19 and 5/7, their mean 80/133: 7/16 and 19/16 of p; at p = 0.7, t = 3/8 of the way from p to there."""
    assert keep_of([0.7, 0.1, 0.1, 0.1], 0.3) == pytest.approx([1 - 0.3 * 7 / 16, *[1 - 0.3 * 19 / 16] * 3], rel=1e-12)
    wanted = [1 - 0.7 * (5 / 8 + 3 / 8 * 7 / 16), *[1 - 0.7 * (5 / 8 + 3 / 8 * 19 / 16)] * 3]
    assert keep_of([0.7, 0.1, 0.1, 0.1], 0.7) == pytest.approx(wanted, rel=1e-12)
    assert keep_of([2.0], 0.3) == pytest.approx([0.7], rel=1e-12)


@given(ROWS, RATES)
def test_what_is_kept_is_divided_by_its_own_keep(row, p):
    weights = torch.tensor(row, dtype=torch.float64)
    y = attention_dropout(weights.expand(16, -1), p, guided=True)
    kept = weights / guided_keep(weights, p)
    assert torch.where(y == 0, kept, y).equal(kept.expand(16, -1))


@pytest.mark.parametrize("guided", [False, True])
def test_a_query_without_keys_stays_without(guided):
    weights = torch.zeros(2, 3, 4, requires_grad=True)
    y = attention_dropout(weights, 0.4, guided=guided)
    y.sum().backward()
    assert not y.any()
    assert weights.grad.isfinite().all()


def test_weights_that_nearly_vanish_do_no_harm():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tiny = torch.finfo(dtype).smallest_normal
        weights = torch.tensor([[1.0, tiny, tiny, 0.0]], dtype=dtype).expand(200, -1).clone().requires_grad_()
        y = attention_dropout(weights, 0.3, guided=True)
        y.sum().backward()
        assert y.isfinite().all()
        assert y[:, 0].max() <= 1 / (1 - 0.3 / 3) * (1 + torch.finfo(dtype).eps)
        assert weights.grad.max() <= 1 / (1 - 2 * 0.3) * (1 + torch.finfo(dtype).eps)


def test_gradients_take_the_mask_and_keep_as_constants():
    torch.manual_seed(0)
    weights = (2 * torch.randn(5, 6, 7, dtype=torch.float64)).softmax(-1).requires_grad_()
    y = attention_dropout(weights, 0.3, guided=True)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    keep = guided_keep(weights, 0.3)
    assert not keep.requires_grad
    assert torch.allclose(weights.grad, upstream * (y != 0) / keep, rtol=1e-12, atol=0)
    assert (y == 0).any()


def test_half_precision_does_not_round_the_rate():
    """In bfloat16 a keep of 0.999 would be 1, and nothing would ever be dropped."""
    torch.manual_seed(0)
    p, weights = 0.001, torch.full((1, 64, 64), 1 / 64, dtype=torch.bfloat16)
    assert guided_keep(weights, p).dtype == torch.float32
    net = nn.Sequential(AttentionDropout(p, guided=True), nn.Flatten())
    program = capture(net, weights)
    passes = torch.cat(
        [chunk.outputs for chunk in Engine(program).run(program.weights, weights, PassOptions(40, 0, sampling="iid"))]
    )
    trained = attention_dropout(weights.expand(40, -1, -1), p, guided=True)
    for y in (passes, trained):
        assert abs((y == 0).double().mean() - p) < 5 * math.sqrt(p * (1 - p) / y.numel())


@pytest.mark.parametrize("guided", [False, True])
def test_the_rows_of_a_pass_share_their_draws(guided):
    torch.manual_seed(0)
    net = nn.Sequential(moments.Attended(MultiheadAttention(4, 2, 0.5, guided)), nn.Flatten()).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    program = capture(net, x)
    engine = Engine(program)
    assert engine.looped == ""
    rows = x[[0, 1, 0]]
    outputs = torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, rows, PassOptions(6, 0, sampling="iid"))]
    )
    assert torch.allclose(outputs[:, 0], outputs[:, 2], rtol=1e-12)
    assert not torch.allclose(outputs[0, 0], outputs[1, 0])
