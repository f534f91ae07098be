import re
from urllib.parse import urlsplit

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from mcdrop.api.document import complete_document
from mcdrop.api.v1.rank.schemas import RankRequest
from mcdrop.api.v1.schemas import PredictRequest, parse_body
from mcdrop.http.problems import PROBLEMS_BY_CODE
from mcdrop.security.keys import new_key
from mcdrop.settings import Settings
from tests.support.asgi import PROBLEM_FIELDS, Served, good

ASKING = {
    "/v1/models/{name}/predict": PredictRequest,
    "/v1/models/{name}/versions/{version}/predict": PredictRequest,
    "/v1/models/{name}/rank": RankRequest,
    "/v1/models/{name}/versions/{version}/rank": RankRequest,
}
INFERRING = ["/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"]
OPERATING = ["/v2/repository/models/{name}/load", "/v2/repository/models/{name}/unload"]
# The documentation itself, and another spelling of /v2.
UNDOCUMENTED = {"/openapi.json", "/static-offline-docs", "/docs", "/docs/oauth2-redirect", "/v2/"}
HEALTH = ["/healthz/live", "/healthz/ready", "/v2/health/live", "/v2/health/ready"]
NOBODY_READS = {"client-gone"}


@pytest.fixture(scope="module")
def openapi(server):
    return good(server.get("/openapi.json"))


