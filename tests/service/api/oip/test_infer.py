"""Inference over the Open Inference Protocol: the engine's own numbers, however they are asked for."""

import gzip
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from dropout_core.engine.options import PassOptions
from mcdrop.api.oip.datatypes import OF_NUMPY
from tests.support import service_nets as nets
from tests.support.asgi import strict

INFER = "/v2/models/digits/infer"
LENGTH = "inference-header-content-length"
ROWS = nets.images(3, seed=8)


def tensor(rows=ROWS, **fields):
    """An input with its numbers in JSON."""
    values = rows.numpy()
    return {
        "name": "x",
        "shape": list(values.shape),
        "datatype": OF_NUMPY[values.dtype.name],
        "data": values.reshape(-1).tolist(),
        **fields,
    }


def binary(document, *arrays):
    """A body of JSON and bytes, and the header that says where they part."""
    head = json.dumps(document).encode()
    return head + b"".join(array.tobytes() for array in arrays), {LENGTH: str(len(head))}


def answer(response):
    """The JSON of a good answer, and its outputs by name."""
    assert response.status_code == 200, response.text
    end = int(response.headers.get(LENGTH, len(response.content)))
    kind = "application/octet-stream" if LENGTH in response.headers else "application/json"
    assert response.headers["content-type"] == kind
    document, rest, arrays = strict(response.content[:end]), response.content[end:], {}
    for output in document["outputs"]:
        dtype = {"FP64": "<f8", "INT64": "<i8"}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        arrays[output["name"]] = values.reshape(output["shape"])
    assert rest == b""
    return document, arrays


def refused(response, status):
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    body = strict(response.content)
    assert set(body) == {"error"}
    return body["error"]


def assert_engines(arrays, predictor, plan, rows=ROWS, names=None):
    estimate = predictor.predict(rows, plan)
    assert list(arrays) == list(names or [*estimate.measures, "passes_used"])
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, estimate.measure(name).numpy())


def test_without_parameters_the_answer_is_all_that_metadata_lists(server, digits):
    document, arrays = answer(server.post(INFER, {"inputs": [tensor()]}))

    assert_engines(arrays, digits, replace(digits.manifest.pass_options, passes=20, seed=7))
    assert document["model_name"] == "digits"
    assert document["model_version"] == "2"
    assert "id" not in document
    listed = server.get("/v2/models/digits").json()["outputs"]
    assert listed == [
        {"name": out["name"], "datatype": out["datatype"], "shape": [-1, *out["shape"][1:]]}
        for out in document["outputs"]
    ]


def test_a_regression_lists_its_own_measures(server, heights):
    rows = nets.features(2, seed=5)
    document, arrays = answer(server.post("/v2/models/heights/infer", {"inputs": [tensor(rows, name="input")]}))

    assert_engines(arrays, heights, replace(heights.manifest.pass_options, passes=32, seed=heights.manifest.seed), rows)
    shapes = {out["name"]: out["shape"] for out in server.get("/v2/models/heights").json()["outputs"]}
    assert shapes == {out["name"]: [-1, *out["shape"][1:]] for out in document["outputs"]}
    assert shapes["aleatoric_variance"] == [-1, 2]


def test_parameters_say_what_is_run_and_come_back(server, digits):
    asked = {"passes": 48, "seed": 3, "sampling": "iid", "masks": "independent", "branches": 1}
    document, arrays = answer(server.post(INFER, {"id": "a", "inputs": [tensor()], "parameters": asked}))

    assert_engines(arrays, digits, PassOptions(48, 3, sampling="iid", masks="independent", branches=1))
    assert document["parameters"] == {**asked, "noise": digits.manifest.noise}
    assert document["id"] == "a"
    again = {name: value for name, value in document["parameters"].items() if name != "noise"}
    assert answer(server.post(INFER, {"inputs": [tensor()], "parameters": again}))[0]["outputs"] == document["outputs"]


def test_a_pinned_version_answers(server, digits):
    document, arrays = answer(server.post("/v2/models/digits/versions/1/infer", {"inputs": [tensor()]}))

    assert document["model_version"] == "1"
    assert not np.array_equal(arrays["mean"], digits.predict(ROWS, PassOptions(20, 7, sampling="iid")).mean.numpy())


@pytest.mark.parametrize("levels", ["0.1,0.5, 0.9", [0.1, 0.5, 0.9]])
def test_quantiles_and_samples_are_outputs(server, digits, levels):
    parameters = {"passes": 8, "quantiles": levels, "samples": True}
    body = {"inputs": [tensor()], "parameters": parameters, "outputs": [{"name": "samples"}, {"name": "mean"}]}
    document, arrays = answer(server.post(INFER, body))

    estimate = digits.predict(ROWS, replace(digits.manifest.pass_options, passes=8, seed=7), keep_draws=True)
    assert set(arrays) == {"mean", "quantiles", "samples"}
    np.testing.assert_array_equal(arrays["quantiles"], estimate.quantiles([0.1, 0.5, 0.9]).movedim(0, 1).numpy())
    np.testing.assert_array_equal(arrays["samples"], estimate.samples.movedim(0, 1).numpy())
    assert document["parameters"]["quantiles"] == "0.1,0.5,0.9"


