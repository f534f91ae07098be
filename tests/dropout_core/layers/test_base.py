import math

import pytest

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, checked_rate


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf, "0.5", None, True])
def test_what_is_not_a_probability_is_refused(p):
    with pytest.raises(InvalidInput, match=r"p is .*; a drop probability is a number between 0 and 1"):
        RateLayer(p)


@pytest.mark.parametrize("p", [0, 0.0, 0.25, 1, 1.0])
def test_a_probability_is_kept_as_a_float(p):
    layer = RateLayer(p)
    assert (layer.p, type(layer.p)) == (float(p), float)


def test_a_rate_is_checked_whenever_it_is_set():
    layer = RateLayer(0.5)
    with pytest.raises(InvalidInput, match="a drop probability"):
        layer.p = 2
    assert layer.p == 0.5


def test_one_is_refused_where_the_rate_must_stay_below():
    assert checked_rate(0.999, below_one=True) == 0.999
    with pytest.raises(InvalidInput, match="at least 0 and below 1"):
        checked_rate(1.0, below_one=True)
