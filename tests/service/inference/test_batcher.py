"""The queue and its thread, with a `run` that answers by hand: who is computed when, and with whom."""

import math
import threading
from types import SimpleNamespace

import pytest

from mcdrop.errors import DeadlineExceeded, QueueFull
from mcdrop.inference import batcher as batching
from mcdrop.inference.batcher import QueueLimits
from tests.support.queue_desk import Caller, Clock, Desk, busy, rows_of, submit


def test_each_caller_gets_its_own_rows(serve):
    desk = Desk(held=True)
    batcher = serve(desk)
    first = busy(batcher, desk)
    others = submit(batcher, *(Caller(name, rows) for name, rows in (("a", 3), ("b", 1), ("c", 0), ("d", 2))))
    desk.let_go()

    assert first.answer == [("busy", 0)]
    assert [one.answer for one in others] == [
        rows_of(*one) for one in (("a", 0, 3), ("b", 0, 1), ("c", 0, 0), ("d", 0, 2))
    ]
    assert desk.batches[1] == [("a", 0, 3), ("b", 0, 1), ("c", 0, 0), ("d", 0, 2)]


def test_a_part_says_when_its_batch_ran(serve, clock):
    def answer(batch):
        clock.now += 2
        return [rows_of(*one) for one in batch]

    (caller,) = submit(serve(Desk(answer=answer)), Caller("a"))

    assert caller.answer
    assert (caller.told[0].began_ns, caller.told[0].ended_ns) == (1000 * 10**9, 1002 * 10**9)


def test_other_keys_wait_for_their_own_batch(serve):
    desk = Desk(held=True)
    batcher = serve(desk)
    busy(batcher, desk)
    others = submit(batcher, Caller("a", key=1), Caller("b", key=2), Caller("c", key=1))
    desk.let_go()

    assert [one.answer for one in others]
    assert desk.batches[1:] == [[("a", 0, 1), ("c", 0, 1)], [("b", 0, 1)]]


def test_a_lone_caller_waits_for_no_company(serve, monkeypatch):
    """No timer: a thread that is free sleeps until somebody comes, and then takes whoever is there."""

    class Timeless(threading.Condition):
        def wait(self, timeout=None):
            assert timeout is None
            return super().wait()

    monkeypatch.setattr(batching, "threading", SimpleNamespace(Condition=Timeless, Thread=threading.Thread))
    monkeypatch.setattr(batching, "time", Clock())  # which has no sleep
    desk = Desk()
    batcher = serve(desk)

    for name in "abc":  # each is answered before the next comes
        assert submit(batcher, Caller(name))[0].answer == [(name, 0)]
    assert batcher.alive
    assert [len(batch) for batch in desk.batches] == [1, 1, 1]
    assert len({id(thread) for thread in desk.threads}) == 1


def test_preparing_is_done_first_and_on_the_thread_that_computes(serve):
    desk, prepared = Desk(), []
    batcher = serve(desk, prepare=lambda: prepared.append(threading.current_thread()))

    assert submit(batcher, Caller("a"))[0].answer
    assert prepared == desk.threads


def test_what_is_left_of_a_long_query_waits_behind_those_who_came_meanwhile(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(100, math.inf, batch_s=2.0))
    long = busy(batcher, desk, "long", rows=6)
    short = submit(batcher, Caller("a", key=1), Caller("b", key=2))
    desk.finish()
    assert desk.begun() == [("a", 0, 1)]
    (later,) = submit(batcher, Caller("c", key=3))
    desk.let_go()

    assert long.answer == rows_of("long", 0, 6)
    assert [one.answer for one in (*short, later)] == [[("a", 0)], [("b", 0)], [("c", 0)]]
    names = [batch[0][0] for batch in desk.batches]
    assert names[:4] == ["long", "a", "b", "long"]
    assert names.index("c") == 4
    assert (long.told[0].start, long.told[0].stop) == (0, 2)


def test_what_nobody_wants_any_more_is_not_computed(serve):
    desk = Desk(held=True)
    batcher = serve(desk)
    busy(batcher, desk)
    gone, stays = submit(batcher, Caller("gone"), Caller("stays"))
    batcher.cancel(gone.ticket)
    desk.let_go()

    assert stays.answer == [("stays", 0)]
    assert desk.batches[1:] == [[("stays", 0, 1)]]
    assert (gone.told, gone.ended.is_set()) == ([], False)


def test_what_runs_for_nobody_is_dropped_and_the_rest_of_it_never_runs(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(100, math.inf, batch_s=2.0))
    gone = busy(batcher, desk, "gone", rows=6)
    batcher.cancel(gone.ticket)
    assert (batcher.pending_requests, batcher.pending_s) == (0, 2.0)
    desk.let_go()

    assert submit(batcher, Caller("next"))[0].answer
    assert desk.batches == [[("gone", 0, 2)], [("next", 0, 1)]]
    assert (gone.told, gone.ended.is_set()) == ([], False)


def test_a_late_one_is_never_computed(serve, clock):
    desk = Desk(held=True)
    batcher = serve(desk)
    busy(batcher, desk)
    late, last_moment = submit(batcher, Caller("late", deadline=1005.0), Caller("last moment", deadline=1005.5))
    clock.now = 1005.0
    desk.let_go()

    with pytest.raises(DeadlineExceeded, match="the deadline passed while the request was queued"):
        _ = late.answer
    assert last_moment.answer
    assert desk.batches[1:] == [[("last moment", 0, 1)]]


