"""How long a client waits, and when it asks again."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest
from starlette.responses import JSONResponse

from dropout_core.errors import InvalidInput
from mcdrop.client import Client, ServerError
from mcdrop.client.retry import RetryPolicy
from tests.support import service_nets as nets
from tests.support.asgi import listening
from tests.support.scripted_server import Scripted, busy, no_models

X = nets.images(6, seed=3)


def test_it_asks_again_where_the_server_cannot_now_and_only_there():
    server = Scripted([busy(503), busy(429), no_models()])
    with listening(server) as address, Client(address) as client:
        assert client.models() == []
        assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 500, 502, 504])
def test_nothing_else_is_asked_twice(status):
    server = Scripted([busy(status), no_models()])
    with listening(server) as address, Client(address) as client, pytest.raises(ServerError) as refusal:
        client.models()
    assert (refusal.value.status, len(server.asked)) == (status, 1)


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_it_asks_no_more_often_than_was_said(retries):
    server = Scripted([busy()])
    with listening(server) as address, Client(address, retries=retries) as client, pytest.raises(ServerError):
        client.predict("digits", X)
    assert len(server.asked) == 1 + retries


def test_it_does_not_wait_for_what_comes_after_its_time():
    server = Scripted([busy(429, **{"Retry-After": "9"})])
    began = time.monotonic()
    with listening(server) as address, Client(address, timeout_s=5) as client, pytest.raises(ServerError) as refusal:
        client.models()
    assert (refusal.value.status, len(server.asked)) == (429, 1)
    assert time.monotonic() - began < 4


def pauses(timeout_s, retries, headers=None):
    """How long a question would wait before each time it is asked again."""
    policy = RetryPolicy(timeout_s, retries)
    return list(iter(lambda: policy.pause_s(httpx.Response(503, headers=headers or {})), None))


def test_each_pause_may_be_twice_as_long_up_to_a_bound_and_is_never_less_than_half():
    waits = pauses(1000.0, 9)
    for wait, most in zip(waits, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5], strict=True):
        assert most / 2 <= wait <= most
    assert waits != pauses(1000.0, 9)


@pytest.mark.parametrize(
    ("sent", "least", "most"),
    [
        ("7", 7, 7),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.05, 0.1),
        ("soon", 0.05, 0.1),
        ("-1", 0.05, 0.1),
        ("²", 0.05, 0.1),
    ],
)
def test_a_server_may_say_how_long_to_wait(sent, least, most):
    (wait,) = pauses(1000.0, 1, {"Retry-After": sent.encode()})
    assert least <= wait <= most


def test_a_server_may_say_until_when_to_wait():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    (wait,) = pauses(1000.0, 1, {"Retry-After": date})
    assert 90 <= wait <= 100


def test_the_server_is_told_the_time_that_is_left():
    server = Scripted([busy(503), no_models()])
    with listening(server) as address, Client(address, timeout_s=30) as client:
        client.models()
    first, second = map(int, server.header("x-request-timeout-ms"))
    assert 29_000 < second <= first - 50 < first <= 30_000


def test_a_server_that_is_late_says_so_itself(url):
    with Client(url, timeout_s=0.1) as client, pytest.raises(ServerError) as refusal:
        client.predict("digits", np.repeat(X.numpy(), 500, 0), passes=1000)
    assert (refusal.value.status, refusal.value.code) == (504, "deadline-exceeded")


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"retries": -1}], ids=str)
def test_a_client_without_time_or_with_less_than_no_retries_cannot_be(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Client("http://127.0.0.1", **wrong)


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_a_server_is_ready_or_not_and_is_asked_once(status, ready):
    server = Scripted([JSONResponse({}, status)])
    with listening(server) as address, Client(address) as client:
        assert client.ready() is ready
    assert len(server.asked) == 1
