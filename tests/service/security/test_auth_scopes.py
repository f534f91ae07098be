"""What each key opens, and what is open without one."""

import asyncio

import httpx
import pytest

from mcdrop.security import auth
from mcdrop.security.auth import anonymous_scope
from mcdrop.security.keys import new_key
from mcdrop.settings import Settings
from tests.service.security.test_auth import ADVICE
from tests.support.asgi import refused

PATHS = {
    "/healthz/live": "health",
    "/healthz/ready": "health",
    "/v2/health/live": "health",
    "/metrics": "metrics",
    "/metrics/": "predict",
    "/metrics/x": "predict",
    "/healthz": "predict",
    "/v2/health": "predict",
    "/v2": "predict",
    "/v1/models": "predict",
    "/v1/models/digits/predict": "predict",
    "/v2/models/digits/infer": "predict",
    "/v2/repository/index": "predict",
    "/openapi.json": "predict",
    "/v2/repository/models/digits/load": "admin",
    "/v2/repository/models/digits/unload": "admin",
    "/v2/repository/models/digits/versions/1/unload": "admin",
    "/v2/repository/models/healthz/live": "admin",
    "/v2/repository/models/%64igits/load": "admin",
    "/v2/repository/%6dodels/digits/load": "admin",
}
OPENING = [{}, {"open_health": False}, {"open_metrics": True}, {"open_health": False, "open_metrics": True}]
ADMIN_KEY, PREDICT_KEY = "admin-key", "predict-key"


class Reached:
    """An app behind the guard that says that it was reached."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body"})


@pytest.fixture
def ask(tmp_path):
    """What a guard of some settings answers to a request with a key, or lets through: 299."""
    path = tmp_path / "keys.json"
    secret = new_key(path, "alice", "predict")

    def run(url, key, **given):
        settings = Settings(**{"keys": path, "api_key": ADMIN_KEY, **given})
        guarded = auth.RequireKey(Reached(), settings, auth.Keys(settings))
        sent = {ADMIN_KEY: ADMIN_KEY, PREDICT_KEY: secret}.get(key, key)
        return asyncio.run(post(guarded, url, {"X-API-Key": sent} if sent else {}))

    return run


async def post(app, url, headers):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.post(url, headers=headers)


@pytest.mark.parametrize("opening", OPENING, ids=str)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.replace("/", " "))
def test_what_a_scope_opens(ask, path, opening):
    takes = PATHS[path]
    is_open = {"health": opening.get("open_health", True), "metrics": opening.get("open_metrics", False)}.get(
        takes, False
    )
    closed = {
        None: 401,
        "wrong": 401,
        PREDICT_KEY: 403 if takes == "admin" else 299,
        ADMIN_KEY: 299,
    }
    for key, refusal in closed.items():
        assert ask(path, key, **opening).status_code == (299 if is_open else refusal), key


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models", "/v2/repository/models/digits/load"])
def test_refusals_have_the_form_that_callers_of_a_path_read(ask, path):
    answer = ask(path, "wrong")
    assert answer.headers["www-authenticate"] == "Bearer"
    if path.startswith("/v2"):
        assert (answer.status_code, answer.json()) == (401, {"error": ADVICE})
    else:
        assert refused(answer, 401, "unauthorized") == ADVICE


def test_a_key_of_too_small_a_scope_is_told_what_it_takes(ask):
    answer = ask("/v2/repository/models/digits/load", PREDICT_KEY)
    said = "this key may only predict; it takes one that 'mcdrop key new NAME --scope admin' makes."
    assert (answer.status_code, answer.json()) == (403, {"error": said})


@pytest.mark.parametrize(
    ("given", "scope"),
    [
        ({}, "admin"),
        ({"allow_anonymous": True}, "admin"),
        ({"host": "0.0.0.0", "allow_anonymous": True}, "predict"),
        ({"api_key": "k"}, None),
        ({"keys": "k"}, None),
        ({"host": "0.0.0.0", "keys": "k"}, None),
        ({"api_key": "k", "allow_anonymous": True}, "predict"),
        ({"host": "0.0.0.0", "keys": "k", "allow_anonymous": True}, "predict"),
    ],
    ids=str,
)
def test_what_a_caller_without_a_key_may_do(ask, given, scope):
    assert anonymous_scope(Settings(**given)) == scope
    if "keys" in given:
        return
    given = {"keys": None, "api_key": None, **given}
    assert ask("/v1/models", None, **given).status_code == (299 if scope else 401)
    assert ask("/v2/repository/models/a/load", None, **given).status_code == (299 if scope == "admin" else 401)
    wrong = 401 if given["api_key"] else 299  # where there are no keys none is looked at
    assert ask("/v1/models", "wrong", **given).status_code == wrong
