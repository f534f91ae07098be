"""Exact expectations over masks, slowly, and inputs: what the theory is held against."""

import itertools
import math

import torch


def masks_of(units, p):
    """Every mask [units], 1 where kept, with its probability."""
    for bits in itertools.product((0.0, 1.0), repeat=units):
        yield torch.tensor(bits, dtype=torch.float64), math.prod(1 - p if bit else p for bit in bits)


def expectation(units, p, value):
    return sum(chance * value(mask) for mask, chance in masks_of(units, p))


def factor(p, form):
    """What a kept unit is multiplied by, and the mean of a unit's factor."""
    return (1 / (1 - p), 1.0) if form == "inverted" else (1.0, 1 - p)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_mean(drawn, wanted):
    """The mean of draws [T, …] against an exact expectation, within five standard errors."""
    drawn = drawn.double()
    assert ((drawn.mean(0) - wanted).abs() <= 5 * drawn.std(0) / math.sqrt(len(drawn)) + 1e-9).all()
