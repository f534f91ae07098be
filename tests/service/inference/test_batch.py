"""Queries that are run as one are answered as each alone is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dropout_core.engine.options import PassOverrides
from dropout_core.errors import NonFiniteOutput
from mcdrop.inference.batch import Work, batch_key, concatenate, run_batch
from mcdrop.inference.catalogue import LoadedModel
from mcdrop.inference.query import EmbeddingQuery, RequestLimits, make_query, run_query
from mcdrop.inference.scheduler import Slice, Ticket
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from tests.support import service_nets as nets
from tests.support.fakes import CHEAP

LIMITS = RequestLimits(max_passes=1000, max_samples=10**6, max_length=100)


@pytest.fixture(scope="module")
def classifier(digits):
    return LoadedModel(digits, CHEAP)


@pytest.fixture(scope="module")
def regressor(heights):
    return LoadedModel(heights, CHEAP)


@pytest.fixture(scope="module")
def rooted(nan_bundles):
    return LoadedModel(Predictor.load(Repository(nan_bundles), "rooted", 1), CHEAP)


def work_of(model, rows, asked=None, **more):
    return Work(model, make_query(model.predictor, rows, LIMITS, overrides=asked or PassOverrides(), **more))


def whole(work):
    ticket = Ticket(work, batch_key(work), work.query.num_rows, 1.0, math.inf, lambda part: None, lambda error: None)
    return Slice(ticket, 0, work.query.num_rows)


def pieces(work, *cuts):
    """A query's slices, cut before some rows."""
    one = whole(work)
    return [Slice(one.ticket, start, stop) for start, stop in zip((0, *cuts), (*cuts, one.stop), strict=True)]


def assert_as_alone(measures, work):
    """Sums of other batch sizes may be rounded otherwise: 1e-5 of the scale is promised."""
    wanted = run_query(work.model.predictor, work.query)
    assert list(measures) == list(wanted)
    for name, values in wanted.items():
        assert (measures[name].shape, measures[name].dtype) == (values.shape, values.dtype), name
        scale = np.abs(values).max() if values.size else 0.0
        assert np.abs(measures[name] - values).max(initial=0.0) <= 1e-5 * scale, name


def test_each_query_of_a_batch_has_its_own_rows_and_measures(classifier):
    works = [
        work_of(classifier, nets.images(3, seed=1), outputs=["mean"]),
        work_of(classifier, nets.images(5, seed=2), outputs=["std", "margin"]),
        work_of(classifier, nets.images(0), outputs=["mutual_information"]),
        work_of(classifier, nets.images(1, seed=3), outputs=[]),
        work_of(classifier, nets.images(2, seed=4)),
    ]
    assert len({batch_key(work) for work in works}) == 1

    results = run_batch([whole(work) for work in works])

    for work, result in zip(works, results, strict=True):
        assert_as_alone(result.measures, work)


def test_quantiles_and_samples_are_cut_apart_by_rows(regressor):
    works = [
        work_of(regressor, nets.features(rows, seed=rows), PassOverrides(passes=6), quantiles=[0.1, 0.9], samples=True)
        for rows in (2, 1, 4)
    ]

    for work, result in zip(works, run_batch([whole(work) for work in works]), strict=True):
        assert_as_alone(result.measures, work)
        assert result.measures["quantiles"].shape == (work.query.num_rows, 2, 2)
        assert result.measures["samples"].shape == (work.query.num_rows, 6, 2)


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_cut_query_among_others_is_answered_as_whole(classifier, masks):
    """Independent masks differ by row: they are those of the row's place in its own query."""
    asked = PassOverrides(passes=8, masks=masks)
    long = work_of(classifier, nets.images(9, seed=5), asked, samples=True)
    others = [work_of(classifier, nets.images(rows, seed=rows), asked, samples=True) for rows in (2, 3)]
    first, second, third = pieces(long, 4, 5)

    parts = [run_batch([first])[0]]
    _, middle = run_batch([whole(others[0]), second])
    parts.append(middle)
    part, neighbour = run_batch([third, whole(others[1])])
    parts.append(part)

    assert_as_alone(concatenate(parts).measures, long)
    assert_as_alone(neighbour.measures, others[1])


def test_independent_masks_differ_by_row_at_all(classifier):
    """Or the places of the test above would say nothing."""
    same = nets.images(1).repeat(2, 1, 1)
    (result,) = run_batch(
        [whole(work_of(classifier, same, PassOverrides(passes=8, masks="independent"), samples=True))]
    )

    assert not np.array_equal(result.measures["samples"][0], result.measures["samples"][1])


def test_rows_stop_early_whoever_they_are_with(classifier):
    asked = PassOverrides(passes=400, tolerance=0.02, min_passes=8)
    works = [work_of(classifier, nets.images(rows, seed=rows), asked) for rows in (1, 6, 3)]

    results = run_batch([whole(work) for work in works])

    used = np.concatenate([result.measures["passes_used"] for result in results])
    assert len(set(used.tolist())) > 1  # some sooner than others
    for work, result in zip(works, results, strict=True):
        assert_as_alone(result.measures, work)


