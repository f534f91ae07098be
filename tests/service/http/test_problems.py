import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dropout_core.errors import CaptureError, InvalidInput, McdropError, NonFiniteOutput, NoVariance, UnknownMeasure
from mcdrop.errors import (
    BodyTooLarge,
    ClientGone,
    ComputeDied,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InvalidRequest,
    MalformedJson,
    NotAcceptable,
    QueueFull,
    RequestError,
    RequestTimeout,
    ServiceError,
    Unauthorized,
    Unloaded,
    UnsupportedMediaType,
)
from mcdrop.http.problems import (
    error_response,
    on_http_error,
    on_invalid_path,
    on_mcdrop_error,
    on_unexpected_error,
    outcome_of,
    problem_json,
)
from mcdrop_models.errors import BundleError, InvalidBundle, UnknownModel
from tests.support.asgi import strict

V1, V2 = "/v1/models/x/predict", "/v2/models/x/infer"
TABLE = [
    (MalformedJson, 400, "malformed-json", "invalid"),
    (Unauthorized, 401, "unauthorized", "invalid"),
    (Forbidden, 403, "forbidden", "invalid"),
    (UnknownModel, 404, "unknown-model", "invalid"),
    (NotAcceptable, 406, "not-acceptable", "invalid"),
    (RequestTimeout, 408, "request-timeout", "deadline"),
    (BodyTooLarge, 413, "body-too-large", "invalid"),
    (UnsupportedMediaType, 415, "unsupported-media-type", "invalid"),
    (InvalidRequest, 422, "invalid-request", "invalid"),
    (InvalidInput, 422, "invalid-input", "invalid"),
    (UnknownMeasure, 422, "unknown-measure", "invalid"),
    (QueueFull, 429, "queue-full", "rejected"),
    (ClientGone, 499, "client-gone", "cancelled"),
    (NonFiniteOutput, 500, "non-finite-output", "backend"),
    (InvalidBundle, 503, "invalid-bundle", "unavailable"),
    (Unloaded, 503, "unloaded", "unavailable"),
    (Draining, 503, "draining", "unavailable"),
    (ComputeDied, 503, "compute-died", "unavailable"),
    (DeadlineExceeded, 504, "deadline-exceeded", "deadline"),
]
OURS_TO_FIX = [McdropError, RequestError, ServiceError, BundleError, CaptureError, NoVariance, ValueError]
SAID = "what came, what is allowed, what to do"


def error_of(kind):
    return kind(SAID, 3) if kind is QueueFull else kind(SAID)


def request_to(path):
    return Request({"type": "http", "method": "PUT", "path": path, "headers": [], "server": ("here", 80)})


def body(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return strict(answer.body)


@pytest.mark.parametrize(("kind", "status", "code", "outcome"), TABLE, ids=[code for _, _, code, _ in TABLE])
def test_an_error_has_its_status_and_says_its_own_text(kind, status, code, outcome):
    answer = error_response(error_of(kind), V1)

    assert answer.status_code == status
    said = body(answer)
    assert said.pop("title")
    assert said == {"type": f"urn:mcdrop:{code}", "status": status, "detail": SAID}
    assert outcome_of(error_of(kind)) == outcome


@pytest.mark.parametrize(("kind", "status", "code", "_"), TABLE, ids=[code for _, _, code, _ in TABLE])
def test_below_v2_it_is_said_as_those_of_the_protocol_read_it(kind, status, code, _):
    answer = error_response(error_of(kind), V2)

    assert (answer.status_code, answer.headers["content-type"]) == (
        400 if status == 422 else status,
        "application/json",
    )
    said = f"Request for unknown model: {SAID}" if code == "unknown-model" else SAID
    assert strict(answer.body) == {"error": said}


def test_every_error_of_the_server_has_a_problem_type():
    kinds = {*RequestError.__subclasses__(), *ServiceError.__subclasses__()}

    assert kinds <= {kind for kind, *_ in TABLE}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v2", "application/json"),
        ("/v2/x", "application/json"),
        ("/v20", "application/problem+json"),
        ("/v1/v2/x", "application/problem+json"),
    ],
)
def test_the_form_of_a_refusal_is_that_of_its_path(path, kind):
    assert error_response(UnknownModel("no"), path).headers["content-type"] == kind


def test_a_subclass_is_answered_as_its_parent():
    class Worse(InvalidBundle):
        pass

    assert error_response(Worse("no"), V1).status_code == 503


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize("kind", OURS_TO_FIX, ids=lambda kind: kind.__name__)
def test_an_error_without_a_row_is_a_fault_of_ours_and_leaks_nothing(kind, path):
    answer = error_response(kind("hunter2"), path)

    assert answer.status_code == 500
    assert outcome_of(kind("hunter2")) == "backend"
    assert b"hunter2" not in answer.body
    assert b"try again, or tell the operator" in answer.body


@pytest.mark.parametrize("path", [V1, V2])
def test_only_a_missing_key_asks_for_one(path):
    assert error_response(Unauthorized("no"), path).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in error_response(UnknownModel("no"), path).headers


@pytest.mark.parametrize("path", [V1, V2])
def test_who_comes_when_enough_waits_is_told_when_to_come_again(path):
    assert error_response(QueueFull("full", 7), path).headers["retry-after"] == "7"
    assert "retry-after" not in error_response(Draining("no"), path).headers


def test_the_titles_are_all_different():
    assert len({body(error_response(error_of(kind), V1))["title"] for kind, *_ in TABLE}) == len(TABLE)


def test_a_problem_is_as_rfc_9457_has_it():
    assert strict(problem_json(418, "teapot", "Short and stout", "pour")) == {
        "type": "urn:mcdrop:teapot",
        "title": "Short and stout",
        "status": 418,
        "detail": "pour",
    }


@pytest.mark.parametrize("handler", [on_unexpected_error, on_mcdrop_error, on_http_error], ids=lambda h: h.__name__)
def test_a_handler_says_nothing_of_an_error_it_does_not_know(handler):
    answer = asyncio.run(handler(request_to(V1), ValueError("hunter2")))

    assert (answer.status_code, answer.body) == (500, error_response(ValueError(), V1).body)


def test_the_handler_of_our_errors_uses_the_table():
    answer = asyncio.run(on_mcdrop_error(request_to(V1), UnknownModel("there is none")))

    assert (answer.status_code, body(answer)["detail"]) == (404, "there is none")


@pytest.mark.parametrize("path", ["/v1/x", "/v2/x"])
def test_the_answer_to_a_wrong_method_keeps_what_is_allowed(path):
    answer = asyncio.run(on_http_error(request_to(path), HTTPException(405, headers={"Allow": "GET"})))

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert strict(answer.body)["error" if path == "/v2/x" else "detail"] == (
        f"PUT {path}: Method Not Allowed. See /docs."
    )


def test_a_path_whose_version_is_no_number_names_no_model():
    answer = asyncio.run(on_invalid_path(request_to("/v1/x"), ValueError("hunter2")))

    assert answer.status_code == 404
    assert body(answer)["detail"] == "/v1/x names no version: versions are whole numbers."
