import asyncio
import json
import logging

import pytest

from mcdrop.inference.query import model_measures
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served, refused
from tests.support.fakes import SECRET, NoCatalogue

PREDICT, RANK = "/v1/models/digits/predict", "/v1/models/digits/rank"
ROW = nets.images(1, seed=1).int().tolist()[0]
both = pytest.mark.parametrize("path", [PREDICT, RANK], ids=["predict", "rank"])


@pytest.fixture(scope="module")
def strict_server(bundles, server):
    """The same bundles within tight limits."""
    settings = Settings(bundles=bundles, max_passes=40, max_samples=120, max_body_bytes=2000)
    with Served(settings, server.state.catalogue) as served:
        yield served.loaded()


@pytest.fixture(scope="module")
def nan_server(nan_bundles):
    with Served(Settings(bundles=nan_bundles)) as served:
        yield served.loaded()


def with_value(literal):
    """A body of two rows, in the second of which a JSON literal stands in row 2, column 3."""
    rows = [ROW, [list(line) for line in ROW]]
    rows[1][2][3] = "HERE"
    return json.dumps({"inputs": rows}).replace('"HERE"', literal).encode()


@both
@pytest.mark.parametrize("body", [b"", b"{", b"inputs=1", b"\x00\xff", b"[" * 100_000], ids=lambda b: f"{b[:8]!r}")
def test_a_body_that_is_no_json_is_400(server, path, body):
    assert refused(server.post(path, body), 400, "malformed-json").startswith("the body is not JSON: ")


@both
@pytest.mark.parametrize("body", [[], "x", 3, None, True], ids=json.dumps)
def test_a_body_that_is_no_object_is_422(server, path, body):
    answer = server.post(path, json.dumps(body).encode())

    assert refused(answer, 422, "invalid-request") == 'the body is not a JSON object; send {"inputs": [...]}.'


@both
@pytest.mark.parametrize(
    "field",
    [{"pases": 3}, {"passes": 2.0}, {"passes": True}, {"passes": "2"}, {"seed": 1.5}, {"seed": True}],
    ids=str,
)
def test_a_field_that_does_not_fit_is_422_by_name(server, path, field):
    answer = server.post(path, {"inputs": [ROW], **field})

    assert refused(answer, 422, "invalid-request").startswith(f"{next(iter(field))}: ")


@both
def test_missing_inputs_are_422_by_name(server, path):
    assert refused(server.post(path, {}), 422, "invalid-request").startswith("inputs: Field required.")


@both
@pytest.mark.parametrize(
    ("literal", "said"),
    [
        ('"three"', "the text 'three'"),
        ("null", "null"),
        ("true", "true"),
        ("false", "false"),
        ("{}", "an object"),
        ("[1]", "a list"),
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("-Infinity", "-inf"),
        ("1e300", "1e+300"),
        ("1e400", "inf"),
        ("1" + "0" * 100, "1e+100"),
        ("1" + "0" * 400, "inf"),
        ("1" + "0" * 5000, "inf"),
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_is_no_number_is_422_by_row_and_column(server, path, literal, said):
    detail = refused(server.post(path, with_value(literal)), 422, "invalid-input")

    assert detail.startswith(f"row 1, column [2, 3] is {said}; x takes ")


@both
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([ROW, ROW[:7]], "row 1 has 7 values, not 8"),
        ([ROW, [*ROW[:7], ROW[7][:5]]], "row 1, column 7 has 5 values, not 8"),
        ([[1, 2, 3]], "row 0 has shape [3]"),
        ([[row[:7] for row in ROW]], "row 0 has shape [8, 7]"),
        ([[]], "row 0 has shape [0]"),
        (5, "inputs is 5"),
        (None, "inputs is null"),
        ({"0": ROW}, "inputs is an object"),
    ],
    ids=["short row", "ragged row", "too flat", "too narrow", "empty row", "number", "null", "object"],
)
def test_rows_of_a_wrong_shape_are_422_by_row_and_what_is_wanted(server, path, inputs, said):
    detail = refused(server.post(path, {"inputs": inputs}), 422, "invalid-input")

    assert detail.startswith(said)
    assert detail.endswith("x takes float32 of shape [8, 8] for each row.")


