import pytest
import torch
import torch.nn.functional as F

from dropout_core.errors import InvalidInput
from dropout_core.theory import (
    equalised_factors,
    equivalent_l2_penalty,
    linear_network_penalty,
    nuclear_norm_penalty,
    nuclear_norm_shrinkage,
)
from tests.support.enumeration import expectation, masks_of, randn

P = 0.4


def white(rows, features):
    """Inputs with XᵀX / N = 1."""
    return torch.linalg.qr(randn(rows, features, seed=9)).Q * rows**0.5


def minimised(value, *starts):
    """Local minimum of value(*starts)."""
    variables = [start.clone().requires_grad_() for start in starts]
    optimiser = torch.optim.LBFGS(
        variables, max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = value(*variables)
        loss.backward()
        return loss

    optimiser.step(closure)
    return [variable.detach() for variable in variables]


def expected_error(first, second, target):
    """E ‖y − U (n ⊙ V x)‖² over masks and white x, with y = target x."""
    chances = torch.tensor([chance for _, chance in masks_of(len(first), P)], dtype=torch.float64)
    factors = torch.stack([mask for mask, _ in masks_of(len(first), P)]) / (1 - P)
    maps = (second * factors.unsqueeze(1)) @ first
    return chances @ (target - maps).square().sum((1, 2))


def test_the_penalty_is_what_dropout_of_the_hidden_layer_adds_to_the_squared_error():
    x, y, first, second = white(7, 4), randn(7, 3), randn(5, 4, seed=1), randn(3, 5, seed=2)

    def error(mask):
        return (y - (x @ first.T * mask / (1 - P)) @ second.T).square().sum(1).mean()

    added = expectation(5, P, error) - (y - x @ first.T @ second.T).square().sum(1).mean()
    assert torch.allclose(linear_network_penalty(first, second, P), added, rtol=1e-12)
    assert torch.allclose(equivalent_l2_penalty(x @ first.T, second, P), added, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4)])
@pytest.mark.parametrize("more", [0, 1, 4])
def test_equalised_factors_make_the_map_at_the_least_penalty(shape, more):
    weight, width = randn(*shape), min(shape) + more
    first, second = equalised_factors(weight, width)
    assert first.shape == (width, shape[1])
    assert second.shape == (shape[0], width)
    assert torch.allclose(second @ first, weight, rtol=1e-10, atol=1e-12)
    each = torch.linalg.matrix_norm(weight, "nuc") / width
    assert torch.allclose(first.square().sum(1), each.expand(width), rtol=1e-10)
    assert torch.allclose(second.square().sum(0), each.expand(width), rtol=1e-10)
    least = nuclear_norm_penalty(weight, width, P)
    assert torch.allclose(linear_network_penalty(first, second, P), least, rtol=1e-10)
    assert torch.allclose(least, P / (1 - P) / width * torch.linalg.matrix_norm(weight, "nuc") ** 2)


def test_a_map_of_low_rank_needs_no_more_units_than_its_rank():
    weight = randn(5, 2) @ randn(2, 4, seed=1)
    first, second = equalised_factors(weight, 2)
    assert torch.allclose(second @ first, weight, rtol=1e-10, atol=1e-12)
    assert torch.allclose(linear_network_penalty(first, second, P), nuclear_norm_penalty(weight, 2, P))
    for function in (lambda: equalised_factors(weight, 1), lambda: nuclear_norm_penalty(weight, 1, P)):
        with pytest.raises(InvalidInput, match="1 hidden units make no map of rank 2; a width of at least 2 is wanted"):
            function()


def test_maps_whose_singular_values_agree_or_vanish_are_equalised():
    for weight in (torch.eye(3), torch.zeros(2, 3), torch.diag(torch.tensor([1.0, 1.0, 1e-3]))):
        first, second = equalised_factors(weight, 5)
        assert torch.allclose(second @ first, weight, atol=1e-6)
        assert torch.allclose(first.square().sum(1), second.square().sum(0), atol=1e-6)
        assert torch.allclose(first.square().sum(1), first.square().sum(1).mean(), atol=1e-6)


