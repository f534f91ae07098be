import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.errors import InvalidInput
from dropout_core.training import Adaptive, Constant, Curriculum, Decay, Early, LinearRamp, StepTable

FACTOR = st.floats(0, 10)
STEPS = st.integers(1, 10**6)
STEP = st.integers(0, 2 * 10**6)
in_full = settings(deadline=None)


@pytest.mark.parametrize(
    ("curve", "factors"),
    [
        (Constant(0.3), {0: 0.3, 7: 0.3}),
        (LinearRamp(4), {0: 0.0, 1: 0.25, 3: 0.75, 4: 1.0, 100: 1.0}),
        (LinearRamp(10, start=0.9, end=0.4), {0: 0.9, 5: 0.65, 10: 0.4, 11: 0.4}),
        (Decay(0.5), {0: 1.0, 1: 0.5, 3: 0.125}),
        (Decay(0.9, start=2.0, end=1.0), {0: 2.0, 2: 1.81}),
        (Decay(0.9, start=0.0, end=1.0), {0: 0.0, 2: 0.19}),
        (Early(4), {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0, 9: 0.0}),
        (Early(4, "constant"), {0: 1.0, 3: 1.0, 4: 0.0, 9: 0.0}),
        (StepTable({30: 1.0, 0: 0.5, 60: 0.25}), {0: 0.5, 29: 0.5, 30: 1.0, 59: 1.0, 60: 0.25, 1000: 0.25}),
        (Curriculum(100), {0: 0.0, 10: 1 - math.exp(-1), 100: 1 - math.exp(-10)}),
        (Curriculum(100, sharpness=2.0), {50: 1 - math.exp(-1)}),
    ],
)
def test_a_curve_has_these_factors(curve, factors):
    assert {step: curve(step) for step in factors} == pytest.approx(factors, rel=1e-12, abs=1e-15)


@given(theta=st.floats(0, 1), total=STEPS, step=STEP)
@in_full
def test_the_curriculum_is_the_papers_keep_probability(theta, total, step):
    """θ(t) = (1 − θ) exp(−10 t / T) + θ, as Morerio et al. write it."""
    rate = (1 - theta) * Curriculum(total)(step)
    assert 1 - rate == pytest.approx((1 - theta) * math.exp(-10 * step / total) + theta, rel=1e-12)
    if step >= total:
        assert abs(1 - rate - theta) < 1e-4


@given(steps=STEPS, start=FACTOR, end=FACTOR, gamma=st.floats(0.01, 0.999999), first=STEP, second=STEP)
@in_full
def test_a_curve_goes_one_way_and_stays_within_its_bounds(steps, start, end, gamma, first, second):
    earlier, later = sorted((first, second))
    rising = [LinearRamp(steps), Curriculum(steps)]
    falling = [Early(steps), Early(steps, "constant"), LinearRamp(steps, 1.0, 0.0), Decay(gamma)]
    (rising if start <= end else falling).extend([LinearRamp(steps, start, end), Decay(gamma, start, end)])
    # By rounding alone a factor may step back: by two units in the last place of 10.
    slack = 4e-15
    for curve in rising:
        assert curve(earlier) <= curve(later) + slack
    for curve in falling:
        assert curve(earlier) + slack >= curve(later)
    for curve in [*rising, *falling]:
        assert 0 <= curve(earlier) <= curve.greatest
    for curve in (LinearRamp(steps, start, end), Decay(gamma, start, end)):
        assert min(start, end) <= curve(later) <= max(start, end)
        assert curve(0) == start
    assert LinearRamp(steps, start, end)(steps) == end


@given(table=st.dictionaries(st.integers(1, 50), FACTOR), first=FACTOR, step=st.integers(0, 60))
@in_full
def test_a_table_gives_the_last_entry_up_to_a_step(table, first, step):
    expected = first
    for at in range(1, step + 1):
        expected = table.get(at, expected)
    curve = StepTable({**table, 0: first})
    assert curve(step) == expected
    assert curve.greatest == max([first, *table.values()])


def test_a_table_is_a_copy():
    table = {0: 0.5}
    curve = StepTable(table)
    table[0] = 7.0
    assert curve(0) == 0.5


def test_a_table_and_a_curve_are_values():
    assert StepTable({3: 1.0, 0: 0.5}) == StepTable({0: 0.5, 3: 1.0})
    assert LinearRamp(3) == LinearRamp(3, 0.0, 1.0) != LinearRamp(4)


@pytest.mark.parametrize("step", [-1, 1.0, True, None])
def test_a_step_is_a_whole_number_of_at_least_0(step):
    with pytest.raises(InvalidInput, match=f"step is {step}; a whole number of at least 0"):
        LinearRamp(3)(step)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Constant(-0.1), "factor is -0.1; a finite number of at least 0"),
        (lambda: Constant(math.nan), "factor is nan"),
        (lambda: LinearRamp(0), "steps is 0; a whole number of at least 1"),
        (lambda: LinearRamp(2.5), "steps is 2.5"),
        (lambda: LinearRamp(3, start=math.inf), "start is inf"),
        (lambda: LinearRamp(3, end=-1.0), "end is -1.0"),
        (lambda: Decay(1.0), "gamma is 1.0; a number above 0 and below 1"),
        (lambda: Decay(0.0), "gamma is 0.0; a number above 0 and below 1"),
        (lambda: Decay(0.5, start=-1.0), "start is -1.0"),
        (lambda: Curriculum(-5), "steps is -5"),
        (lambda: Curriculum(5, sharpness=-1.0), "sharpness is -1.0"),
        (lambda: Early(0), "steps is 0"),
        (lambda: Early(3, "cosine"), "form is 'cosine'; it is one of constant, linear"),
        (lambda: StepTable({}), "an entry for step 0"),
        (lambda: StepTable({1: 0.5}), "an entry for step 0"),
        (lambda: StepTable({0: 0.5, -3: 0.1}), "a step of the table is -3"),
        (lambda: StepTable({0: 0.5, 3: -0.1}), "the factor of step 3 is -0.1"),
        (lambda: Adaptive(patience=0), "patience is 0"),
        (lambda: Adaptive(size=-0.1), "size is -0.1"),
        (lambda: Adaptive(tolerance=math.inf), "tolerance is inf"),
        (lambda: Adaptive(start=0.4), "start is 0.4; a number within 0.5 … 1.5"),
        (lambda: Adaptive(start=1.0, highest=0.9), "start is 1.0; a number within 0.5 … 0.9"),
        (lambda: Adaptive(lowest=-0.5), "lowest is -0.5"),
    ],
)
def test_what_has_no_meaning_is_refused(make, reason):
    with pytest.raises(InvalidInput, match=reason):
        make()


