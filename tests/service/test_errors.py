import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dropout_core.errors import CaptureError, InvalidInput, McdropError, NonFiniteOutput, NoVariance, UnknownMeasure
from models.errors import BundleError, InvalidBundle, UnknownModel
from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    MalformedJson,
    RequestError,
    Unauthorized,
    answer_of,
    on_http_error,
    on_invalid_path,
    on_mcdrop_error,
    on_unexpected_error,
    problem,
    unexpected,
)
from tests.service.asgi import strict

TABLE = [
    (MalformedJson, 400, "malformed-json"),
    (Unauthorized, 401, "unauthorized"),
    (UnknownModel, 404, "unknown-model"),
    (BodyTooLarge, 413, "body-too-large"),
    (InvalidRequest, 422, "invalid-request"),
    (InvalidInput, 422, "invalid-input"),
    (UnknownMeasure, 422, "unknown-measure"),
    (NonFiniteOutput, 500, "non-finite-output"),
    (InvalidBundle, 503, "invalid-bundle"),
]
OURS_TO_FIX = [McdropError, RequestError, BundleError, CaptureError, NoVariance]
REQUEST = Request({"type": "http", "method": "PUT", "path": "/v1/x", "headers": [], "server": ("here", 80)})


def body(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return strict(answer.body)


@pytest.mark.parametrize(("kind", "status", "code"), TABLE, ids=[code for *_, code in TABLE])
def test_an_error_has_its_status_and_says_its_own_text(kind, status, code):
    answer = answer_of(kind("what came, what is allowed, what to do"))

    assert answer.status_code == status
    said = body(answer)
    assert said.pop("title")
    assert said == {
        "type": f"urn:mcdrop:{code}",
        "status": status,
        "detail": "what came, what is allowed, what to do",
    }


def test_a_subclass_is_answered_as_its_parent():
    class Worse(InvalidBundle):
        pass

    assert answer_of(Worse("no")).status_code == 503


@pytest.mark.parametrize("kind", OURS_TO_FIX, ids=lambda kind: kind.__name__)
def test_an_error_without_a_row_is_a_fault_of_ours_and_leaks_nothing(kind):
    answer = answer_of(kind("hunter2"))

    assert (answer.status_code, answer.body) == (500, unexpected().body)
    assert b"hunter2" not in answer.body


def test_only_a_missing_key_asks_for_one():
    assert answer_of(Unauthorized("no")).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in answer_of(UnknownModel("no")).headers


def test_the_titles_are_all_different():
    assert len({body(answer_of(kind("no")))["title"] for kind, *_ in TABLE}) == len(TABLE)


def test_a_problem_is_as_rfc_9457_has_it():
    assert body(problem(418, "teapot", "Short and stout", "pour")) == {
        "type": "urn:mcdrop:teapot",
        "title": "Short and stout",
        "status": 418,
        "detail": "pour",
    }


@pytest.mark.parametrize("handler", [on_unexpected_error, on_mcdrop_error, on_http_error], ids=lambda h: h.__name__)
def test_a_handler_says_nothing_of_an_error_it_does_not_know(handler):
    answer = asyncio.run(handler(REQUEST, ValueError("hunter2")))

    assert (answer.status_code, answer.body) == (500, unexpected().body)


def test_the_handler_of_our_errors_uses_the_table():
    answer = asyncio.run(on_mcdrop_error(REQUEST, UnknownModel("there is none")))

    assert (answer.status_code, body(answer)["detail"]) == (404, "there is none")


def test_the_answer_to_a_wrong_method_keeps_what_is_allowed():
    answer = asyncio.run(on_http_error(REQUEST, HTTPException(405, headers={"Allow": "GET"})))

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert body(answer)["detail"] == "PUT /v1/x: Method Not Allowed. See /docs."


def test_a_path_whose_version_is_no_number_names_no_model():
    answer = asyncio.run(on_invalid_path(REQUEST, ValueError("hunter2")))

    assert answer.status_code == 404
    assert body(answer)["detail"] == "/v1/x names no version: versions are whole numbers."
