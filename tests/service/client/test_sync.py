import json

import numpy as np
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput, McdropError
from mcdrop.client import Client, Prediction, RankedRows, ServerError, Unreachable
from mcdrop.inference.query import model_measures
from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from tests.service.conftest import LABELS
from tests.support import service_nets as nets
from tests.support.asgi import listening

X = nets.images(6, seed=3)
KEY = "clé s3cret"


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as one:
        yield one


@pytest.fixture(scope="module")
def locked_url(bundles, server):
    app = create_app(Settings(bundles=bundles, api_key=KEY))
    app.state.mcdrop.catalogue = server.state.catalogue
    with listening(app) as address:
        yield address


def stranger(response):
    """A server that answers everything with one response."""

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await response(scope, receive, send)

    return app


async def silent(scope, receive, send):
    """A server that answers nothing and waits until the caller has gone."""
    assert scope["type"] == "http"
    while (await receive())["type"] != "http.disconnect":
        pass


def test_the_byte_order_of_an_array_does_not_matter(client):
    native = client.predict("digits", X.numpy())
    foreign = client.predict("digits", X.numpy().astype(">f4"))

    assert np.array_equal(native.outputs["mean"], foreign.outputs["mean"])


def test_a_prediction_is_the_predictors_own_in_arrays(client, digits):
    answer = client.predict("digits", X.numpy())

    estimate = digits.predict(X, PassOptions(20, 7))
    assert isinstance(answer, Prediction)
    assert (answer.model, answer.version, answer.passes, answer.seed) == ("digits", 2, 20, 7)
    assert (answer.labels, answer.quantiles) == (LABELS, None)
    assert tuple(answer.outputs) == model_measures(digits)
    for name, values in answer.outputs.items():
        assert isinstance(values, np.ndarray)
        assert np.array_equal(values, estimate.measure(name).numpy()), name


def test_everything_a_prediction_may_be_asked_for(client, heights):
    x = nets.features(3, seed=3)

    answer = client.predict(
        "heights", x.numpy(), version=1, passes=4, seed=9, outputs=["std"], quantiles=[0.1, 0.9], samples=True
    )

    estimate = heights.predict(x, PassOptions(4, 9), keep_draws=True)
    assert (answer.version, answer.passes, answer.seed, answer.labels) == (1, 4, 9, None)
    assert answer.quantiles == (0.1, 0.9)
    assert list(answer.outputs) == ["std", "quantiles", "samples"]
    assert np.array_equal(answer.outputs["std"], estimate.std.numpy())
    assert np.array_equal(answer.outputs["quantiles"], estimate.quantiles([0.1, 0.9]).movedim(0, 1).numpy())
    assert np.array_equal(answer.outputs["samples"], estimate.samples.movedim(0, 1).numpy())


@pytest.mark.parametrize(
    "inputs",
    [X.tolist(), X.numpy().astype("uint8"), X.numpy().astype("float16"), np.asfortranarray(X.numpy())],
    ids=["lists", "bytes", "halves", "another order of memory"],
)
def test_rows_of_any_kind_are_the_same_rows(client, inputs):
    wanted = client.predict("digits", X.numpy()).outputs["mean"]

    assert np.array_equal(client.predict("digits", inputs).outputs["mean"], wanted)


def test_a_version_can_be_pinned(client):
    assert [client.predict("digits", X, version=n).version for n in (1, 2)] == [1, 2]
    assert [client.rank("digits", X, version=n).version for n in (1, 2)] == [1, 2]


def test_a_ranking_is_typed_and_best_first(client, digits):
    ids = ["a", "b", 3, "d", 5, "f"]

    answer = client.rank("digits", X, k=4, score="margin", ids=ids, passes=6, seed=2)

    margins = digits.predict(X, PassOptions(6, 2)).margin.numpy()
    order = np.argsort(margins)[:4]
    assert isinstance(answer, RankedRows)
    assert (answer.model, answer.version, answer.score) == ("digits", 2, "margin")
    assert np.array_equal(answer.indices, order)
    assert answer.indices.dtype == np.int64
    assert np.allclose(answer.scores, margins[order], rtol=0, atol=4 * np.finfo(float).eps)  # as 1 − (1 − margin)
    assert answer.parts["margin"].tolist() == answer.scores.tolist()
    assert (answer.selector, answer.considered, answer.run.seed) == ("top_k", 6, 2)
    assert answer.ids == tuple(ids[index] for index in order)


def test_what_is_not_said_of_a_ranking_the_server_decides(client):
    answer = client.rank("digits", X)

    assert (answer.score, answer.ids, len(answer.indices)) == ("mutual_information", None, 6)


def test_models_are_listed_and_described(client):
    assert [(one["name"], one["version"]) for one in client.models()] == [("digits", 2), ("digits", 1), ("heights", 1)]
    assert client.model("digits")["inputs"][0]["shape"] == [8, 8]


@pytest.mark.parametrize(
    ("ask", "status", "code", "detail"),
    [
        (lambda c: c.predict("nope", X), 404, "unknown-model", "there is no model 'nope'; there are digits, heights."),
        (lambda c: c.model("nope"), 404, "unknown-model", "there is no model 'nope'; there are digits, heights."),
        (lambda c: c.predict("digits", X, version=9), 404, "unknown-model", "digits has no version 9; it has 2, 1."),
        (
            lambda c: c.predict("digits", X, passes=0),
            422,
            "invalid-input",
            "passes is 0; this server runs 1 to 1000.",
        ),
        (
            lambda c: c.rank("digits", X, score="variation_ratio"),
            422,
            "unknown-measure",
            "there is no score 'variation_ratio' for classification from logits; it may mean least_confidence, "
            "1 − max E p, or vote_variation_ratio, 1 − the share of the most voted class. There are "
            "mutual_information, predictive_entropy, expected_entropy, least_confidence, margin, vote_variation_ratio, "
            "mean_std, variance, epig, random.",
        ),
    ],
    ids=["unknown model", "description", "unknown version", "no passes", "unknown score"],
)
def test_a_refusal_is_an_error_with_its_status_code_and_detail(client, ask, status, code, detail):
    with pytest.raises(ServerError) as refusal:
        ask(client)

    assert isinstance(refusal.value, McdropError)
    assert (refusal.value.status, refusal.value.code, str(refusal.value)) == (status, code, detail)


