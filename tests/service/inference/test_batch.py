"""Queries that are run as one are answered as each alone is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dropout_core.errors import NonFiniteOutput
from mcdrop.inference.batch import batch_key, run_batch
from mcdrop.inference.query import EmbeddingQuery, Query, RequestLimits
from mcdrop.inference.result import Result, run_query
from mcdrop.inference.scheduler import Slice, Ticket
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from tests.support import service_nets as nets

LIMITS = RequestLimits(max_passes=1000, max_samples=10**6, max_length=100)


@pytest.fixture(scope="module")
def rooted(nan_bundles):
    return Predictor.load(Repository(nan_bundles), "rooted", 1)


def query_of(predictor, rows, overrides=None, **more):
    return Query.of(predictor, rows, LIMITS, overrides=overrides, **more)


def whole(query):
    ticket = Ticket(query, batch_key(query), query.num_rows, 1.0, math.inf, lambda part: None, lambda error: None)
    return Slice(ticket, 0, query.num_rows)


def pieces(query, *cuts):
    """A query's slices, cut before some rows."""
    one = whole(query)
    return [Slice(one.ticket, start, stop) for start, stop in zip((0, *cuts), (*cuts, one.stop), strict=True)]


def assert_as_alone(measures, query):
    """Sums of other batch sizes may be rounded otherwise: 1e-5 of the scale is promised."""
    wanted = run_query(query)
    assert list(measures) == list(wanted)
    for name, values in wanted.items():
        assert (measures[name].shape, measures[name].dtype) == (values.shape, values.dtype), name
        scale = np.abs(values).max() if values.size else 0.0
        assert np.abs(measures[name] - values).max(initial=0.0) <= 1e-5 * scale, name


def test_each_query_of_a_batch_has_its_own_rows_and_measures(digits):
    queries = [
        query_of(digits, nets.images(3, seed=1), outputs=["mean"]),
        query_of(digits, nets.images(5, seed=2), outputs=["std", "margin"]),
        query_of(digits, nets.images(0), outputs=["mutual_information"]),
        query_of(digits, nets.images(1, seed=3), outputs=[]),
        query_of(digits, nets.images(2, seed=4)),
    ]
    assert len({batch_key(query) for query in queries}) == 1

    results = run_batch([whole(query) for query in queries])

    for query, result in zip(queries, results, strict=True):
        assert_as_alone(result.measures, query)


def test_quantiles_and_samples_are_cut_apart_by_rows(heights):
    queries = [
        query_of(heights, nets.features(rows, seed=rows), {"passes": 6}, quantiles=[0.1, 0.9], samples=True)
        for rows in (2, 1, 4)
    ]

    for query, result in zip(queries, run_batch([whole(query) for query in queries]), strict=True):
        assert_as_alone(result.measures, query)
        assert result.measures["quantiles"].shape == (query.num_rows, 2, 2)
        assert result.measures["samples"].shape == (query.num_rows, 6, 2)


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_cut_query_among_others_is_answered_as_whole(digits, masks):
    """Independent masks differ by row: they are those of the row's place in its own query."""
    asked = {"passes": 8, "masks": masks}
    long = query_of(digits, nets.images(9, seed=5), asked, samples=True)
    others = [query_of(digits, nets.images(rows, seed=rows), asked, samples=True) for rows in (2, 3)]
    first, second, third = pieces(long, 4, 5)

    parts = [run_batch([first])[0]]
    _, middle = run_batch([whole(others[0]), second])
    parts.append(middle)
    part, neighbour = run_batch([third, whole(others[1])])
    parts.append(part)

    assert_as_alone(Result.join(parts).measures, long)
    assert_as_alone(neighbour.measures, others[1])


def test_independent_masks_differ_by_row_at_all(digits):
    """Or the places of the test above would say nothing."""
    same = nets.images(1).repeat(2, 1, 1)
    (result,) = run_batch([whole(query_of(digits, same, {"passes": 8, "masks": "independent"}, samples=True))])

    assert not np.array_equal(result.measures["samples"][0], result.measures["samples"][1])


def test_rows_stop_early_whoever_they_are_with(digits):
    asked = {"passes": 400, "tolerance": 0.02, "min_passes": 8}
    queries = [query_of(digits, nets.images(rows, seed=rows), asked) for rows in (1, 6, 3)]

    results = run_batch([whole(query) for query in queries])

    used = np.concatenate([result.measures["passes_used"] for result in results])
    assert len(set(used.tolist())) > 1  # some sooner than others
    for query, result in zip(queries, results, strict=True):
        assert_as_alone(result.measures, query)


def test_a_row_without_an_answer_fails_its_own_query_alone_and_by_its_own_number(rooted):
    good, bad = torch.rand(3, 2), torch.rand(5, 2)
    bad[3, 1] = -1.0
    queries = [query_of(rooted, good), query_of(rooted, bad), query_of(rooted, good + 1)]

    first, failed, last = run_batch([whole(query) for query in queries])

    assert isinstance(failed, NonFiniteOutput)
    assert "row 3 with NaN" in str(failed)
    assert_as_alone(first.measures, queries[0])
    assert_as_alone(last.measures, queries[2])
    _, cut = run_batch([whole(queries[0]), pieces(queries[1], 2)[1]])
    assert "row 3 with NaN" in str(cut)