@both
@pytest.mark.parametrize("depth", [70, 300, 900, 1000, 1015])
def test_deep_nesting_is_422_and_no_failure(server, path, depth):
    body = b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}"

    assert refused(server.post(path, body), 422, "invalid-input").startswith("row 0 has ")


@both
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"passes": 0}, "passes is 0; this server runs 1 to 40."),
        ({"passes": 41}, "passes is 41; this server runs 1 to 40."),
        ({"passes": -1}, "passes is -1; this server runs 1 to 40."),
        ({"seed": -1}, "the seed is -1; it must lie between 0 and 2^63 - 1, or be null to have one drawn."),
        ({"seed": 2**63}, f"the seed is {2**63}; it must lie between 0 and 2^63 - 1, or be null to have one drawn."),
    ],
    ids=str,
)
def test_passes_and_seeds_out_of_bounds_are_422(strict_server, path, field, said):
    assert refused(strict_server.post(path, {"inputs": [ROW], **field}), 422, "invalid-input") == said


@pytest.mark.parametrize("level", [0, 0.0, 1, 1.0, -0.5, 2], ids=str)
def test_a_quantile_level_of_0_or_1_or_beyond_is_422(server, level):
    answer = server.post(PREDICT, {"inputs": [ROW], "quantiles": [0.5, level]})

    assert "must lie strictly between 0 and 1" in refused(answer, 422, "invalid-input")


@pytest.mark.parametrize("kept", [{"samples": True}, {"quantiles": [0.5]}], ids=["samples", "quantiles"])
def test_more_samples_than_the_bound_are_422_with_the_bound(strict_server, kept):
    # 1 row of 3 outputs: 40 passes are the 120 numbers that are allowed
    assert strict_server.predict("digits", [ROW], passes=40, **kept)
    answer = strict_server.post(PREDICT, {"inputs": [ROW, ROW], "passes": 21, **kept})

    assert "would keep 126 numbers (passes or levels × rows × positions × outputs); the limit is 120." in refused(
        answer, 422, "invalid-input"
    )


def test_an_unknown_measure_is_422_with_the_known(server, digits):
    answer = server.post(PREDICT, {"inputs": [ROW], "outputs": ["mean", "uncertainty"]})

    known = ", ".join((*model_measures(digits), "passes_used", "standard_error", "mutual_information_standard_error"))
    assert refused(answer, 422, "unknown-measure") == f"digits has no measure 'uncertainty'; it has {known}."


@pytest.mark.parametrize("verb", ["predict", "rank"])
def test_an_unknown_model_is_404_with_those_there_are(server, verb):
    answer = server.post(f"/v1/models/nope/{verb}", {"inputs": [ROW]})

    assert refused(answer, 404, "unknown-model") == "there is no model 'nope'; there are digits, heights."


@pytest.mark.parametrize("verb", ["predict", "rank"])
def test_an_unknown_version_is_404_with_those_there_are(server, verb):
    answer = server.post(f"/v1/models/digits/versions/9/{verb}", {"inputs": [ROW]})

    assert refused(answer, 404, "unknown-model") == "digits has no version 9; it has 2, 1."


@pytest.mark.parametrize("version", ["newest", "1.5", "0x1", "9" * 5000], ids=["a word", "a fraction", "hex", "huge"])
def test_a_version_that_is_no_number_is_404(server, version):
    answer = server.post(f"/v1/models/digits/versions/{version}/predict", {"inputs": [ROW]})

    assert refused(answer, 404, "unknown-model").endswith("names no version: versions are whole numbers.")


