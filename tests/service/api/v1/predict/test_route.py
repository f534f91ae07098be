import numpy as np
import pytest

from dropout_core.engine.options import PassOptions
from mcdrop.inference.query import model_measures
from tests.service.conftest import LABELS
from tests.support import service_nets as nets
from tests.support.asgi import good

X = nets.images(5, seed=1)
ROWS = X.int().tolist()
F = nets.features(3, seed=1)
ONE_FOR_EACH_ROW = (
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "least_confidence",
    "margin",
    "vote_variation_ratio",
)


def assert_is(outputs, estimate, names):
    """The arrays of an answer are those of an estimate, to the last digit."""
    assert list(outputs) == list(names)
    for name in names:
        assert np.array_equal(outputs[name], estimate.measure(name).numpy()), name


def test_the_answer_says_what_was_run_and_is_the_predictors_own(server, digits):
    answer = server.predict("digits", ROWS)

    outputs = answer.pop("outputs")
    assert answer == {
        "model": "digits",
        "version": 2,
        "passes": 20,
        "seed": 7,
        "sampling": "balanced",
        "masks": "shared",
        "branches": 1,
        "noise": 1,
        "labels": list(LABELS),
    }
    assert_is(outputs, digits.predict(X, PassOptions(20, 7)), model_measures(digits))


def test_rows_come_first(server):
    outputs = server.predict("digits", ROWS)["outputs"]

    for name, values in outputs.items():
        assert np.shape(values) == ((5,) if name in ONE_FOR_EACH_ROW else (5, 3)), name


def test_a_regression_answers_in_the_callers_unit_and_has_no_labels(server, heights):
    answer = server.predict("heights", F.tolist())

    assert "labels" not in answer
    assert_is(answer["outputs"], heights.predict(F, PassOptions(32, 0)), model_measures(heights))
    assert np.shape(answer["outputs"]["mean"]) == (3, 2)
    # scaled by (10, 2) and shifted by (100, -5): the network itself answers numbers of about 1
    assert np.abs(np.array(answer["outputs"]["mean"]) - (100, -5)).max() < 30


def test_passes_and_seed_are_used_and_reported(server, digits):
    answer = server.predict("digits", ROWS, passes=3, seed=2**63 - 1)

    assert (answer["passes"], answer["seed"]) == (3, 2**63 - 1)
    assert_is(answer["outputs"], digits.predict(X, PassOptions(3, 2**63 - 1)), model_measures(digits))


def test_one_pass_has_no_variance(server):
    assert not np.any(server.predict("digits", ROWS, passes=1)["outputs"]["variance"])


@pytest.mark.parametrize("null", [{}, {"passes": None}, {"outputs": None}], ids=["absent", "passes", "outputs"])
def test_null_is_what_the_bundle_says(server, null):
    assert server.predict("digits", ROWS, **null) == server.predict("digits", ROWS, passes=20, seed=7)


def test_a_null_seed_draws_one_and_reports_it_so_that_the_answer_can_be_had_again(server):
    first, second = (server.predict("digits", ROWS, seed=None) for _ in range(2))

    assert len({first["seed"], second["seed"], 7}) == 3
    assert first["outputs"] != second["outputs"]
    assert server.predict("digits", ROWS, seed=first["seed"]) == first


def test_only_the_outputs_wanted_are_answered_in_their_order(server, digits):
    answer = server.predict("digits", ROWS, outputs=["margin", "mean"])

    assert_is(answer["outputs"], digits.predict(X, PassOptions(20, 7)), ["margin", "mean"])


def test_entropy_is_answered_under_its_full_name(server, digits):
    answer = server.predict("digits", ROWS, outputs=["entropy"])

    assert_is(answer["outputs"], digits.predict(X, PassOptions(20, 7)), ["predictive_entropy"])


def test_quantiles_are_rows_levels_columns_with_their_levels(server, heights):
    answer = server.predict("heights", F.tolist(), quantiles=[0.05, 0.5, 0.95], outputs=["mean"])

    wanted = heights.predict(F, PassOptions(32, 0), keep_draws=True).quantiles([0.05, 0.5, 0.95])
    assert answer["quantiles"] == [0.05, 0.5, 0.95]
    assert list(answer["outputs"]) == ["mean", "quantiles"]
    assert np.array_equal(answer["outputs"]["quantiles"], wanted.movedim(0, 1).numpy())
    assert (np.diff(answer["outputs"]["quantiles"], axis=1) > 0).all()


