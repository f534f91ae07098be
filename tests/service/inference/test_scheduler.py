"""The laws of `next_batch`, whatever waits."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdrop.inference.scheduler import Slice, Ticket, next_batch

COSTS = st.sampled_from([1e-7, 0.001, 0.3, 1.0, 7.0, 1e300])


def ticket(rows, key="key", row_cost=1.0):
    return Ticket(None, key, rows, row_cost, math.inf, on_result=lambda result: None, on_end=lambda error: None)


TICKETS = st.lists(st.builds(ticket, st.integers(0, 40), st.sampled_from("ab"), COSTS), min_size=1, max_size=12)


def turns(waiting, budget):
    """Every batch until nobody waits: what is cut waits behind the others. Each batch with those it was taken from."""
    waiting = list(waiting)
    for _ in range(1000):
        if not waiting:
            return
        batch = next_batch(waiting, budget)
        yield batch, list(waiting)
        for one in batch:
            one.ticket.taken = one.stop
            waiting.remove(one.ticket)
        waiting += [one.ticket for one in batch if one.stop < one.ticket.rows]
    raise AssertionError("it does not end")


def shapes(batch):
    return [(one.start, one.stop) for one in batch]


@given(TICKETS, COSTS)
def test_every_row_has_its_turn_exactly_once_and_in_order(waiting, budget):
    slices = [one for batch, _ in turns(waiting, budget) for one in batch]

    for ticket in waiting:
        own = shapes(one for one in slices if one.ticket is ticket)
        assert own[0][0] == 0
        assert own[-1][1] == ticket.rows
        assert all(before[1] == after[0] for before, after in pairwise(own))
        assert all(start < stop for start, stop in own) or own == [(0, 0)]


@given(TICKETS, COSTS)
def test_a_batch_is_of_one_key_and_has_nobody_twice(waiting, budget):
    for batch, _ in turns(waiting, budget):
        assert len({one.ticket.key for one in batch}) == 1
        assert len({id(one.ticket) for one in batch}) == len(batch)


@given(TICKETS, COSTS)
def test_a_batch_costs_no_more_than_the_budget_unless_it_is_one_row(waiting, budget):
    for batch, _ in turns(waiting, budget):
        costs = [one.rows * one.ticket.row_cost for one in batch]
        # each of the sums and products rounds once
        assert sum(costs) <= budget * (1 + 1e-12) or sum(one.rows for one in batch) == 1


@given(TICKETS, COSTS)
def test_the_longest_waiting_is_always_served_and_nobody_else_is_ever_cut(waiting, budget):
    for batch, before in turns(waiting, budget):
        assert batch[0].ticket is before[0]
        assert all(one.stop == one.ticket.rows for one in batch[1:])


@given(TICKETS, COSTS)
def test_nobody_is_left_out_who_would_have_fitted(waiting, budget):
    """So that a batch is as full as its order allows."""
    for batch, before in turns(waiting, budget):
        left = budget - sum(one.rows * one.ticket.row_cost for one in batch)
        present = [one.ticket for one in batch]
        absent = [one for one in before if one not in present and one.key == batch[0].ticket.key]
        # each subtraction rounds once
        assert all(one.cost > left - 1e-12 * budget for one in absent)


@given(TICKETS)
def test_small_queries_of_one_key_go_together_and_overtake_another_key(waiting):
    batch = next_batch(waiting, budget=math.inf)

    assert [one.ticket for one in batch] == [one for one in waiting if one.key == waiting[0].key]


def test_a_batch_is_filled_to_the_budget():
    waiting = [ticket(2), ticket(3, key="other"), ticket(4), ticket(1), ticket(2)]

    batch = next_batch(waiting, budget=5.0)

    # 4 rows more would cost 6; 1 and 2 fill it
    assert batch == [Slice(waiting[0], 0, 2), Slice(waiting[3], 0, 1), Slice(waiting[4], 0, 2)]


def test_the_first_is_cut_where_it_costs_more_than_the_budget():
    first, second = ticket(10, row_cost=0.5), ticket(1, row_cost=0.5)

    assert shapes(next_batch([first, second], budget=2.2)) == [(0, 4)]
    first.taken = 4
    assert shapes(next_batch([first, second], budget=2.2)) == [(4, 8)]
    first.taken = 8
    assert shapes(next_batch([first, second], budget=2.2)) == [(8, 10), (0, 1)]


@pytest.mark.parametrize("row_cost", [5.1, 1e300])
def test_one_row_goes_however_much_it_costs(row_cost):
    assert shapes(next_batch([ticket(3, row_cost=row_cost), ticket(1)], budget=5.0)) == [(0, 1)]


def test_no_rows_cost_nothing():
    waiting = [ticket(0), ticket(5), ticket(0)]

    assert shapes(next_batch(waiting, budget=5.0)) == [(0, 0), (0, 5), (0, 0)]
