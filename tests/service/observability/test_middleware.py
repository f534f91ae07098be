import asyncio

import httpx
import pytest
from starlette.datastructures import Headers

from mcdrop.observability.middleware import ExchangeMiddleware, attach_call, current, id_of
from mcdrop.settings import Settings
from tests.support.asgi import Served
from tests.support.events import answered
from tests.support.fakes import NoCatalogue


def scope_of(path="/here", **headers):
    sent = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return {"type": "http", "method": "GET", "path": path, "headers": sent, "client": ("10.0.0.7", 5)}


async def _ask(app, *watchers, scope=None):
    sent = []

    async def send(message):
        sent.append(message)

    await ExchangeMiddleware(app, watchers)(scope or scope_of(), None, send)
    return sent


def ask(app, *watchers, scope=None):
    """What an app in the middleware sends."""
    return asyncio.run(_ask(app, *watchers, scope=scope))


async def teapot(scope, receive, send):
    await send({"type": "http.response.start", "status": 418, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("sent", ["a", "7f3a-Z_.x", "x" * 64])
def test_an_id_that_is_safe_to_repeat_is_repeated(sent):
    assert id_of(sent) == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a\n", "a b", "ä", "a\x1b[0m", '{"a"}', "a;b"])
def test_another_gets_a_new_one(sent):
    first, second = id_of(sent), id_of(sent)

    assert first != second
    assert (id_of(first), id_of(second)) == (first, second)


def test_an_answer_carries_the_id_and_its_watchers_know_how_it_went():
    seen = []

    sent = ask(teapot, seen.append, scope=scope_of(x_request_id="mine", user_agent="me"))

    (one,) = seen
    assert Headers(raw=sent[0]["headers"]) == Headers({"a": "b", "x-request-id": "mine"})
    assert (one.request_id, one.status, one.method, one.path, one.client) == ("mine", 418, "GET", "/here", "10.0.0.7")
    assert (one.route, one.call, one.failed, one.headers["user-agent"]) == ("", None, False, "me")
    assert 0 < one.began_ns <= one.ended_ns


def test_watchers_are_told_after_the_last_byte():
    order = []

    async def app(scope, receive, send):
        await teapot(scope, receive, send)
        order.append("sent")

    ask(app, lambda _: order.append("told"))

    assert order == ["sent", "told"]


def test_a_failing_app_is_told_and_fails():
    seen = []

    async def fail(scope, receive, send):
        raise RuntimeError("broken")

    async def fail_late(scope, receive, send):
        await teapot(scope, receive, send)
        raise RuntimeError("broken")

    for app in (fail, fail_late):
        with pytest.raises(RuntimeError, match="broken"):
            ask(app, seen.append)

    assert [(one.status, one.failed) for one in seen] == [(500, True), (418, False)]


def test_a_request_that_was_cancelled_has_no_status():
    seen = []

    async def wait(scope, receive, send):
        await asyncio.sleep(60)

    async def cancel():
        task = asyncio.create_task(_ask(wait, seen.append))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    assert [(one.status, one.failed) for one in seen] == [(None, True)]


def test_a_watcher_that_stumbles_harms_nobody(caplog):
    seen = []

    def stumble(_):
        raise ValueError("a stone")

    sent = ask(teapot, stumble, seen.append)

    assert (sent[0]["status"], len(seen)) == (418, 1)
    assert "a stone" in caplog.text


def test_requests_at_once_know_their_own():
    async def app(scope, receive, send):
        await asyncio.sleep(0)
        found = current().request_id
        attach_call(answered(model=found))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"found", found.encode())]})

    seen = []

    async def both():
        return await asyncio.gather(*(_ask(app, seen.append, scope=scope_of(x_request_id=name)) for name in "ab"))

    answers = asyncio.run(both())

    assert [dict(sent[0]["headers"])[b"found"] for sent in answers] == [b"a", b"b"]
    assert sorted((one.request_id, one.call.model) for one in seen) == [("a", "a"), ("b", "b")]


def test_what_is_no_request_passes():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope)

    ask(app, passed.append, scope={"type": "lifespan"})

    assert passed == [{"type": "lifespan"}]


def test_a_note_outside_of_a_request_is_dropped():
    assert current() is None
    attach_call(answered())


def test_every_answer_of_a_server_has_one_id(bundles, server):
    with Served(Settings(bundles=bundles, api_key="secret"), server.state.catalogue) as served:
        answers = [served.loaded().get(path) for path in ("/healthz/live", "/v1/models", "/v2", "/nowhere")]
    with Served(Settings(bundles=bundles), NoCatalogue()) as failing:
        answers.append(failing.get("/v1/models/digits", headers={"X-Request-Id": "mine"}))

    ids = [_ids(answer) for answer in answers]
    assert [answer.status_code for answer in answers] == [200, 401, 401, 401, 500]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == 5
    assert ids[-1] == ["mine"]


def _ids(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("x-request-id")