def test_without_levels_none_are_reported(server):
    answer = server.predict("heights", F.tolist(), quantiles=[])

    assert "quantiles" not in answer
    assert "quantiles" not in answer["outputs"]


def test_samples_are_rows_passes_columns_and_their_moments_are_the_answer(server, digits):
    answer = server.predict("digits", ROWS, passes=6, samples=True)

    samples = np.array(answer["outputs"]["samples"])
    assert samples.shape == (5, 6, 3)
    assert np.array_equal(samples, digits.predict(X, PassOptions(6, 7), keep_draws=True).samples.movedim(0, 1).numpy())
    # sums of 6 numbers of 0 … 1 in another order
    assert np.abs(samples.mean(1) - answer["outputs"]["mean"]).max() < 6 * np.finfo(float).eps
    assert np.abs(samples.var(1) - answer["outputs"]["variance"]).max() < 6 * np.finfo(float).eps


def test_without_asking_no_samples_are_answered(server):
    assert "samples" not in server.predict("digits", ROWS)["outputs"]


def test_a_single_row_may_stand_without_the_outer_list(server):
    assert server.predict("digits", ROWS[0]) == server.predict("digits", ROWS[:1])


@pytest.mark.parametrize("name", ["digits", "heights"])
def test_no_rows_are_answered_with_no_rows(server, name):
    answer = server.predict(name, [], quantiles=[0.5], samples=True)

    assert answer["outputs"]
    assert all(values == [] for values in answer["outputs"].values())


def test_whole_numbers_and_floats_are_the_same_rows(server):
    assert server.predict("digits", ROWS) == server.predict("digits", X.tolist())


def test_a_version_can_be_pinned(server):
    newest = good(server.post("/v1/models/digits/predict", {"inputs": ROWS}))
    pinned = [good(server.post(f"/v1/models/digits/versions/{n}/predict", {"inputs": ROWS})) for n in (1, 2)]

    assert [one["version"] for one in pinned] == [1, 2]
    assert pinned[1] == newest
    assert pinned[0]["outputs"] != newest["outputs"]


@pytest.mark.parametrize(("name", "rows"), [("digits", ROWS), ("heights", F.tolist())], ids=["digits", "heights"])
def test_a_rows_answer_does_not_depend_on_its_batchmates(server, name, rows):
    together = server.predict(name, rows, quantiles=[0.25], samples=True)["outputs"]
    reversed_ = server.predict(name, rows[::-1], quantiles=[0.25], samples=True)["outputs"]
    alone = [server.predict(name, [row], quantiles=[0.25], samples=True)["outputs"] for row in rows]

    for measure, values in together.items():
        # float32 sums may be taken in another order: 1e-5 of the output's scale is promised
        tolerance = 1e-5 * np.abs(values).max()
        assert np.abs(np.array(values) - reversed_[measure][::-1]).max() <= tolerance
        assert np.abs(np.array(values) - [one[measure][0] for one in alone]).max() <= tolerance


def test_fewer_passes_are_the_first_of_more(server):
    few, many = (server.predict("digits", ROWS, passes=n, samples=True)["outputs"]["samples"] for n in (8, 20))

    # float32 sums may be taken in another order: 1e-5 of the probabilities' scale is promised
    assert np.abs(np.array(few) - np.array(many)[:, :8]).max() <= 1e-5


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}],
    ids=["none", "text", "as curl says"],
)
def test_a_body_that_says_nothing_of_itself_is_json(server, headers):
    answer = good(server.post("/v1/models/digits/predict", {"inputs": ROWS}, headers=headers))

    assert answer == server.predict("digits", ROWS)


def test_a_large_body_is_answered_like_a_small_one(server):
    many = server.predict("digits", X.repeat(400, 1, 1).tolist(), outputs=["mean"])["outputs"]["mean"]
    few = server.predict("digits", ROWS, outputs=["mean"])["outputs"]["mean"]

    assert np.shape(many) == (2000, 3)
    assert np.abs(np.array(many).reshape(400, 5, 3) - few).max() <= 1e-5