def test_the_rest_of_a_long_query_is_not_computed_when_its_time_is_over(serve, clock):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(100, math.inf, batch_s=2.0))
    long = busy(batcher, desk, "long", rows=6, deadline=1001.0)
    clock.now = 1001.0
    desk.let_go()

    with pytest.raises(DeadlineExceeded):
        _ = long.answer
    assert [(part.start, part.stop) for part in long.told] == [(0, 2)]
    assert desk.batches == [[("long", 0, 2)]]


def test_no_more_requests_wait_than_may(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(requests=2, pending_s=math.inf, batch_s=1e9))
    busy(batcher, desk, cost=3.0)
    waiting = submit(batcher, Caller("a", cost=2.5), Caller("b", rows=2, cost=0.5))

    told = (
        r"^the queue holds 2 requests \(6\.5 s of computing\), and this one would add 0\.0 s\. "
        r"Limits: 2 requests, inf s\. Retry in 7 s\.$"
    )
    with pytest.raises(QueueFull, match=told) as refusal:
        submit(batcher, Caller("c", cost=0.0))
    assert refusal.value.retry_after_s == 7
    assert (batcher.pending_requests, batcher.pending_s) == (3, 6.5)
    desk.let_go()
    assert all(one.answer for one in waiting)  # who was there before is not harmed
    assert submit(batcher, Caller("c"))[0].answer
    assert batcher.pending_requests == 0


def test_no_more_computing_waits_than_may(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=10.0, batch_s=1e9))
    busy(batcher, desk, cost=4.0)
    submit(batcher, Caller("a", cost=4.5))

    with pytest.raises(QueueFull, match=r"^the queue holds 1 requests \(8\.5 s") as refusal:
        submit(batcher, Caller("too much", cost=1.75))
    assert refusal.value.retry_after_s == 9
    (fits,) = submit(batcher, Caller("fits", cost=1.5))
    desk.let_go()
    assert fits.answer


def test_where_nobody_waits_a_query_may_be_as_long_as_it_likes(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=10.0, batch_s=2.0))
    long = busy(batcher, desk, "long", rows=8, cost=2.0)

    assert batcher.pending_s == 16.0
    with pytest.raises(QueueFull) as refusal:  # what is left of it waits
        submit(batcher, Caller("short"))
    assert refusal.value.retry_after_s == 16
    desk.finish(8)
    assert long.answer == rows_of("long", 0, 8)


def test_a_short_wait_is_a_second_to_who_asks_again(serve):
    desk = Desk(held=True)
    batcher = serve(desk, QueueLimits(requests=1, pending_s=10.0, batch_s=1e9))
    busy(batcher, desk, cost=0.01)
    submit(batcher, Caller("a", cost=0.01))

    with pytest.raises(QueueFull) as refusal:
        submit(batcher, Caller("b", cost=0.01))
    assert refusal.value.retry_after_s == 1


def test_what_waits_is_told_by_the_measured_speed_and_batches_are_cut_by_it(serve, clock):
    def twice_as_long(batch):
        clock.now += 2 * sum(stop - start for _, start, stop in batch)
        return [rows_of(*one) for one in batch]

    desk = Desk(answer=twice_as_long)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=math.inf, batch_s=6.0))
    spent = said = 6.0  # a batch of those there may be, as if it had been
    for _ in range(3):
        assert submit(batcher, Caller("a"))[0].answer
        spent, said = 0.8 * spent + 2, 0.8 * said + 1
    slowness = spent / said
    desk.held = True
    long = busy(batcher, desk, "long", rows=100)

    assert batcher.pending_s == pytest.approx(100 * slowness, rel=1e-12)
    assert desk.batches[-1] == [("long", 0, int(6.0 / slowness))] == [("long", 0, 4)]
    batcher.cancel(long.ticket)


def test_what_a_small_batch_takes_besides_its_rows_says_little_of_a_large_one(serve, clock):
    def answer(batch):
        clock.now += 1.0
        return [rows_of(*one) for one in batch]

    desk = Desk(answer=answer)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=math.inf, batch_s=10.0))
    assert submit(batcher, Caller("small", cost=0.001))[0].answer  # a thousand times its cost
    desk.held = True
    busy(batcher, desk)

    assert batcher.pending_s == pytest.approx((0.8 * 10 + 1) / (0.8 * 10 + 0.001), rel=1e-12)


def test_tickets_without_rows_say_nothing_of_what_rows_take(serve, clock):
    def answer(batch):
        clock.now += 1.0
        return [rows_of(*one) for one in batch]

    desk = Desk(answer=answer)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=math.inf, batch_s=1.0))
    for _ in range(50):
        assert submit(batcher, Caller("none", rows=0))[0].answer == []
    desk.held = True
    busy(batcher, desk)

    assert batcher.pending_s == 1.0


@pytest.mark.parametrize(("seconds", "bound"), [(1e6, 100.0), (0.0, 0.1)], ids=["slow", "fast"])
def test_one_strange_measurement_does_not_stop_a_server(serve, clock, seconds, bound):
    def answer(batch):
        clock.now += seconds
        return [rows_of(*one) for one in batch]

    desk = Desk(answer=answer)
    batcher = serve(desk, QueueLimits(requests=100, pending_s=math.inf, batch_s=1.0))
    for _ in range(50):
        assert submit(batcher, Caller("a"))[0].answer
    desk.held = True
    busy(batcher, desk)

    assert batcher.pending_s == pytest.approx(bound, rel=1e-12)
