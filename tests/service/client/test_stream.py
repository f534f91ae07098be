"""Answers that come row by row."""

from dataclasses import replace

import httpx
import numpy as np
import pytest
from starlette.responses import Response

from mcdrop.client import Client, ServerError, Unreachable
from mcdrop.client.responses import RowStream
from tests.support import service_nets as nets
from tests.support.asgi import listening
from tests.support.scripted_server import Scripted

X = nets.images(6, seed=3)


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as one:
        yield one


def lines(content):
    """A streamed answer of our own."""
    named = {"Passes": 2, "Seed": 0, "Sampling": "iid", "Masks": "shared", "Branches": 1, "Noise": 1}
    headers = {"Mcdrop-Model": "digits/2", **{f"Mcdrop-{name}": str(value) for name, value in named.items()}}
    return Response(content, headers=headers, media_type="application/x-ndjson")


def test_a_streamed_answer_is_the_prediction_row_by_row(client):
    wanted = client.predict("digits", X, passes=4, quantiles=[0.5], samples=True)
    rows = list(client.stream("digits", X, passes=4, quantiles=[0.5], samples=True))

    assert [row.index for row in rows] == list(range(6))
    for row in rows:
        assert row.run == replace(wanted.run, labels=(), quantiles=())
        assert list(row.outputs) == list(wanted.outputs)
        for name, values in row.outputs.items():
            assert np.array_equal(values, wanted.outputs[name][row.index]), name


def test_a_stream_may_be_left(client):
    rows = client.stream("digits", X)
    assert next(rows).index == 0
    rows.close()

    assert client.ready()  # the same connections serve


def test_a_stream_that_is_refused_is_the_same_error(client):
    with pytest.raises(ServerError, match="there is no model 'nope'") as refusal:
        next(client.stream("nope", X))
    assert (refusal.value.status, refusal.value.code) == (404, "unknown-model")


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b'{"error":{"type":"urn:mcdrop:compute-died","status":503,"detail":"it died."}}\n', ServerError, "it died."),
        (b'{"row":1,"me', Unreachable, "ended in the middle of a row"),
        (b"<html>\n", ServerError, "is this an mcdrop server"),
    ],
    ids=["told", "cut off", "another's"],
)
def test_a_stream_that_breaks_off_is_an_error_after_the_rows_that_came(content, error, said):
    with listening(Scripted([lines(b'{"row":0,"mean":[0.5]}\n' + content)])) as address, Client(address) as client:
        rows = client.stream("digits", X)
        assert next(rows).outputs["mean"].tolist() == [0.5]
        with pytest.raises(error, match=said):
            next(rows)


def test_rows_are_read_however_they_are_cut():
    content = b"".join(b'{"row":%d,"mean":[%d]}\n' % (row, row) for row in range(3))
    for size in range(1, len(content)):
        reader = RowStream(httpx.Response(200, headers=lines(b"").headers, request=httpx.Request("POST", "http://x")))
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        assert [row.index for chunk in chunks for row in reader.rows(chunk)] == [0, 1, 2]
        reader.end()