def test_the_monitored_measures_are_in_every_result_of_a_model_that_has_them(digits, heights):
    of_digits, of_heights = (
        run_batch([whole(query_of(predictor, rows, outputs=["mean"]))])[0].monitored
        for predictor, rows in ((digits, nets.images(2)), (heights, nets.features(2)))
    )

    assert list(of_digits) == ["mutual_information", "predictive_entropy", "std"]
    assert list(of_heights) == ["std"]
    everything = run_query(query_of(digits, nets.images(2)))
    for name, values in of_digits.items():
        assert np.array_equal(values, everything[name])


def test_parts_are_joined_by_rows(digits):
    query = query_of(digits, nets.images(4), outputs=["mean", "margin"], samples=True)
    parts = [run_batch([one])[0] for one in pieces(query, 1)]

    result = Result.join(parts)

    assert_as_alone(result.measures, query)
    assert {name: len(values) for name, values in result.monitored.items()} == dict.fromkeys(result.monitored, 4)
    assert result.prefix_s == parts[0].prefix_s + parts[1].prefix_s > 0
    assert Result.join(parts[:1]) is parts[0]


X = nets.images(2)
CONTRARY = {
    "passes": {"overrides": {"passes": 21}},
    "seed": {"overrides": {"seed": 8}},
    "sampling": {"overrides": {"sampling": "iid"}},
    "masks": {"overrides": {"masks": "independent"}},
    "tolerance": {"overrides": {"passes": 20, "tolerance": 0.1}},
    "quantiles": {"quantiles": [0.5]},
    "samples": {"samples": True},
}


@pytest.mark.parametrize("more", CONTRARY.values(), ids=CONTRARY)
def test_what_changes_a_run_keeps_queries_apart(digits, more):
    assert batch_key(query_of(digits, X, **more)) == batch_key(query_of(digits, nets.images(5), **more))
    assert batch_key(query_of(digits, X, **more)) != batch_key(query_of(digits, X))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"overrides": {"tolerance": 0.1}}, {"overrides": {"tolerance": 0.2}}),
        ({"overrides": {"tolerance": 0.1}}, {"overrides": {"tolerance": {"mutual_information": 0.1}}}),
        ({"overrides": {"tolerance": 0.1, "min_passes": 8}}, {"overrides": {"tolerance": 0.1, "min_passes": 16}}),
        ({"quantiles": [0.1, 0.9]}, {"quantiles": [0.9, 0.1]}),
    ],
    ids=["tolerances", "what is tolerated", "least passes", "order of levels"],
)
def test_other_numbers_keep_queries_apart(digits, one, other):
    assert batch_key(query_of(digits, X, **one)) != batch_key(query_of(digits, X, **other))


def test_models_shapes_and_dtypes_keep_queries_apart(digits):
    query = query_of(digits, X)

    assert batch_key(query_of(replace(digits), X)) != batch_key(query)  # loaded once more: it may be another version
    for rows in (X.double(), X.reshape(2, 4, 16)):
        other = replace(query, inputs={"x": rows})
        assert batch_key(other) != batch_key(query)


def test_nothing_else_keeps_queries_apart(digits):
    one = query_of(digits, X, outputs=["mean"])
    same = query_of(digits, nets.images(7, seed=9), {"passes": 20, "seed": 7}, outputs=["std"])

    assert batch_key(one) == batch_key(same)
    assert hash(batch_key(one)) == hash(batch_key(same))


def test_rows_to_be_placed_share_a_batch_and_run_without_noise(digits):
    rows = [{"x": nets.images(count, seed=count)} for count in (3, 5)]
    queries = [EmbeddingQuery(digits, one, len(one["x"])) for one in rows]
    assert batch_key(queries[0]) == batch_key(queries[1]) != batch_key(query_of(digits, nets.images(3)))

    results = run_batch([whole(query) for query in queries])

    layers = nets.seeded(nets.Classifier, 2).layers
    for one, result in zip(rows, results, strict=True):
        wanted = layers[:3](one["x"] / 16).detach().numpy()
        assert np.allclose(result.measures["embeddings"], wanted, rtol=1e-5, atol=1e-6)
        assert result.measures["embeddings"].dtype == np.float32


def test_a_row_that_cannot_be_placed_is_named_as_its_request_does(rooted):
    places = torch.tensor([4, 7, 9])
    rows = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, 2.0]])
    embedding_query = EmbeddingQuery(rooted, {"x": rows}, 3, places)
    query = replace(query_of(rooted, rows), places=places)

    for one in (embedding_query, query):
        (error,) = run_batch([whole(one)])
        assert isinstance(error, NonFiniteOutput)
        assert "row 7" in str(error)