@pytest.mark.parametrize("name", ["Digits", "-", "%2e%2e", "a b"])
def test_a_name_that_no_model_can_have_is_404(server, name):
    assert "is not a model name" in refused(server.post(f"/v1/models/{name}/predict", {}), 404, "unknown-model")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/digits/nope", "/v1/models/%2e%2e%2fx/predict"])
def test_an_unknown_path_is_404(server, path):
    assert refused(server.get(path), 404, "http").endswith("Not Found. See /docs.")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", PREDICT, "POST"), ("DELETE", PREDICT, "POST"), ("POST", "/v1/models", "GET"), ("PUT", RANK, "POST")],
    ids=["get predict", "delete predict", "post models", "put rank"],
)
def test_a_wrong_method_is_405_with_the_right_one(server, method, path, allowed):
    answer = server.ask(method, path)

    refused(answer, 405, "http")
    assert answer.headers["allow"] == allowed


@both
def test_a_body_over_the_limit_is_413_before_any_of_it_is_read(strict_server, path):
    sent = []

    async def parts():
        sent.append(1)
        yield b" " * 2001

    answer = strict_server.post(path, parts(), headers={"Content-Length": "2001"})

    assert refused(answer, 413, "body-too-large").startswith("the body has 2001 bytes; 2000 are accepted.")
    assert sent == []


@both
def test_a_body_without_a_length_is_413_as_soon_as_it_is_too_large(strict_server, path):
    sent = []

    async def parts():
        for _ in range(100):
            sent.append(1)
            yield b"x" * 900

    answer = strict_server.post(path, parts())

    assert "more than the 2000 bytes" in refused(answer, 413, "body-too-large")
    assert len(sent) == 3


def test_a_body_of_exactly_the_limit_is_read(strict_server):
    body = json.dumps({"inputs": [ROW]}).encode()

    assert strict_server.post(PREDICT, body + b" " * (2000 - len(body))).status_code == 200
    refused(strict_server.post(PREDICT, body + b" " * (2001 - len(body))), 413, "body-too-large")


@pytest.mark.parametrize("verb", ["predict", "rank"])
def test_a_network_that_answers_nan_is_500_naming_the_row(nan_server, verb):
    answer = nan_server.post(f"/v1/models/rooted/{verb}", {"inputs": [[1, 2], [3, 4], [5, -6], [-7, 8]]})

    detail = refused(answer, 500, "non-finite-output")
    assert (
        detail == "rooted answers row 2 with NaN or infinity. Check that the row is in the range of the training data."
    )


def test_the_same_network_answers_rows_it_can(nan_server):
    assert len(nan_server.predict("rooted", [[1, 2], [3, 4]], samples=True)["outputs"]["mean"]) == 2


@both
def test_ids_with_half_a_character_are_400_and_no_failure(server, path):
    body = json.dumps({"inputs": [ROW], "ids": ["HERE"]}).replace("HERE", "\\ud800").encode()

    refused(server.post(path, body), 400, "malformed-json")


def test_a_failure_of_ours_is_500_with_a_fixed_text_and_leaks_nothing(bundles, caplog):
    caplog.set_level(logging.DEBUG)
    with Served(Settings(bundles=bundles), NoCatalogue()) as failing:
        answers = [failing.loaded().post(path, {"inputs": [ROW]}) for path in (PREDICT, RANK)]

    for answer in answers:
        detail = refused(answer, 500, "internal")
        assert detail == "The failure was logged; try again, or tell the operator."
        assert SECRET not in answer.text + str(answer.headers)
        assert "Traceback" not in answer.text


def test_a_failure_reaches_the_server_above_us_which_logs_it(bundles):
    with Served(Settings(bundles=bundles), NoCatalogue()) as failing:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/models/digits",
            "headers": [],
            "query_string": b"",
            "server": ("here", 80),
        }

        async def ignore(_):
            pass

        with pytest.raises(RuntimeError, match=SECRET):
            asyncio.run(failing.app(scope, None, ignore))