def test_a_tolerance_adds_what_it_is_about(server):
    body = {"inputs": [tensor()], "parameters": {"tolerance": 0.5, "min_passes": 16, "passes": 64}}
    _, arrays = answer(server.post(INFER, body))

    assert list(arrays)[-2:] == ["passes_used", "standard_error"]
    assert arrays["passes_used"].dtype == np.int64
    assert set(arrays["passes_used"]) == {16}


def test_a_seed_of_null_is_drawn_and_reported(server):
    body = {"inputs": [tensor()], "parameters": {"seed": None}}
    seeds = {answer(server.post(INFER, body))[0]["parameters"]["seed"] for _ in range(2)}

    assert len(seeds) == 2


@pytest.mark.parametrize("asked", [True, False, None])
@pytest.mark.parametrize("by_default", [True, False])
def test_outputs_come_as_bytes_where_they_are_asked_for(server, asked, by_default):
    outputs = [{"name": "std"}, {"name": "mean", "parameters": {"binary_data": asked}}]
    parameters = {"binary_data_output": by_default}
    plain, numbers = answer(server.post(INFER, {"inputs": [tensor()], "outputs": [{"name": "std"}, {"name": "mean"}]}))
    document, arrays = answer(server.post(INFER, {"inputs": [tensor()], "outputs": outputs, "parameters": parameters}))

    as_bytes = {"std": by_default, "mean": by_default if asked is None else asked}
    assert {out["name"]: "data" not in out for out in document["outputs"]} == as_bytes
    assert plain["parameters"] == document["parameters"]
    for name, values in numbers.items():
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64"])
def test_rows_as_bytes_of_any_type_that_converts_exactly(server, digits, dtype):
    values = ROWS.numpy().astype(dtype)
    head = {
        "name": "x",
        "shape": [3, 8, 8],
        "datatype": OF_NUMPY[dtype],
        "parameters": {"binary_data_size": values.nbytes},
    }
    body, headers = binary({"inputs": [head]}, values)

    _, arrays = answer(server.post(INFER, body, headers=headers))

    assert_engines(arrays, digits, replace(digits.manifest.pass_options, passes=20, seed=7))


def test_a_body_without_json_is_the_only_input(server, digits):
    document, arrays = answer(server.post(INFER, ROWS.numpy().tobytes(), headers={LENGTH: "0"}))

    assert_engines(arrays, digits, replace(digits.manifest.pass_options, passes=20, seed=7))
    assert all("binary_data_size" in output["parameters"] for output in document["outputs"])
    said = refused(server.post(INFER, ROWS.numpy().tobytes()[1:], headers={LENGTH: "0"}), 400)
    assert "each row of x has 256" in said


def test_no_rows_have_an_answer_without_rows(server):
    body, headers = binary(
        {
            "inputs": [{"name": "x", "shape": [0, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 0}}],
            "parameters": {"binary_data_output": True},
        }
    )
    _, arrays = answer(server.post(INFER, body, headers=headers))

    assert (arrays["mean"].shape, arrays["margin"].shape) == ((0, 3), (0,))


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("path", [INFER, "/v1/models/digits/predict"])
def test_bodies_are_inflated_everywhere_and_not_too_far(server, encoding, compress, path):
    fields = {"inputs": [tensor()]} if path == INFER else {"inputs": ROWS.tolist()}
    headers = {"content-encoding": encoding}

    assert (
        server.post(path, compress(json.dumps(fields).encode()), headers=headers).json()
        == server.post(path, fields).json()
    )
    bomb = compress(bytes(server.state.settings.max_body_bytes + 1))
    assert server.post(path, bomb, headers=headers).status_code == 413
    assert server.post(path, b"{}", headers={"content-encoding": "br"}).status_code == 415


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/octet-stream"])
def test_the_content_type_is_never_looked_at(server, content_type):
    answer(server.post(INFER, {"inputs": [tensor()]}, headers={"content-type": content_type}))


def test_what_asks_for_nothing_may_be_sent(server):
    harmless = {"priority": 0, "sequence_id": 0, "sequence_start": False, "sequence_end": False, "content_type": "np"}
    body = {
        "model_name": "another",
        "model_version": "9",
        "inputs": [tensor(parameters={"content_type": "np"})],
        "parameters": harmless,
        "outputs": [],
    }
    document, _ = answer(server.post(INFER, body))

    assert (document["model_name"], document["model_version"]) == ("digits", "2")