def test_a_nan_is_refused_by_row_and_column(client):
    rows = X.numpy().copy()
    rows[4, 2, 3] = np.nan

    with pytest.raises(ServerError, match=r"^row 4, column \[2, 3\] is ") as refusal:
        client.predict("digits", rows)
    assert (refusal.value.status, refusal.value.code) == (422, "invalid-input")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([["a"]], "the rows hold <U1"),
        ([[1j]], "the rows hold complex128"),
        ([[1], [1, 2]], "cannot be read as an array"),
    ],
    ids=["texts", "complex numbers", "rows of two lengths"],
)
def test_what_is_no_array_of_numbers_is_refused_before_it_is_sent(client, inputs, said):
    with pytest.raises(InvalidInput, match=said):
        client.predict("digits", inputs)


def test_the_key_is_sent(locked_url):
    with Client(locked_url, api_key=KEY) as client:
        assert client.predict("digits", X).version == 2


@pytest.mark.parametrize("key", [None, "", "wrong"], ids=["none", "empty", "wrong"])
def test_without_the_key_the_refusal_says_what_to_send(locked_url, key):
    with Client(locked_url, api_key=key) as client, pytest.raises(ServerError, match="X-API-Key") as refusal:
        client.models()
    assert (refusal.value.status, refusal.value.code) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (PlainTextResponse("hello"), "answered 200 OK"),
        (PlainTextResponse("no", 502), "answered 502 Bad Gateway"),
        (JSONResponse({"detail": "x"}, 500), "answered 500 Internal Server Error"),
        (RedirectResponse("http://elsewhere/"), "answered 307 Temporary Redirect"),
    ],
    ids=["a page", "a proxy's error", "another's JSON", "a redirect"],
)
def test_the_answer_of_another_server_is_an_error_that_says_so(response, said):
    asked = pytest.raises(ServerError, match="is this an mcdrop server")
    with listening(stranger(response)) as address, Client(address) as client, asked as refusal:
        client.models()

    assert f"GET {address}/v1/models {said}" in str(refusal.value)
    assert (refusal.value.status, refusal.value.code) == (response.status_code, "http")


def test_where_no_server_is_the_error_says_so():
    with listening(stranger(PlainTextResponse("x"))) as address:
        pass  # nobody listens there any more

    with Client(address) as client, pytest.raises(Unreachable, match=f"no answer from {address}"):
        client.models()


def test_an_answer_is_waited_for_as_long_as_was_said():
    with listening(silent) as address, Client(address, timeout_s=0.1) as client, pytest.raises(Unreachable):
        client.models()


def test_an_address_without_a_protocol_is_an_error_of_ours():
    with Client("127.0.0.1:8000") as client, pytest.raises(Unreachable, match="http://"):
        client.models()


def test_a_closed_client_asks_no_more(url):
    client = Client(url)
    assert client.models()
    client.close()

    with pytest.raises(RuntimeError, match="closed"):
        client.models()


def test_a_word_too_many_is_no_argument(client):
    with pytest.raises(TypeError, match="there is no argument 'pases'; there are branches, "):
        client.predict("digits", X, pases=3)
    with pytest.raises(TypeError, match="there is no argument 'samples'"):
        client.rank("digits", X, samples=True)


@pytest.mark.parametrize(
    "said",
    [
        {"passes": np.int64(4), "seed": np.uint8(3)},
        {"outputs": ("margin", "mean")},
        {"outputs": [], "samples": True},
        {"quantiles": np.array([0.25, 0.75])},
        {"tolerance": {"mean": np.float32(0.5)}, "min_passes": 4},
        {"samples": False, "quantiles": (), "outputs": None},
    ],
    ids=str,
)
def test_everything_can_be_said_in_the_query_of_an_address(client, server, said):
    plain = {name: json.loads(json.dumps(value, default=lambda one: one.tolist())) for name, value in said.items()}
    wanted = server.predict("digits", X.tolist(), **plain)

    answer = client.predict("digits", X, **said)
    assert (answer.passes, answer.seed) == (wanted["passes"], wanted["seed"])
    assert {name: values.tolist() for name, values in answer.outputs.items()} == wanted["outputs"]


def test_no_number_is_no_tolerance_and_not_none(client):
    with pytest.raises(ServerError, match=r"^tolerance") as refusal:
        client.predict("digits", X, tolerance=float("nan"))
    assert refusal.value.status == 422


@pytest.mark.parametrize("ids", [["a"], list(range(7)), []], ids=len)
def test_names_must_be_as_many_as_rows(client, ids):
    with pytest.raises(InvalidInput, match=f"there are {len(ids)} ids and 6 rows; give one id for each row, or none."):
        client.rank("digits", X, ids=ids)


def test_a_name_is_no_part_of_an_address(client):
    with pytest.raises(ServerError, match=r"'digits[?]passes=1' is not a model name") as refusal:
        client.predict("digits?passes=1", X)
    assert refusal.value.status == 404