@pytest.fixture(scope="module")
def guarded(bundles, tmp_path_factory):
    """The document of a server with a file of keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    new_key(keys, "alice", "predict")
    with Served(Settings(bundles=bundles, keys=keys)) as served:
        return served.app.openapi()


def operations(document):
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield path, method, operation


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


def test_every_route_is_documented_and_no_other(server, openapi):
    routes = {
        (route.path, method.lower())
        for route in iter_route_contexts(server.app.routes)
        if route.path not in UNDOCUMENTED
        for method in route.methods
    }

    assert openapi["openapi"].startswith("3.1")
    assert openapi["info"]["title"] == "mcdrop"
    assert {(path, method) for path, method, _ in operations(openapi)} == routes
    assert len(routes) == 28


@pytest.mark.parametrize("path", ASKING)
def test_a_body_is_documented_with_an_example_that_fits(openapi, path):
    schema = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert openapi["paths"][path]["post"]["requestBody"]["required"]
    assert set(schema["properties"]) == set(ASKING[path].model_fields)
    assert schema["required"] == ["inputs"]
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())
    for example in schema["examples"]:
        assert parse_body(ASKING[path], example)


@pytest.mark.parametrize("path", ASKING)
def test_an_answer_and_every_problem_are_documented(openapi, path):
    responses = openapi["paths"][path]["post"]["responses"]

    assert set(responses) == {*map(str, (200, 400, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504))}
    assert "$ref" in responses["200"]["content"]["application/json"]["schema"]
    forms = {"application/json", "application/x-npz", *(["application/x-ndjson"] if "predict" in path else [])}
    assert set(responses["200"]["content"]) == forms
    assert responses["429"]["headers"]["Retry-After"]["required"]


@pytest.mark.parametrize("path", INFERRING)
def test_inference_is_documented_in_json_and_in_bytes(openapi, path):
    operation = openapi["paths"][path]["post"]

    assert set(operation["responses"]) == {*map(str, (200, 400, 404, 408, 413, 415, 429, 500, 503, 504))}
    for both in (operation["requestBody"], operation["responses"]["200"]):
        assert set(both["content"]) == {"application/json", "application/octet-stream"}
    assert "Inference-Header-Content-Length" in operation["responses"]["200"]["headers"]
    assert "Inference-Header-Content-Length" in {one["name"] for one in operation["parameters"]}


def test_every_refusal_says_what_it_looks_like(guarded):
    """Each code of the table stands at its status, with an example of its own; and no other."""
    found = set()
    for path, _, operation in operations(guarded):
        v2 = path.startswith("/v2")
        for status, response in operation["responses"].items():
            for kind, content in response["content"].items() if status != "200" else ():
                for code, example in content.get("examples", {}).items():
                    found.add(code)
                    value = example["value"]
                    assert kind == ("application/json" if v2 else "application/problem+json")
                    problem = PROBLEMS_BY_CODE[code]
                    assert int(status) == (400 if v2 and problem.status == 422 else problem.status)
                    assert set(value) == ({"error"} if v2 else PROBLEM_FIELDS)
                    if not v2:
                        assert (value["type"], value["status"]) == (f"urn:mcdrop:{code}", int(status))
                        assert value["title"] == problem.title == example["summary"]

    assert found == set(PROBLEMS_BY_CODE) - NOBODY_READS


def test_without_keys_nothing_is_said_of_them(openapi):
    assert "securitySchemes" not in openapi["components"]
    for _, _, operation in operations(openapi):
        assert "security" not in operation
        assert not {"401", "403"} & set(operation["responses"])


def test_what_takes_a_key_says_which(guarded):
    schemes = guarded["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["key"]["name"]) == ("bearer", "X-API-Key")
    for path, _, operation in operations(guarded):
        keys = set() if path in HEALTH else {"401", "403"} if path in OPERATING else {"401"}
        assert {"401", "403"} & set(operation["responses"]) == keys, path
        assert operation.get("security", []) == ([{"bearer": []}, {"key": []}] if keys else []), path


def test_a_key_need_not_be_sent_where_anybody_may_ask(openapi, server):
    settings = Settings(api_key=SecretStr("a-key"), allow_anonymous=True, host="0.0.0.0", open_metrics=True)

    paths = complete_document(openapi, settings)["paths"]

    assert paths["/v1/models"]["get"]["security"] == [{}, {"bearer": []}, {"key": []}]
    assert "401" in paths["/v1/models"]["get"]["responses"]  # a wrong key is refused all the same
    assert "security" not in paths["/metrics"]["get"]
    assert paths[OPERATING[0]]["post"]["security"] == [{"bearer": []}, {"key": []}]


def test_every_operation_says_what_holds_for_all(openapi):
    tags = {tag["name"] for tag in openapi["tags"]}
    for path, _, operation in operations(openapi):
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        named = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path)
        sent = {one["name"] for one in operation["parameters"] if one["in"] == "header"}
        timed = path in {*ASKING, *INFERRING}
        assert sent - {"Inference-Header-Content-Length"} == {
            "X-Request-Id",
            *(["X-Request-Timeout-Ms"] if timed else []),
        }
        assert "500" in operation["responses"]
        for response in operation["responses"].values():
            assert response["headers"]["X-Request-Id"]["required"]


def test_names_and_versions_have_their_patterns(openapi):
    (name, version) = openapi["paths"]["/v1/models/{name}/versions/{version}"]["get"]["parameters"][:2]

    assert re.fullmatch(name["schema"]["pattern"], "digits-2_b")
    assert not re.fullmatch(name["schema"]["pattern"], "Digits")
    assert (version["schema"]["type"], version["schema"]["minimum"]) == ("integer", 1)


def test_every_reference_leads_somewhere(openapi):
    found = set(references(openapi))

    assert found
    for reference in found:
        kind, name = re.fullmatch(r"#/components/(\w+)/(\w+)", reference).groups()
        assert name in openapi["components"][kind]


def test_the_names_of_operations_are_unique(openapi):
    names = [operation["operationId"] for _, _, operation in operations(openapi)]

    assert len(set(names)) == len(names)


def test_the_examples_of_bodies_work_as_they_stand(server, openapi):
    asked = 0
    for path, method, operation in operations(openapi):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for example in body.get("examples", []):
            asked += 1
            parameters = {one["name"]: one["schema"] for one in operation["parameters"] if one["in"] == "path"}
            at = path.format(**{name: schema["examples"][0] for name, schema in parameters.items()})
            assert good(server.ask(method, at, example)), path
    assert asked == len(ASKING) + len(INFERRING)


@pytest.mark.parametrize(("name", "model"), [("predict", "digits"), ("rank", "digits")])
def test_an_answer_has_the_fields_it_is_documented_with(server, openapi, name, model):
    schema = openapi["components"]["schemas"][f"{name.capitalize()}Response"]
    row = good(server.get(f"/v1/models/{model}"))["example"]
    asked = (
        [{"quantiles": [0.5], "defer_above": {"variance": 0.1}}]
        if name == "predict"
        else [{"ids": ["a"], "score": "variance"}, {"selector": "batchbald"}, {"selector": "k_centre"}]
    )

    answers = [good(server.post(f"/v1/models/{model}/{name}", {"inputs": [row], **extra})) for extra in asked]

    assert set().union(*answers) == set(schema["properties"])
    assert all(set(schema["required"]) <= set(answer) for answer in answers)
