"""Answers of /rank beside each other."""

import numpy as np

_INEXACT = {"scores", "shares", "parts"}


def assert_alike(one, other):
    """The same choice, but for rounding: a seed that is new to a server may be computed in another way."""
    assert set(one) == set(other)
    assert {name: one[name] for name in one if name not in _INEXACT} == {
        name: other[name] for name in other if name not in _INEXACT
    }
    for name in _INEXACT & set(one) - {"parts"}:
        assert np.allclose(one[name], other[name], rtol=1e-5, atol=1e-7), name
    assert set(one["parts"]) == set(other["parts"])
    for name, values in one["parts"].items():
        assert np.allclose(values, other["parts"][name], rtol=1e-5, atol=1e-7), name
