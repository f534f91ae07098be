"""What goes wrong, and whom it harms."""

import logging
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcdrop.errors import ComputeDied, Draining
from mcdrop.inference.batcher import QueueLimits
from tests.support.queue_desk import PATIENCE_S, Caller, Desk, busy, deadly, fails_for, rows_of, submit


def test_in_a_failing_batch_each_is_tried_once_alone_and_a_bad_neighbour_harms_nobody(serve):
    desk = Desk(held=True, answer=fails_for("b", "d"))
    batcher = serve(desk)
    busy(batcher, desk)
    callers = submit(batcher, *(Caller(name, rows=2) for name in "abcd"))
    desk.held = False
    desk.finish()

    assert [callers[0].answer, callers[2].answer] == [rows_of("a", 0, 2), rows_of("c", 0, 2)]
    for caller, name in ((callers[1], "b"), (callers[3], "d")):
        with pytest.raises(ValueError, match=f"{name} fails"):
            _ = caller.answer
    assert desk.batches[2:] == [[(name, 0, 2)] for name in "abcd"]


def test_what_fails_alone_is_not_tried_again(serve):
    desk = Desk(answer=fails_for("a"))
    (caller,) = submit(serve(desk), Caller("a"))

    with pytest.raises(ValueError, match="a fails"):
        _ = caller.answer
    assert desk.batches == [[("a", 0, 1)]]


def test_who_fails_alone_in_a_batch_that_runs_is_told_and_the_others_are_answered(serve):
    def answer(batch):
        return [ValueError("no") if name == "b" else rows_of(name, *at) for name, *at in batch]

    desk = Desk(held=True, answer=answer)
    batcher = serve(desk)
    busy(batcher, desk)
    a, b, c = submit(batcher, *(Caller(name) for name in "abc"))
    desk.let_go()

    assert [a.answer, c.answer] == [[("a", 0)], [("c", 0)]]
    with pytest.raises(ValueError, match="no"):
        _ = b.answer
    assert len(desk.batches) == 2


def test_a_long_query_that_fails_in_the_middle_is_over(serve):
    def answer(batch):
        return [ValueError("no") if start == 2 else rows_of(name, start, stop) for name, start, stop in batch]

    desk = Desk(answer=answer)
    batcher = serve(desk, QueueLimits(100, math.inf, batch_s=2.0))
    (long,) = submit(batcher, Caller("long", rows=1000))

    with pytest.raises(ValueError, match="no"):
        _ = long.answer
    assert submit(batcher, Caller("next"))[0].answer
    assert [batch[0][0] for batch in desk.batches] == ["long", "long", "next"]
    assert len(long.told) == 1


def test_a_thread_that_dies_is_replaced_once_and_everybody_is_told(serve, caplog):
    caplog.set_level(logging.CRITICAL)
    desk = Desk(held=True, answer=deadly)
    batcher = serve(desk)
    running = busy(batcher, desk, "deadly")
    waiting = submit(batcher, Caller("a"), Caller("b", key="other"))
    desk.held = False
    desk.finish()

    for caller in (running, *waiting):
        with pytest.raises(ComputeDied, match=r"died while this request waited\. Retry it\."):
            _ = caller.answer
    assert batcher.alive
    assert submit(batcher, Caller("next"))[0].answer == [("next", 0)]
    assert desk.threads[0] is not desk.threads[-1]
    assert [record.getMessage() for record in caplog.records] == ["the compute thread died: SystemExit: killed"]

    (again,) = submit(batcher, Caller("deadly"))
    with pytest.raises(ComputeDied):
        _ = again.answer
    desk.threads[-1].join(PATIENCE_S)
    assert not batcher.alive
    with pytest.raises(ComputeDied, match="Tell the operator to restart it"):
        submit(batcher, Caller("nobody"))
    assert desk.batches == [[("deadly", 0, 1)], [("next", 0, 1)], [("deadly", 0, 1)]]


def test_a_thread_that_cannot_be_prepared_is_dead(serve):
    threads = []

    def prepare():
        threads.append(threading.current_thread())
        raise OSError("no such thing")

    batcher = serve(Desk(), prepare=prepare)
    while batcher.alive:
        threads[-1].join(PATIENCE_S)

    assert len(threads) == 2


def test_at_the_end_everybody_is_told_and_nobody_more_is_let_in(serve):
    desk = Desk(held=True)
    batcher = serve(desk)
    running = busy(batcher, desk)
    (waiting,) = submit(batcher, Caller("a"))
    batcher.close()

    for caller in (running, waiting):  # before what runs has ended
        with pytest.raises(Draining, match="shut down before this was computed"):
            _ = caller.answer
    with pytest.raises(Draining, match="is shutting down"):
        submit(batcher, Caller("b"))
    desk.let_go()
    desk.threads[0].join(PATIENCE_S)
    assert not desk.threads[0].is_alive()
    assert desk.batches == [[("busy", 0, 1)]]
    assert running.told == []


def test_a_thread_that_has_nothing_to_do_ends_too(serve):
    desk = Desk()
    batcher = serve(desk)
    assert submit(batcher, Caller("a"))[0].answer
    batcher.close()

    desk.threads[0].join(PATIENCE_S)
    assert not desk.threads[0].is_alive()


def ask_much(number, batcher):
    """Those who stay, of many who come at once with cuts, keys, cancels and failures; drawn by a number."""
    draw, stayed = random.Random(number), []
    for count in range(60):
        name = "bad" if draw.random() < 0.05 else (number, count)
        (caller,) = submit(batcher, Caller(name, rows=draw.randrange(12), key=draw.randrange(3)))
        if draw.random() < 0.2:
            batcher.cancel(caller.ticket)
        else:
            stayed.append(caller)
        if draw.random() < 0.1:
            caller.ended.wait(0.001)
    return stayed


def test_many_threads_lose_nobody(serve):
    batcher = serve(Desk(answer=fails_for("bad")), QueueLimits(requests=10_000, pending_s=math.inf, batch_s=4.0))
    with ThreadPoolExecutor(8) as pool:
        stayed = [caller for found in pool.map(lambda number: ask_much(number, batcher), range(8)) for caller in found]

    assert len(stayed) > 300
    for caller in stayed:
        if caller.ticket.query == "bad":
            with pytest.raises(ValueError, match="bad fails"):
                _ = caller.answer
        else:
            assert caller.answer == rows_of(caller.ticket.query, 0, caller.ticket.rows)
    assert batcher.pending_requests == 0