def factors(curve, losses):
    """The factor after each pair of a training and a validation loss."""
    state, found = curve.first(), []
    for train, validation in losses:
        state = curve.after(state, train, validation)
        found.append(state.factor)
    return found


CALM = [(1.0, 1.1), (0.9, 1.0), (0.8, 0.9), (0.7, 0.8), (0.6, 0.7)]


@pytest.mark.parametrize(
    ("curve", "losses", "expected"),
    [
        # Both losses fall, the gap stays: nothing happens.
        (Adaptive(size=0.25, patience=2, tolerance=0.01), CALM, [1, 1, 1, 1, 1]),
        # The gap grows for two steps in a row: up, and begin anew.
        (
            Adaptive(size=0.25, patience=2),
            [(1.0, 1.1), (0.9, 1.1), (0.8, 1.1), (0.7, 1.1), (0.6, 1.1), (0.5, 1.1)],
            [1, 1, 1.25, 1.25, 1.25, 1.5],
        ),
        # The gap grows, shrinks to the smallest one, grows: not in a row.
        (
            Adaptive(size=0.25, patience=2),
            [(1.0, 1.1), (0.9, 1.2), (0.8, 0.9), (0.7, 0.9), (0.6, 0.6), (0.5, 0.7)],
            [1, 1, 1, 1, 1, 1],
        ),
        # A gap that grows slowly is measured against the smallest one, not against the last.
        (
            Adaptive(size=0.25, patience=1, tolerance=0.15),
            [(1.0, 1.1), (0.8, 1.0), (0.6, 0.9)],
            [1, 1, 1.25],
        ),
        # The training loss stalls for two steps in a row: down, and begin anew.
        (
            Adaptive(size=0.25, patience=2),
            [(1.0, 1.0), (1.0, 1.0), (1.1, 1.0), (1.1, 1.0), (1.1, 1.0), (1.2, 1.0)],
            [1, 1, 0.75, 0.75, 0.75, 0.5],
        ),
        # It stalls once, and falls again.
        (
            Adaptive(size=0.25, patience=2),
            [(1.0, 1.0), (1.0, 1.0), (0.9, 0.9), (0.9, 0.9), (0.8, 0.8)],
            [1, 1, 1, 1, 1],
        ),
        # A loss that falls by less than the tolerance stalls; one that falls slowly is measured against the lowest.
        (Adaptive(size=0.25, patience=1, tolerance=0.15), [(1.0, 1.0), (0.9, 0.9)], [1, 0.75]),
        (
            Adaptive(size=0.25, patience=3, tolerance=0.15),
            [(1.0, 1.0), (0.9, 0.9), (0.8, 0.8), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5)],
            [1, 1, 1, 1, 1, 1],
        ),
        # Both at once: the gap decides.
        (Adaptive(size=0.25, patience=1), [(1.0, 1.0), (1.1, 1.5)], [1, 1.25]),
        # The bounds hold.
        (
            Adaptive(size=0.4, patience=1, lowest=0.5, highest=1.3),
            [(1.0, 1.0), (0.9, 1.5), (0.8, 1.0), (0.7, 2.0)],
            [1, 1.3, 1.3, 1.3],
        ),
        (
            Adaptive(size=0.4, patience=1, lowest=0.5, highest=1.3),
            [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)],
            [1, 0.6, 0.6, 0.5],
        ),
        # After a change the next losses are the first: a loss that jumped with the rate does not count as stalled.
        (
            Adaptive(size=0.25, patience=1),
            [(1.0, 1.0), (0.9, 1.5), (1.2, 1.5), (1.1, 1.3)],
            [1, 1.25, 1.25, 1.25],
        ),
        (Adaptive(start=1.2, size=0.25, patience=5), CALM, [1.2] * 5),
    ],
)
def test_the_adaptive_factor_follows_the_losses(curve, losses, expected):
    assert factors(curve, losses) == pytest.approx(expected, rel=1e-12)


@given(
    losses=st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=40),
    patience=st.integers(1, 4),
    size=st.floats(0, 2),
)
@in_full
def test_the_adaptive_factor_changes_by_its_size_not_faster_than_its_patience(losses, patience, size):
    curve = Adaptive(size=size, patience=patience, lowest=0.25, highest=1.75)
    found = [1.0, *factors(curve, losses)]
    changes = [step for step in range(1, len(found)) if found[step] != found[step - 1]]
    # The first losses after a change are those to compare with.
    assert all(later - earlier > patience for earlier, later in zip([0, *changes], changes, strict=False))
    assert all(0.25 <= factor <= 1.75 for factor in found)
    assert all(abs(found[step] - found[step - 1]) <= size + 1e-15 for step in changes)
