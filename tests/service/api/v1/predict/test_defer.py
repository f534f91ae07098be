"""Which rows are for a human."""

import io

import numpy as np
import pytest

from dropout_core.engine.options import PassOverrides
from mcdrop.client import Client
from mcdrop.http.media_types import NDJSON, NPZ
from mcdrop.inference.query import Query, RequestLimits
from mcdrop.inference.result import run_query
from tests.support import service_nets as nets
from tests.support.asgi import good, refused, strict

X = nets.images(9, seed=5)
ROWS, F = X.int().tolist(), nets.features(7, seed=5)
PATH = "/v1/models/digits/predict"


def middle(values):
    """A threshold between two values, so that some are above and some are not."""
    ordered = np.sort(np.asarray(values))
    return float((ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2)


@pytest.fixture(scope="module")
def measured(server):
    return {name: np.array(values) for name, values in server.predict("digits", ROWS)["outputs"].items()}


@pytest.fixture(scope="module")
def above(measured):
    """Thresholds of two measures, each with rows of its own above."""
    return {name: middle(measured[name]) for name in ("mutual_information", "least_confidence")}


def test_a_row_is_deferred_where_any_measure_is_above_its_threshold(server, measured, above):
    answer = server.predict("digits", ROWS, outputs=["mean"], defer_above=above)

    marks = [measured[name] > threshold for name, threshold in above.items()]
    assert answer["defer"] == (marks[0] | marks[1]).tolist()
    assert (marks[0] != marks[1]).any()
    assert answer["defer_above"] == above
    assert list(answer["outputs"]) == ["mean"]


def test_a_threshold_itself_is_not_above(server, measured):
    value = float(measured["mutual_information"][3])

    assert server.predict("digits", ROWS, defer_above={"mutual_information": value})["defer"][3] is False


def test_any_number_of_a_measure_with_several_may_be_above(server):
    variance = np.array(server.predict("heights", F.tolist())["outputs"]["variance"])
    threshold = middle(variance.max(1))

    answer = server.predict("heights", F.tolist(), defer_above={"variance": threshold})

    assert variance.shape == (7, 2)
    assert answer["defer"] == (variance.max(1) > threshold).tolist()
    assert answer["defer"] != (variance.mean(1) > threshold).tolist()


def test_entropy_is_another_name_that_the_answer_spells_out(server):
    assert server.predict("digits", ROWS, defer_above={"entropy": 0.5})["defer_above"] == {"predictive_entropy": 0.5}


def test_every_form_defers_the_same_rows(server, above):
    said = {"inputs": ROWS, "outputs": ["mean"], "defer_above": above}
    wanted = good(server.post(PATH, said))["defer"]

    with np.load(io.BytesIO(server.post(PATH, said, headers={"Accept": NPZ}).content)) as archive:
        assert archive["defer"].tolist() == wanted
        assert dict(zip(archive["defer_measures"].tolist(), archive["defer_thresholds"].tolist(), strict=True)) == above
    lines = [strict(line) for line in server.post(PATH, said, headers={"Accept": NDJSON}).content.splitlines()]
    assert [line["defer"] for line in lines] == wanted
    assert set(lines[0]) == {"row", "mean", "defer"}


def test_no_threshold_is_no_mark(server):
    for nothing in (None, {}):
        assert not {"defer", "defer_above"} & set(server.predict("digits", ROWS, defer_above=nothing))


def test_no_rows_are_deferred_where_there_are_none(server, above):
    assert server.predict("digits", [], defer_above=above)["defer"] == []


@pytest.mark.parametrize(
    ("above", "code", "said"),
    [
        ({"uncertainty": 0.1}, "unknown-measure", "digits has no measure 'uncertainty'"),
        ({"epistemic_variance": 0.1}, "unknown-measure", "digits has no measure 'epistemic_variance'"),
        ({"standard_error": 1e999}, "invalid-input", "the defer_above of standard_error is inf"),
        ({"margin": 0.1}, "invalid-input", "a small margin means high uncertainty"),
        ({"entropy": 0.1, "predictive_entropy": 0.2}, "invalid-input", "names predictive_entropy twice"),
        ({"variance": "0.1"}, "invalid-request", "defer_above.variance: "),
    ],
    ids=str,
)
def test_a_threshold_that_means_nothing_is_refused(server, above, code, said):
    assert said in refused(server.post(PATH, {"inputs": ROWS, "defer_above": above}), 422, code)


def test_the_client_tells_which_rows_are_for_a_human(url, server, above):
    wanted = server.predict("digits", ROWS, defer_above=above)["defer"]
    with Client(url) as client:
        answer = client.predict("digits", X, outputs=["mean"], defer_above=above)
        rows = list(client.stream("digits", X, outputs=["mean"], defer_above=above))
        plain = client.predict("digits", X)

    assert answer.defer.tolist() == [row.defer for row in rows] == wanted
    assert answer.defer_above == answer.run.defer_above == above
    assert list(answer.outputs) == list(rows[0].outputs) == ["mean"]
    assert (plain.defer, plain.defer_above) == (None, {})


def test_a_query_in_the_same_process_defers_as_well(digits, server, above):
    query = Query.of(
        digits, X, RequestLimits(100, 10**6, 100), overrides=PassOverrides(), outputs=["mean"], defer_above=above
    )

    answer = run_query(query)

    assert answer["defer"].tolist() == server.predict("digits", ROWS, defer_above=above)["defer"]
