import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.measures.moments import Moments, concatenate, merge, moments_of
from tests.support import references

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


def assert_moments(moments, values):
    """Within the roundings of a sum of n numbers, which move mean and std by at most n ulp of the largest."""
    mean, variance = references.moments(values)
    rounding = 2 * len(values) * math.ulp(max(map(abs, values)))
    assert moments.count == len(values)
    assert abs(float(moments.mean) - mean) <= rounding
    assert abs(math.sqrt(float(moments.variance)) - math.sqrt(variance)) <= rounding


def merged_in_turn(parts):
    result = parts[0]
    for part in parts[1:]:
        result = result.merge(part)
    return result


@given(VALUES)
def test_moments_are_those_of_exact_arithmetic(values):
    assert_moments(Moments.of(torch.tensor(values, dtype=torch.float64)), values)


@given(st.lists(VALUES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_merging_parts_in_any_order_gives_the_moments_of_all(parts, random):
    shuffled = random.sample(parts, len(parts))
    merged = merged_in_turn([Moments.of(torch.tensor(part, dtype=torch.float64)) for part in shuffled])
    assert_moments(merged, [value for part in parts for value in part])


@given(VALUES)
def test_one_pass_at_a_time_is_welford(values):
    singles = [Moments.of(torch.tensor([value], dtype=torch.float64)) for value in values]
    assert_moments(merged_in_turn(singles), values)


@pytest.mark.parametrize("chunk", [1, 7, 1000], ids=["one by one", "in sevens", "at once"])
def test_a_variance_of_1e_12_around_1e6_survives(chunk):
    """E x² − (E x)² would lose it all: 1e12 has roundings of 1e-4."""
    generator = torch.Generator().manual_seed(0)
    values = 1e6 + 1e-6 * torch.randn(1000, generator=generator, dtype=torch.float64)
    merged = merged_in_turn([Moments.of(part) for part in values.split(chunk)])
    mean, variance = references.moments(values.tolist())
    assert abs(float(merged.mean) - mean) <= 8 * math.ulp(1e6)
    assert abs(float(merged.variance.sqrt()) - math.sqrt(variance)) <= 8 * math.ulp(1e6)


def test_one_pass_has_variance_0():
    one = Moments.of(torch.tensor([[3.0, -1.0]]))
    assert one.count == 1
    assert one.mean.tolist() == [3, -1]
    assert one.variance.tolist() == [0, 0]


def test_moments_are_float64_whatever_came():
    moments = Moments.of(torch.ones(3, 2, dtype=torch.bfloat16))
    assert moments.mean.dtype == moments.m2.dtype == torch.float64


@given(VALUES, st.floats(-100, 100), st.floats(-100, 100))
def test_affine_moments_are_those_of_the_affine_values(values, scale, shift):
    draws = torch.tensor(values, dtype=torch.float64)
    direct = Moments.of(draws * scale + shift)
    moved = Moments.of(draws).affine(*torch.tensor([scale, shift], dtype=torch.float64))
    rounding = 4 * len(values) * math.ulp(max(map(abs, values)) * abs(scale) + abs(shift))
    assert moved.count == direct.count
    assert abs(float(moved.mean - direct.mean)) <= rounding
    assert abs(float(moved.variance.sqrt() - direct.variance.sqrt())) <= rounding


def test_named_statistics_merge_over_passes_and_join_over_rows():
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(10, 4, 3, generator=generator) for name in ("value", "entropy")}
    whole = moments_of(values)
    parts = [
        merge(
            moments_of({name: value[:6, rows] for name, value in values.items()}),
            moments_of({name: value[6:, rows] for name, value in values.items()}),
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    joined = concatenate(parts)
    assert joined.keys() == whole.keys()
    for name, moments in whole.items():
        assert joined[name].count == moments.count == 10
        torch.testing.assert_close(joined[name].mean, moments.mean, rtol=0, atol=1e-14)
        torch.testing.assert_close(joined[name].m2, moments.m2, rtol=0, atol=1e-13)
