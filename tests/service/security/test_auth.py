import logging

import pytest

from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served, refused

KEY = "s3cret-key"
ROW = nets.images(1).tolist()
ADVICE = "send the server's key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


@pytest.fixture(scope="module")
def locked(bundles, server):
    with Served(Settings(bundles=bundles, host="0.0.0.0", api_key=KEY), server.state.catalogue) as served:
        yield served.loaded()


RIGHT = {
    "Bearer": {"Authorization": f"Bearer {KEY}"},
    "bearer in lower case": {"authorization": f"bearer {KEY}"},
    "Bearer with spaces": {"Authorization": f"Bearer   {KEY} "},
    "X-API-Key": {"X-API-Key": KEY},
    "X-API-Key beside another scheme": {"Authorization": "Basic dTpw", "X-API-Key": KEY},
}
WRONG = {
    "no key": {},
    "an empty Bearer": {"Authorization": "Bearer "},
    "Bearer alone": {"Authorization": "Bearer"},
    "an empty X-API-Key": {"X-API-Key": ""},
    "a wrong key": {"X-API-Key": "wrong"},
    "a wrong Bearer": {"Authorization": "Bearer wrong"},
    "the start of the key": {"X-API-Key": KEY[:-1]},
    "the key and more": {"X-API-Key": KEY + "x"},
    "the key in capitals": {"X-API-Key": KEY.upper()},
    "the key without a scheme": {"Authorization": KEY},
    "the key as a password": {"Authorization": f"Basic {KEY}"},
    "a wrong Bearer beside the key": {"Authorization": "Bearer wrong", "X-API-Key": KEY},
    "no ASCII": {b"X-API-Key": "clé".encode()},
    "no ASCII in Latin-1": {b"X-API-Key": b"\xe9\xff"},
    "no ASCII as Bearer": {b"Authorization": b"Bearer \xff"},
}


@pytest.mark.parametrize("headers", RIGHT.values(), ids=RIGHT)
def test_the_key_opens(locked, headers):
    answer = locked.post("/v1/models/digits/predict", {"inputs": ROW}, headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused_with_what_to_send(locked, headers):
    answer = locked.post("/v1/models/digits/predict", {"inputs": ROW}, headers=headers)

    assert refused(answer, 401, "unauthorized") == ADVICE
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/digits"),
        ("POST", "/v1/models/digits/rank"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/no/such/path"),
        ("GET", "/healthz"),
        ("GET", "/x/healthz/live"),
    ],
    ids=lambda value: value.replace("/", " "),
)
def test_every_path_but_health_is_closed(locked, method, path):
    refused(locked.ask(method, path), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz/live", "/healthz/ready"])
def test_health_is_open(locked, path):
    assert locked.get(path).status_code == 200


def test_without_a_key_in_the_settings_none_is_asked_for(server):
    assert server.get("/v1/models").status_code == 200


def test_a_refusal_comes_before_the_body_is_read(locked):
    sent = []

    async def parts():
        for _ in range(3):
            sent.append(1)
            yield b"x" * 100

    refused(locked.post("/v1/models/digits/predict", parts()), 401, "unauthorized")
    assert sent == []


def test_a_key_of_any_letters_can_be_sent(bundles, server):
    with Served(Settings(bundles=bundles, api_key="clé 🔑"), server.state.catalogue) as served:
        served.loaded()

        assert served.get("/v1/models", headers={b"X-API-Key": "clé 🔑".encode()}).status_code == 200
        refused(served.get("/v1/models", headers={b"X-API-Key": "clé".encode()}), 401, "unauthorized")


def test_keys_are_in_no_log_and_no_answer(locked, caplog):
    caplog.set_level(logging.DEBUG)
    answers = [
        locked.post(path, {"inputs": ROW}, headers={"X-API-Key": key})
        for path in ("/v1/models/digits/predict", "/v1/models/nope/predict", "/nowhere")
        for key in (KEY, "wr0ng-key")
    ]

    told = caplog.text + "".join(str(answer.headers) + answer.text for answer in answers)
    assert [answer.status_code for answer in answers] == [200, 401, 404, 401, 404, 401]
    assert KEY not in told
    assert "wr0ng-key" not in told
