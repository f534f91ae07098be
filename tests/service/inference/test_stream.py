"""What becomes of a call whose answer is sent in parts."""

import asyncio

import httpx
import pytest

from mcdrop.errors import ComputeDied
from mcdrop.inference.stream import LineStream


class Telling:
    """A call of which only the end matters."""

    def __init__(self):
        self.ends, self.kept = [], False
        self.request = type("Request", (), {"url": httpx.URL("http://server/v1/x")})

    def keep_open(self):
        self.kept = True

    def end(self, error):
        self.ends.append(error)


class Sending:
    """Both ends of an answer. gone: after how many messages the reader leaves."""

    def __init__(self, gone=None):
        self.gone, self.sent, self.left = gone, [], asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if len(self.sent) == self.gone:
            self.left.set()
            await asyncio.sleep(60)  # it is cancelled


def streamed(parts, sending):
    """A call whose answer of parts was sent."""
    call = Telling()

    async def run():
        answer = await LineStream.of(call, parts, {})
        await answer({"type": "http"}, sending.receive, sending.send)

    asyncio.run(run())
    return call


async def two_parts(closed, error=None):
    try:
        yield b"1\n"
        if error is not None:
            raise error
        yield b"2\n"
    finally:
        closed.append(True)


def test_an_answer_that_was_sent_whole_ends_its_call_once():
    closed, sending = [], Sending()
    call = streamed(two_parts(closed), sending)

    assert b"".join(message.get("body", b"") for message in sending.sent) == b"1\n2\n"
    assert (call.ends, closed, call.kept) == ([None], [True], True)


@pytest.mark.parametrize("error", [ComputeDied("it died."), RuntimeError("s3cret")], ids=["ours", "unexpected"])
def test_an_answer_that_fails_ends_its_call_with_the_failure(error, caplog):
    sending = Sending()
    call = streamed(two_parts([], error), sending)

    body = b"".join(message.get("body", b"") for message in sending.sent)
    assert body.startswith(b'1\n{"error":{"type":"urn:mcdrop:')
    assert b"s3cret" not in body
    assert call.ends == [error]
    assert ("s3cret" in caplog.text) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("gone", [1, 2, 3], ids=["at the status", "at the first part", "at the second"])
def test_an_answer_whose_reader_leaves_closes_its_parts_at_once(gone):
    closed = []
    call = streamed(two_parts(closed), Sending(gone))

    assert closed == [True]
    assert [str(end) for end in call.ends] == ["the client left before the whole response was sent."]


def test_a_failure_before_the_first_part_is_raised_and_not_sent():
    async def nothing():
        raise ComputeDied("it died.")
        yield b""

    sending = Sending()
    with pytest.raises(ComputeDied):
        streamed(nothing(), sending)
    assert sending.sent == []
