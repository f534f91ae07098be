import re
from urllib.parse import urlsplit

import pytest

from service.schemas.v1 import PredictRequest, RankRequest, parse
from tests.service.asgi import PROBLEM_FIELDS, good

ASKING = {
    "/v1/models/{name}/predict": PredictRequest,
    "/v1/models/{name}/versions/{version}/predict": PredictRequest,
    "/v1/models/{name}/rank": RankRequest,
    "/v1/models/{name}/versions/{version}/rank": RankRequest,
}
READING = ["/v1/models", "/v1/models/{name}", "/v1/models/{name}/versions/{version}", "/healthz/live", "/healthz/ready"]


@pytest.fixture(scope="module")
def openapi(server):
    return good(server.get("/openapi.json"))


def references(value):
    """Every $ref in a document."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_documentation_loads_nothing_from_another_host(server):
    page = server.get("/docs").text
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)

    assert len(links) >= 4
    for link in links:
        assert urlsplit(link)[:2] == ("", ""), link
        answer = server.get(link)
        assert (answer.status_code, bool(answer.content)) == (200, True), link
    assert not re.search(r"https?://|[\"']//", page)


def test_the_documentation_names_its_document_and_its_program(server):
    page = server.get("/docs").text

    assert "'/openapi.json'" in page
    assert len(server.get("/static-offline-docs/swagger-ui-bundle.js").content) > 100_000


def test_every_path_is_documented_and_no_other(openapi):
    assert openapi["openapi"].startswith("3.")
    assert openapi["info"]["title"] == "mcdrop"
    assert set(openapi["paths"]) == {*ASKING, *READING}
    assert all(set(openapi["paths"][path]) == {"post"} for path in ASKING)
    assert all(set(openapi["paths"][path]) == {"get"} for path in READING)


@pytest.mark.parametrize("path", ASKING)
def test_a_body_is_documented_with_an_example_that_fits(openapi, path):
    schema = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert openapi["paths"][path]["post"]["requestBody"]["required"]
    assert set(schema["properties"]) == set(ASKING[path].model_fields)
    assert schema["required"] == ["inputs"]
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())
    for example in schema["examples"]:
        assert parse(ASKING[path], example)


@pytest.mark.parametrize("path", ASKING)
def test_an_answer_and_every_problem_are_documented(openapi, path):
    responses = openapi["paths"][path]["post"]["responses"]

    assert set(responses) == {"200", "400", "401", "404", "413", "422", "500", "503"}
    assert "$ref" in responses["200"]["content"]["application/json"]["schema"]
    for status in set(responses) - {"200"}:
        schema = responses[status]["content"]["application/problem+json"]["schema"]
        assert set(schema["properties"]) == set(schema["required"]) == PROBLEM_FIELDS
        assert responses[status]["description"]


@pytest.mark.parametrize("path", [*ASKING, *READING])
def test_an_operation_has_a_summary_and_its_path_parameters(openapi, path):
    (operation,) = openapi["paths"][path].values()

    assert operation["summary"]
    assert operation["description"]
    wanted = re.findall(r"\{(\w+)\}", path)
    assert [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"] == wanted


def test_every_reference_leads_somewhere(openapi):
    found = set(references(openapi))

    assert found
    for reference in found:
        kind, name = re.fullmatch(r"#/components/(\w+)/(\w+)", reference).groups()
        assert name in openapi["components"][kind]


def test_the_names_of_operations_are_unique(openapi):
    names = [operation["operationId"] for path in openapi["paths"].values() for operation in path.values()]

    assert len(set(names)) == len(names) == len(ASKING) + len(READING)


@pytest.mark.parametrize(("name", "model"), [("predict", "digits"), ("rank", "digits")])
def test_an_answer_has_the_fields_it_is_documented_with(server, openapi, name, model):
    schema = openapi["components"]["schemas"][f"{name.capitalize()}Response"]
    row = good(server.get(f"/v1/models/{model}"))["example"]
    extra = {"quantiles": [0.5]} if name == "predict" else {"ids": ["a"], "score": "variance"}

    answer = good(server.post(f"/v1/models/{model}/{name}", {"inputs": [row], **extra}))

    assert set(answer) == set(schema["properties"])
