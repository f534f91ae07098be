"""Pages of other origins: what a browser asks before it lets them ask, and what it needs to let them read."""

import pytest

from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served

PAGE = "https://lab.example.org"
KEY = "k3y"
PREDICT = "/v1/models/digits/predict"
BODY = {"inputs": nets.images(1).tolist()}


@pytest.fixture(scope="module")
def shared(bundles, server):
    """A server with a key that pages of one origin may ask."""
    with Served(Settings(bundles=bundles, api_key=KEY, cors_origins=PAGE), server.state.catalogue) as served:
        yield served.loaded()


def preflight(served, origin, method="POST", headers="authorization, x-api-key, content-type", path=PREDICT):
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return served.ask("OPTIONS", path, headers=asked)


def allowed(answer):
    return answer.headers.get("access-control-allow-origin")


def test_a_browser_asks_without_a_key_and_is_told_what_pages_may_send(shared):
    sent = "authorization, x-api-key, content-type, x-request-timeout-ms, inference-header-content-length"
    answer = preflight(shared, PAGE, headers=sent)

    assert (answer.status_code, allowed(answer)) == (200, PAGE)
    assert set(answer.headers["access-control-allow-methods"].split(", ")) == {"GET", "POST"}
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "asked",
    [{"origin": "https://evil.example.org"}, {"method": "DELETE"}, {"headers": "x-other"}, {"origin": "null"}],
    ids=str,
)
def test_other_origins_methods_and_headers_are_refused(shared, asked):
    answer = preflight(shared, **{"origin": PAGE, **asked})

    assert answer.status_code == 400
    assert (allowed(answer) is None) == ("origin" in asked)


def test_a_page_reads_answers_and_refusals_and_still_needs_the_key(shared):
    answer = shared.post(PREDICT, BODY, headers={"Origin": PAGE, "X-API-Key": KEY})
    refusal = shared.post(PREDICT, BODY, headers={"Origin": PAGE})

    assert [(one.status_code, allowed(one)) for one in (answer, refusal)] == [(200, PAGE), (401, PAGE)]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    run = {f"Mcdrop-{name}" for name in ("Model", "Passes", "Seed", "Sampling", "Masks", "Branches", "Noise")}
    assert set(exposed) == {"Inference-Header-Content-Length", "Retry-After", "X-Request-Id"} | run


def test_another_page_reads_nothing(shared):
    answer = shared.post(PREDICT, BODY, headers={"Origin": "https://evil.example.org", "X-API-Key": KEY})

    assert (answer.status_code, allowed(answer)) == (200, None)
    assert answer.headers["vary"] == "Origin"


def test_an_options_request_of_no_browser_needs_the_key(shared):
    assert shared.ask("OPTIONS", PREDICT).status_code == 401


def test_all_origins_may_ask_where_that_was_written_out(bundles, server):
    with Served(Settings(bundles=bundles, cors_origins="*"), server.state.catalogue) as served:
        served.loaded()
        assert [allowed(preflight(served, origin)) for origin in (PAGE, "http://x", "null")] == ["*"] * 3
        assert allowed(served.get("/v1/models", headers={"Origin": PAGE})) == "*"


def test_no_page_may_ask_unless_it_was_said(server):
    assert preflight(server, PAGE).status_code == 405
    answer = server.get("/v1/models", headers={"Origin": PAGE})
    assert [name for name in answer.headers if name.startswith("access-control")] == []
