"""Every surface offers every field of PassOptions, with the description that the option has."""

import dataclasses

import pytest

from dropout_core.engine.options import PassOptions
from mcdrop.client.requests import PredictFields, RankFields

OPTIONS = {option.name: option.metadata["description"] for option in dataclasses.fields(PassOptions)}
PREDICT, RANK, INFER = "/v1/models/{name}/predict", "/v1/models/{name}/rank", "/v2/models/{name}/infer"


@pytest.fixture(scope="module")
def operations(server):
    paths = server.get("/openapi.json").json()["paths"]
    return {path: paths[path]["post"] for path in (PREDICT, RANK, INFER)}


def body_schema(operation):
    return operation["requestBody"]["content"]["application/json"]["schema"]


def parameters_schema(operation):
    """The schema of the parameters of an inference request, which may be null."""
    (found,) = [
        one for one in body_schema(operation)["properties"]["parameters"]["anyOf"] if one.get("type") == "object"
    ]
    return found


def assert_offers(described):
    assert OPTIONS.keys() <= described.keys()
    for name, description in OPTIONS.items():
        assert described[name].startswith(description), name


@pytest.mark.parametrize("path", [PREDICT, RANK])
def test_json_bodies_offer_every_pass_option(operations, path):
    fields = body_schema(operations[path])["properties"]

    assert_offers({name: field.get("description", "") for name, field in fields.items()})


@pytest.mark.parametrize("path", [PREDICT, RANK])
def test_query_strings_offer_every_pass_option(operations, path):
    assert_offers({one["name"]: one["description"] for one in operations[path]["parameters"] if one["in"] == "query"})


def test_inference_parameters_offer_every_pass_option(operations):
    fields = parameters_schema(operations[INFER])["properties"]

    assert_offers({name: field.get("description", "") for name, field in fields.items()})


def test_both_protocols_describe_an_option_with_the_same_schema(operations):
    body, parameters = (
        body_schema(operations[PREDICT])["properties"],
        parameters_schema(operations[INFER])["properties"],
    )

    assert {name: body[name] for name in OPTIONS} == {name: parameters[name] for name in OPTIONS}


@pytest.mark.parametrize("path", [PREDICT, RANK])
def test_no_query_parameter_has_a_value_that_a_form_would_send(operations, path):
    for parameter in operations[path]["parameters"]:
        if parameter["in"] == "query":
            assert not {"default", "example", "examples"} & {*parameter, *parameter["schema"]}, parameter["name"]


@pytest.mark.parametrize("path", [PREDICT, RANK, INFER])
def test_the_example_body_is_answered_by_the_example_model(server, operations, path):
    (example,) = body_schema(operations[path])["examples"]

    assert server.post(path.format(name="digits"), example).status_code == 200


@pytest.mark.parametrize("fields", [PredictFields, RankFields], ids=lambda fields: fields.__name__)
def test_clients_take_every_pass_option_as_a_keyword(fields):
    assert OPTIONS.keys() <= fields.__annotations__.keys()
