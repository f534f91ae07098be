"""The client of asyncio is the other one: the same answers, errors and patience."""

import asyncio
from contextlib import aclosing
from dataclasses import astuple

import numpy as np
import pytest

from mcdrop.client import AsyncClient, Client, ServerError, Unreachable
from mcdrop.http.media_types import JSON
from tests.support import service_nets as nets
from tests.support.asgi import listening
from tests.support.scripted_server import Scripted, busy, no_models

X = nets.images(6, seed=3).numpy()


def asked(url, question, **options):
    """What a client answers to a coroutine function of it."""

    async def run():
        async with AsyncClient(url, **options) as client:
            return await question(client)

    return asyncio.run(run())


def same(ours, theirs):
    for mine, other in zip(astuple(ours), astuple(theirs), strict=True):
        np.testing.assert_equal(mine, other)


def test_answers_are_those_of_the_other_client(url):
    said = {"passes": 5, "seed": 3}

    async def all_of_it(client):
        rows = [row async for row in client.stream("digits", X, **said)]
        return (
            await client.ready(), await client.models(), await client.model("digits"),
            await client.predict("digits", X, **said), await client.rank("digits", X, k=2, ids=list("abcdef")), rows,
        )  # fmt: skip

    ready, models, model, prediction, ranking, rows = asked(url, all_of_it)
    with Client(url) as client:
        assert (ready, models, model) == (client.ready(), client.models(), client.model("digits"))
        same(prediction, client.predict("digits", X, **said))
        same(ranking, client.rank("digits", X, k=2, ids=list("abcdef")))
        for ours, theirs in zip(rows, client.stream("digits", X, **said), strict=True):
            same(ours, theirs)


def test_many_questions_at_once_have_each_their_answer(url):
    async def many(client):
        return await asyncio.gather(*(client.predict("digits", X[:1], seed=seed) for seed in range(20)))

    answers = asked(url, many)
    assert [answer.seed for answer in answers] == list(range(20))
    assert len({answer.outputs["variance"].tobytes() for answer in answers}) == 20


def test_a_refusal_is_the_same_error(url):
    async def row(client):
        async with aclosing(client.stream("nope", X)) as rows:
            return await anext(rows)

    for question in (lambda client: client.predict("nope", X), row):
        with pytest.raises(ServerError, match="there is no model 'nope'") as refusal:
            asked(url, question)
        assert (refusal.value.status, refusal.value.code) == (404, "unknown-model")


def test_it_asks_again_as_often(url):
    server = Scripted([busy(429), busy(503), no_models()])
    with listening(server) as address:
        assert asked(address, lambda client: client.models()) == []
        assert len(server.asked) == 3
        with pytest.raises(ServerError) as refusal:
            asked(address, lambda client: client.predict("digits", X))
    assert (refusal.value.code, len(server.asked)) == ("http", 4)
    assert server.header("accept")[:3] == [JSON] * 3


def test_where_no_server_is_it_says_so():
    with listening(Scripted([busy()])) as address:
        pass

    with pytest.raises(Unreachable, match=f"no answer from {address}"):
        asked(address, lambda client: client.models())
