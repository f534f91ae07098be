"""Those who leave, what fails and what ends, while others wait for their answers."""

import asyncio
import json
import threading

import pytest

from mcdrop.inference.catalogue import LoadedModel
from mcdrop_models.errors import UnknownModel
from tests.support.asgi import refused
from tests.support.fakes import OneModel
from tests.support.gated_server import CHEAP, PATH, PATIENCE_S, ROWS, Gate


async def leave(app, body, gone, sent):
    """A caller who sends a whole body, and leaves when `gone` is set. sent: what the server says nevertheless."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("server", 80),
    }  # fmt: skip
    await app(scope, receive, send)


@pytest.mark.parametrize("running", [True, False], ids=["runs", "waits"])
def test_who_leaves_is_computed_no_further_and_harms_nobody(place, running):
    one = place()

    async def leaving():
        one.gate.shut()
        gone, sent, tasks = asyncio.Event(), [], []
        if not running:
            tasks.append(asyncio.create_task(one.ask(ROWS[:1])))
            await one.reached()
        body = json.dumps({"inputs": ROWS}).encode()
        tasks.append(asyncio.create_task(leave(one.served.app, body, gone, sent)))
        await one.pending(len(tasks))
        await one.reached()
        stays = asyncio.create_task(one.ask(ROWS[:2]))
        await one.pending(len(tasks) + 1)
        gone.set()
        await tasks[-1]
        await one.pending(len(tasks))
        one.gate.open.set()
        return (await stays).status_code, sent

    status, _ = one.run(leaving())

    assert status == 200
    assert one.gate.rows == ([12, 2] if running else [1, 2])
    assert one.seen.outcomes[0] == "cancelled"
    assert set(one.seen.outcomes[1:]) == {"success"}


def test_nobody_listens_any_more_whether_a_caller_leaves_who_was_answered(place):
    one = place()

    async def answered():
        before = asyncio.all_tasks()
        await leave(one.served.app, json.dumps({"inputs": ROWS}).encode(), asyncio.Event(), sent := [])
        await asyncio.sleep(0)  # a task that is cancelled ends in the loop's next turn
        return sent[0]["status"], asyncio.all_tasks() - before

    assert one.run(answered()) == (200, set())


def test_a_run_that_fails_is_tried_alone_and_is_500_to_whom_it_is_of(place, monkeypatch):
    one = place()

    def run(weights, inputs, *args):
        rows = len(next(iter(inputs.values())))
        if rows in (3, 5):  # 3 rows of a bad query, with 2 of a good one
            raise MemoryError("hunter2")
        yield from Gate.run(one.gate, weights, inputs, *args)

    async def together():
        one.gate.shut()
        first = asyncio.create_task(one.ask(ROWS[:1]))
        await one.reached()
        bad, good = (asyncio.create_task(one.ask(ROWS[:rows])) for rows in (3, 2))
        await one.pending(3)
        one.gate.open.set()
        return [await answer for answer in (first, bad, good)]

    model = one.state.catalogue.find("digits")
    monkeypatch.setattr(model.predictor.engine, "run", run)
    first, bad, good = one.run(together())

    assert (first.status_code, good.status_code) == (200, 200)
    assert "hunter2" not in refused(bad, 500, "internal")
    assert sorted(one.seen.outcomes) == ["backend", "success", "success"]
    assert [(event.requests, event.failed) for event in one.seen.batches] == [
        (1, False), (2, True), (1, True), (1, False),
    ]  # fmt: skip


def test_when_the_thread_dies_everybody_is_told_and_after_the_second_time_the_server_is_not_ready(place, monkeypatch):
    one = place()
    model = one.state.catalogue.find("digits")

    def run(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(model.predictor.engine, "run", run)
        refused(one.served.post(PATH, {"inputs": ROWS}), 503, "compute-died")
    assert one.served.predict("digits", ROWS)["version"] == 2
    monkeypatch.setattr(model.predictor.engine, "run", run)
    refused(one.served.post(PATH, {"inputs": ROWS}), 503, "compute-died")
    one.served.until(lambda: not one.state.batcher.alive)
    refused(one.served.post(PATH, {"inputs": ROWS}), 503, "compute-died")

    health = [one.served.get(f"{place}/{what}") for place in ("/healthz", "/v2/health") for what in ("ready", "live")]
    assert [answer.status_code for answer in health] == [503] * 4
    assert health[0].json()["reason"] == "the compute thread died twice; restart the server."
    assert one.seen.outcomes == ["unavailable", "success", "unavailable", "unavailable"]


def test_an_observer_that_stumbles_harms_nobody(place, caplog):
    one = place()

    class Clumsy:
        def call_finished(self, event):
            raise RuntimeError("I am clumsy")

        batch_finished = call_finished

    one.state.observers.insert(0, Clumsy())

    assert one.served.predict("digits", ROWS)["version"] == 2
    assert len(one.seen.told) == len(one.seen.batches) == 1
    assert caplog.text.count("RuntimeError: I am clumsy") == 2


def test_others_are_answered_while_a_model_is_loaded(place, digits):
    one = place()
    entered, may_go = threading.Event(), threading.Event()

    class Loading(OneModel):
        def find(self, name, version=None):
            return None if name == "slow" else super().find(name, version)

        def expect(self, name, version):
            pass

        def get(self, name, version=None):
            if name != "slow":
                return super().get(name, version)
            entered.set()
            assert may_go.wait(PATIENCE_S)
            raise UnknownModel("it was nothing")

    one.state.catalogue = Loading(digits, held=[LoadedModel(digits, CHEAP)])

    async def meanwhile():
        slow = asyncio.create_task(one.ask(path="/v1/models/slow/predict"))
        await one.until(entered.is_set)
        other = await one.ask()
        assert not slow.done()
        may_go.set()
        return other.status_code, (await slow).status_code

    assert one.run(meanwhile()) == (200, 404)


def test_what_is_told_to_shut_down_refuses(place):
    one = place()

    async def stop():
        one.gate.shut()
        running = asyncio.create_task(one.ask())
        await one.reached()
        one.state.batcher.close()
        return [await running, await one.ask()]

    for answer in one.run(stop()):
        refused(answer, 503, "draining")
    assert one.seen.outcomes == ["unavailable", "unavailable"]