@pytest.mark.parametrize("width", [3, 4])
def test_no_factorisation_has_a_smaller_penalty_and_minimisation_reaches_it(width):
    """The factors (U A)(A⁻¹ V), for every A; a fourth unit begins without weights."""
    weight, unused = randn(3, 4), width - 3
    first, second = F.pad(weight, (0, 0, 0, unused)), F.pad(torch.eye(3, dtype=torch.float64), (0, unused))
    assert torch.equal(second @ first, weight)

    def penalty(change):
        return linear_network_penalty(torch.linalg.solve(change, first), second @ change, P)

    least = nuclear_norm_penalty(weight, width, P)
    for seed in range(50):
        assert penalty(randn(width, width, seed=seed)) >= least
    (change,) = minimised(penalty, torch.eye(width, dtype=torch.float64) + 0.3 * randn(width, width, seed=5))
    reached = penalty(change)
    assert least * (1 - 1e-12) <= reached <= least * (1 + 1e-6)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_dropout_shrinks_the_singular_values_of_the_map_it_learns(width):
    left, right = torch.linalg.qr(randn(3, 3)).Q, torch.linalg.qr(randn(4, 3, seed=1)).Q
    target = left * torch.tensor([3.0, 2.0, 0.4]) @ right.T
    first, second = minimised(
        lambda first, second: expected_error(first, second, target), randn(width, 4, seed=3), randn(3, width, seed=4)
    )
    learned, wanted = second @ first, nuclear_norm_shrinkage(target, width, P)
    assert torch.allclose(learned, wanted, atol=1e-5)
    assert torch.linalg.matrix_rank(wanted) == 2 < torch.linalg.matrix_rank(target), "a small direction vanishes"
    least = (target - wanted).square().sum() + nuclear_norm_penalty(wanted, width, P)
    assert torch.allclose(expected_error(first, second, target), least, rtol=1e-8)


@pytest.mark.parametrize("values", [[3.0, 2.0, 0.4], [1.0, 1.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_the_shrunken_map_is_the_minimum_over_all_maps(values):
    """Of a convex function: no step in any direction goes down."""
    target = torch.diag(torch.tensor(values, dtype=torch.float64))

    def value(w):
        return (target - w).square().sum() + P / (1 - P) / 3 * torch.linalg.matrix_norm(w, "nuc") ** 2

    shrunk = nuclear_norm_shrinkage(target, 3, P)
    for seed in range(100):
        for size in (1e-3, 1.0):
            assert value(shrunk + size * randn(3, 3, seed=seed)) > value(shrunk)
    for change in (0.99, 1.01):
        assert value(shrunk * change) >= value(shrunk)


def test_without_dropout_nothing_is_shrunk_but_the_rank_of_the_width():
    target = randn(3, 4)
    assert torch.allclose(nuclear_norm_shrinkage(target, 3, 0.0), target)
    assert torch.linalg.matrix_rank(nuclear_norm_shrinkage(target, 2, 0.0)) == 2


def test_shapes_widths_and_rates_that_do_not_fit_are_refused():
    weight = randn(3, 3)
    for function in (nuclear_norm_penalty, nuclear_norm_shrinkage):
        with pytest.raises(InvalidInput, match=r"the matrix has shape \[3\]; \[O, I\] is wanted"):
            function(weight[0], 3, P)
        with pytest.raises(InvalidInput, match="at least 0 and below 1"):
            function(weight, 3, 1.0)
        for width in (0, 2.0, True):
            with pytest.raises(InvalidInput, match="a whole number of at least 1 is wanted"):
                function(weight, width, P)
    with pytest.raises(InvalidInput, match=r"shapes \[3, 3\] and \[3, 2\]; \[r, I\] and \[O, r\] is wanted"):
        linear_network_penalty(weight, weight[:, :2], P)
