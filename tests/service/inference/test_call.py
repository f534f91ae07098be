"""A request from its arrival to its answer: cut, timed, refused, and what is told of it."""

import asyncio
import time

import numpy as np
import pytest

from mcdrop.inference.cost import RowCost
from tests.support.asgi import refused
from tests.support.gated_server import PATH, PATIENCE_S, ROWS

TIMEOUT = "X-Request-Timeout-Ms"


def agree(found, wanted):
    """1e-5 of the scale, which other batch sizes may cost."""
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert np.allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max()), name


def test_a_long_query_is_cut_and_answered_as_whole(place, server):
    # 20 passes of 1 ms for each row, in batches of 100 ms: 5 rows at a time by its own cost
    one = place(RowCost(0.0, 0.001), batch_ms=100)
    fields = {"quantiles": [0.1, 0.9], "samples": True, "masks": "independent"}

    answer = one.served.predict("digits", ROWS, **fields)

    assert one.gate.rows[0] == 5
    assert len(one.gate.rows) > 1
    assert sum(one.gate.rows) == 12
    wanted = server.predict("digits", ROWS, **fields)
    agree(answer.pop("outputs"), wanted.pop("outputs"))
    assert answer == wanted


def test_those_who_wait_together_run_together_and_each_gets_its_own(place, server):
    one = place()

    async def many():
        one.gate.shut()
        first = asyncio.create_task(one.ask(ROWS[:1]))
        await one.reached()
        others = [asyncio.create_task(one.ask(ROWS[at : at + 2], outputs=outputs)) for at, outputs in asked]
        await one.pending(4)
        one.gate.open.set()
        return [(await answer).json() for answer in (first, *others)]

    asked = [(1, ["mean"]), (3, ["margin", "std"]), (5, None)]
    answers = one.run(many())

    assert one.gate.rows == [1, 6]
    wanted = [server.predict("digits", ROWS[:1])]
    wanted += [server.predict("digits", ROWS[at : at + 2], outputs=outputs) for at, outputs in asked]
    for found, alone in zip(answers, wanted, strict=True):
        agree(found.pop("outputs"), alone.pop("outputs"))
        assert found == alone
    assert [(event.rows, event.requests, event.failed) for event in one.seen.batches] == [(1, 1, False), (6, 3, False)]


@pytest.mark.parametrize(
    ("settings", "headers"),
    [({}, {TIMEOUT: "250"}), ({"max_timeout_ms": 250}, {}), ({"max_timeout_ms": 250}, {TIMEOUT: "9" * 30})],
    ids=["its own", "the server's", "the server's though it asks for more"],
)
def test_a_request_whose_time_is_over_is_504_and_its_neighbour_is_not_harmed(place, settings, headers):
    one = place(**settings)

    async def late():
        one.gate.shut()
        first = asyncio.create_task(one.ask(headers=headers))
        await one.reached()
        waiting = asyncio.create_task(one.ask(ROWS[:3], headers=headers))
        answers = [await first, await waiting]  # the gate is still shut
        assert one.state.batcher.pending_requests == 0
        one.gate.open.set()
        return answers, await one.ask(ROWS[:2], headers={TIMEOUT: "60000"})

    answers, after = one.run(late())

    for answer in answers:
        assert "Send fewer rows, request fewer passes, or allow more time" in refused(answer, 504, "deadline-exceeded")
    assert after.status_code == 200
    assert one.gate.rows == [12, 2]  # who waited never ran
    assert one.seen.outcomes == ["deadline", "deadline", "success"]
    assert [one.seen.phases_of(event) for event in one.seen.told[:2]] == [["decode", "queue"]] * 2
    assert one.seen.told[0].measures == {}


@pytest.mark.parametrize("sent", ["", "0", "-1", "1.5", "1s", "x" * 100, "²", "٣"], ids=ascii)
def test_a_time_that_is_none_is_422(place, sent):
    one = place()

    detail = refused(one.served.post(PATH, {"inputs": ROWS}, headers={TIMEOUT: sent.encode()}), 422, "invalid-request")

    assert detail.startswith("X-Request-Timeout-Ms is ")
    assert "x" * 21 not in detail
    assert one.gate.rows == []


def test_a_body_that_does_not_come_is_408(place):
    one = place()

    async def slow():
        yield b'{"inputs": '
        await asyncio.sleep(PATIENCE_S)

    answer = one.served.ask("POST", PATH, slow(), headers={TIMEOUT: "20"})

    refused(answer, 408, "request-timeout")
    assert one.seen.outcomes == ["deadline"]
    assert one.gate.rows == []


def test_when_enough_waits_the_next_is_429_and_told_when_to_come_again(place):
    one = place(RowCost(0.0, 0.01), max_queue=1)

    async def too_many():
        one.gate.shut()
        first = asyncio.create_task(one.ask(ROWS[:1], passes=50))  # 0.5 s
        await one.reached()
        waiting = asyncio.create_task(one.ask(ROWS[:4], passes=50))  # 2 s
        await one.pending(2)
        answer = await one.ask(ROWS[:1])
        one.gate.open.set()
        return answer, [(await other).status_code for other in (first, waiting)]

    answer, others = one.run(too_many())

    assert refused(answer, 429, "queue-full") == (
        "the queue holds 1 requests (2.5 s of computing), and this one would add 0.2 s. Limits: 1 requests, 30 s. "
        "Retry in 3 s."
    )
    assert answer.headers["retry-after"] == "3"
    assert others == [200, 200]
    assert sorted(one.seen.outcomes) == ["rejected", "success", "success"]


def test_a_request_that_is_good_is_told_with_its_phases_and_what_is_watched(place):
    one, began = place(), time.time_ns()

    answer = one.served.predict("digits", ROWS, outputs=["mean"])

    ended = time.time_ns()
    (event,) = one.seen.told
    assert (event.model, event.version, event.verb, event.outcome) == ("digits", 2, "predict", "success")
    assert (event.rows, event.passes) == (12, answer["passes"])
    assert one.seen.phases_of(event) == ["decode", "queue", "prefix", "suffix", "encode"]
    times = [at for phase in event.phases for at in (phase.start_ns, phase.end_ns)]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= ended
    prefix = event.phases[2]
    assert prefix.end_ns > prefix.start_ns
    assert {name: len(values) for name, values in event.measures.items()} == dict.fromkeys(
        ["mutual_information", "predictive_entropy", "std"], 12
    )
    (batch,) = one.seen.batches
    assert (batch.model, batch.version, batch.rows, batch.passes, batch.requests) == ("digits", 2, 12, 20, 1)
    assert 0 < batch.seconds < (ended - began) / 1e9


def test_a_request_that_does_not_fit_is_told_without_phases_it_did_not_come_to(place):
    one = place()
    one.served.post(PATH, b"{")
    one.served.post(PATH, {"inputs": ROWS, "passes": 10**6})
    one.served.post("/v1/models/digits/rank", {"inputs": ROWS, "k": 0})

    assert [(event.verb, event.outcome, event.rows, one.seen.phases_of(event)) for event in one.seen.told] == [
        ("predict", "invalid", 0, ["decode"]),
        ("predict", "invalid", 0, ["decode"]),
        ("rank", "invalid", 0, ["decode"]),
    ]
    assert one.seen.batches == []


def test_a_request_about_no_model_is_told_nobody(place):
    one = place()

    refused(one.served.post("/v1/models/nope/predict", {"inputs": ROWS}), 404, "unknown-model")

    assert one.seen.told == []