REFUSED = {
    "no JSON": (b"{", "not JSON"),
    "no object": ([], "not a JSON object; its fields are inputs, id, parameters"),
    "no inputs": ({}, "inputs: Field required"),
    "none of the inputs": ({"inputs": []}, "inputs: "),
    "an unknown field": ({"inputs": [tensor()], "input": 1}, "input: .* The fields there are inputs, id"),
    "an unknown parameter": ({"inputs": [tensor()], "parameters": {"n": 1}}, "parameters.n: .* are passes, seed"),
    "an unknown tensor parameter": (
        {"inputs": [tensor(parameters={"shared_memory_region": "a"})]},
        "inputs.0.parameters.shared_memory_region: .* are binary_data_size",
    ),
    "an unknown output parameter": (
        {"inputs": [tensor()], "outputs": [{"name": "mean", "parameters": {"classification": 2}}]},
        "outputs.0.parameters.classification: .* are binary_data",
    ),
    "priority": ({"inputs": [tensor()], "parameters": {"priority": 1}}, "parameters.priority: .* 0"),
    "a sequence": ({"inputs": [tensor()], "parameters": {"sequence_id": 5}}, "parameters.sequence_id"),
    "another input": ({"inputs": [tensor(name="y")]}, "an object of y"),
    "an input twice": ({"inputs": [tensor(), tensor()]}, "two inputs 'x'"),
    "a negative size": ({"inputs": [tensor(shape=[-1, 8, 8])]}, "inputs.0.shape.0"),
    "another shape": ({"inputs": [tensor(shape=[3, 4, 16])]}, "x takes float32 of shape"),
    "text": ({"inputs": [tensor(datatype="BYTES", data=["a"] * 192)]}, "not BYTES"),
    "NaN": (json.dumps({"inputs": [tensor(data=[float("nan")] * 192)]}).encode(), "finite"),
    "bytes that are not there": (
        {"inputs": [tensor(data=None, parameters={"binary_data_size": 768})]},
        "0 bytes follow",
    ),
    "data and bytes": ({"inputs": [tensor(parameters={"binary_data_size": 0})]}, "send one of them"),
    "an unknown output": ({"inputs": [tensor()], "outputs": [{"name": "entropy"}]}, "no output 'entropy'; it has exp"),
    "quantiles of nothing": ({"inputs": [tensor()], "outputs": [{"name": "quantiles"}]}, "no output 'quantiles'"),
    "quantiles of text": ({"inputs": [tensor()], "parameters": {"quantiles": "a"}}, "numbers with commas"),
    "quantiles of 1": ({"inputs": [tensor()], "parameters": {"quantiles": "1"}}, "between 0 and 1"),
    "no passes": ({"inputs": [tensor()], "parameters": {"passes": 0}}, "passes is 0"),
    "passes as text": ({"inputs": [tensor()], "parameters": {"passes": "8"}}, "parameters.passes"),
    "no time": ({"inputs": [tensor()], "parameters": {"timeout": 0}}, "parameters.timeout"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(server, case):
    body, said = REFUSED[case]

    with pytest.raises(AssertionError, match=said):
        raise AssertionError(refused(server.post(INFER, body), 400))


def test_the_time_of_a_request_is_in_microseconds(server):
    said = refused(server.post(INFER, {"inputs": [tensor()], "parameters": {"timeout": 1}}), 504)
    in_time, _ = answer(server.post(INFER, {"inputs": [tensor()], "parameters": {"timeout": 50_000_000}}))

    assert "deadline" in said
    assert in_time["parameters"]["passes"] == 20


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v2/nowhere", 404, "Not Found"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("POST", "/v2/models/no/infer", 404, "Request for unknown model: there is no model 'no'"),
        ("POST", "/v2/models/digits/versions/9/infer", 404, "Request for unknown model: digits has no version 9"),
        ("POST", "/v2/models/digits/versions/x/infer", 404, "versions are whole numbers"),
        ("GET", "/v2/models/no", 404, "Request for unknown model"),
        ("GET", "/v2/models/no/ready", 404, "Request for unknown model"),
        ("GET", "/v2/models/no/stats", 404, "Request for unknown model"),
        ("GET", "/v2/models/no/config", 404, "Request for unknown model"),
        ("POST", "/v2/repository/models/no/load", 404, "Request for unknown model"),
        ("POST", "/v2/repository/models/no/unload", 404, "Request for unknown model"),
    ],
)
def test_what_there_is_not_is_an_error_that_clients_read(server, method, path, status, said):
    assert said in refused(server.ask(method, path), status)