def test_a_row_without_an_answer_fails_its_own_query_alone_and_by_its_own_number(rooted):
    good, bad = torch.rand(3, 2), torch.rand(5, 2)
    bad[3, 1] = -1.0
    works = [work_of(rooted, good), work_of(rooted, bad), work_of(rooted, good + 1)]

    first, failed, last = run_batch([whole(work) for work in works])

    assert isinstance(failed, NonFiniteOutput)
    assert "row 3 with NaN" in str(failed)
    assert_as_alone(first.measures, works[0])
    assert_as_alone(last.measures, works[2])
    _, cut = run_batch([whole(works[0]), pieces(works[1], 2)[1]])
    assert "row 3 with NaN" in str(cut)


def test_what_is_watched_is_of_every_answer_where_the_model_has_it(classifier, regressor):
    rows = {classifier: nets.images(2), regressor: nets.features(2)}
    watched = {
        model: run_batch([whole(work_of(model, rows[model], outputs=["mean"]))])[0].watched
        for model in (classifier, regressor)
    }

    assert list(watched[classifier]) == ["mutual_information", "predictive_entropy", "std"]
    assert list(watched[regressor]) == ["std"]
    everything = run_query(classifier.predictor, work_of(classifier, rows[classifier]).query)
    for name, values in watched[classifier].items():
        assert np.array_equal(values, everything[name])


def test_parts_are_joined_by_rows(classifier):
    work = work_of(classifier, nets.images(4), outputs=["mean", "margin"], samples=True)
    parts = [run_batch([one])[0] for one in pieces(work, 1)]

    result = concatenate(parts)

    assert_as_alone(result.measures, work)
    assert {name: len(values) for name, values in result.watched.items()} == dict.fromkeys(result.watched, 4)
    assert result.prefix_s == parts[0].prefix_s + parts[1].prefix_s > 0
    assert concatenate(parts[:1]) is parts[0]


X = nets.images(2)
CONTRARY = {
    "passes": {"asked": PassOverrides(passes=21)},
    "seed": {"asked": PassOverrides(seed=8)},
    "sampling": {"asked": PassOverrides(sampling="iid")},
    "masks": {"asked": PassOverrides(masks="independent")},
    "tolerance": {"asked": PassOverrides(passes=20, tolerance=0.1)},
    "quantiles": {"quantiles": [0.5]},
    "samples": {"samples": True},
}


@pytest.mark.parametrize("more", CONTRARY.values(), ids=CONTRARY)
def test_what_changes_a_run_keeps_queries_apart(classifier, more):
    assert batch_key(work_of(classifier, X, **more)) == batch_key(work_of(classifier, nets.images(5), **more))
    assert batch_key(work_of(classifier, X, **more)) != batch_key(work_of(classifier, X))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"asked": PassOverrides(tolerance=0.1)}, {"asked": PassOverrides(tolerance=0.2)}),
        ({"asked": PassOverrides(tolerance=0.1)}, {"asked": PassOverrides(tolerance={"mutual_information": 0.1})}),
        ({"asked": PassOverrides(tolerance=0.1, min_passes=8)}, {"asked": PassOverrides(tolerance=0.1, min_passes=16)}),
        ({"quantiles": [0.1, 0.9]}, {"quantiles": [0.9, 0.1]}),
    ],
    ids=["tolerances", "what is tolerated", "least passes", "order of levels"],
)
def test_other_numbers_keep_queries_apart(classifier, one, other):
    assert batch_key(work_of(classifier, X, **one)) != batch_key(work_of(classifier, X, **other))


def test_models_shapes_and_dtypes_keep_queries_apart(classifier):
    work = work_of(classifier, X)

    assert batch_key(work_of(replace(classifier), X)) != batch_key(work)  # loaded once more: it may be another version
    for rows in (X.double(), X.reshape(2, 4, 16)):
        other = replace(work, query=replace(work.query, inputs={"x": rows}))
        assert batch_key(other) != batch_key(work)


def test_nothing_else_keeps_queries_apart(classifier):
    one = work_of(classifier, X, outputs=["mean"])
    same = work_of(classifier, nets.images(7, seed=9), PassOverrides(passes=20, seed=7), outputs=["std"])

    assert batch_key(one) == batch_key(same)
    assert hash(batch_key(one)) == hash(batch_key(same))


def test_rows_to_be_placed_share_a_batch_and_run_without_noise(classifier):
    rows = [{"x": nets.images(count, seed=count)} for count in (3, 5)]
    works = [Work(classifier, EmbeddingQuery(one, len(one["x"]))) for one in rows]
    assert batch_key(works[0]) == batch_key(works[1]) != batch_key(work_of(classifier, nets.images(3)))

    results = run_batch([whole(work) for work in works])

    layers = nets.seeded(nets.Classifier, 2).layers
    for one, result in zip(rows, results, strict=True):
        wanted = layers[:3](one["x"] / 16).detach().numpy()
        assert np.allclose(result.measures["embeddings"], wanted, rtol=1e-5, atol=1e-6)
        assert result.measures["embeddings"].dtype == np.float32


def test_a_row_that_cannot_be_placed_is_named_as_its_request_does(rooted):
    places = torch.tensor([4, 7, 9])
    rows = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, 2.0]])
    embed = Work(rooted, EmbeddingQuery({"x": rows}, 3, places))
    query = Work(rooted, replace(work_of(rooted, rows).query, places=places))

    for work in (embed, query):
        (error,) = run_batch([whole(work)])
        assert isinstance(error, NonFiniteOutput)
        assert "row 7" in str(error)
