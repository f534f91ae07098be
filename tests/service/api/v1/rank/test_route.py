from dataclasses import replace

import numpy as np
import pytest

from dropout_core.engine.options import PassOptions
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served, good, refused
from tests.support.fakes import NoEngine, OneModel

X = nets.images(12, seed=2)
ROWS = X.int().tolist()
F = nets.features(6, seed=2)
EPS = np.finfo(float).eps


def test_the_most_uncertain_rows_come_first(server, digits):
    answer = server.rank("digits", ROWS, k=4)

    estimate = digits.predict(X, PassOptions(20, 7))
    scores = estimate.mutual_information.numpy()
    order = np.argsort(-scores)[:4]
    parts = answer.pop("parts")
    assert answer == {
        "model": "digits",
        "version": 2,
        "passes": 20,
        "seed": 7,
        "sampling": "balanced",
        "masks": "shared",
        "branches": 1,
        "noise": 1,
        "digest": digits.manifest.digest,
        "selector": "top_k",
        "score": "mutual_information",
        "considered": 12,
        "indices": order.tolist(),
        "scores": scores[order].tolist(),
    }
    assert len(set(answer["scores"])) == 4
    assert list(parts) == ["predictive_entropy", "expected_entropy", "mutual_information", "margin"]
    for name, values in parts.items():
        assert np.allclose(values, estimate.measure(name).numpy()[order], rtol=0, atol=4 * EPS)


def test_entropy_ranks_by_predictive_entropy(server, digits):
    answer = server.rank("digits", ROWS, score="entropy", k=12)

    scores = digits.predict(X, PassOptions(20, 7)).predictive_entropy.numpy()
    assert answer["score"] == "predictive_entropy"
    assert answer["scores"] == sorted(scores.tolist(), reverse=True)


def test_a_small_margin_comes_first_in_its_own_sign(server, digits):
    answer = server.rank("digits", ROWS, score="margin", k=12)

    margins = digits.predict(X, PassOptions(20, 7)).margin.numpy()
    # a margin m is held as 1 − m, so that it is rounded as a number near 1 is
    assert np.allclose(answer["scores"], np.sort(margins), rtol=0, atol=4 * EPS)
    assert answer["indices"] == np.argsort(margins).tolist()
    assert "reduction" not in answer


@pytest.mark.parametrize(("name", "rows"), [("digits", ROWS), ("heights", F.tolist())], ids=["classes", "numbers"])
def test_a_score_of_several_outputs_is_their_mean_and_says_so(server, name, rows):
    answer = server.rank(name, rows, score="variance", k=100)

    variance = np.array(server.predict(name, rows)["outputs"]["variance"])
    assert variance.ndim == 2
    assert answer["reduction"] == "mean"
    # the mean of 2 or 3 numbers, summed in another order
    assert np.allclose(answer["scores"], np.sort(variance.mean(1))[::-1], rtol=4 * np.finfo(float).eps, atol=0)


def test_numbers_are_ranked_by_variance_where_no_score_is_named(server):
    assert server.rank("heights", F.tolist()) == server.rank("heights", F.tolist(), score="variance")
    assert server.rank("heights", F.tolist())["score"] == "variance"


def test_equal_rows_are_told_apart_by_the_seed(server):
    first, again, other = (server.rank("digits", [ROWS[0]] * 9, k=9, seed=seed)["indices"] for seed in (1, 1, 2))

    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(9))


def test_ten_rows_are_chosen_where_no_number_is_named(server):
    assert len(server.rank("digits", ROWS)["indices"]) == 10


def test_no_more_rows_than_there_are_can_be_chosen(server):
    assert sorted(server.rank("digits", ROWS, k=1000)["indices"]) == list(range(12))


def test_a_single_row_and_no_rows_can_be_ranked(server):
    assert server.rank("digits", ROWS[0])["indices"] == [0]
    assert server.rank("digits", [])["indices"] == server.rank("digits", [])["scores"] == []


def test_ids_come_back_in_the_order_of_the_rows(server):
    ids = [f"image {n}" if n % 2 else n for n in range(12)]

    answer = server.rank("digits", ROWS, k=5, ids=ids)

    assert answer["ids"] == [ids[index] for index in answer["indices"]]


def test_without_ids_none_come_back(server):
    assert "ids" not in server.rank("digits", ROWS)
    assert "ids" not in server.rank("digits", ROWS, ids=None)


@pytest.mark.parametrize("count", [0, 11, 13])
def test_ids_that_are_not_one_for_each_row_are_refused(server, count):
    answer = server.post("/v1/models/digits/rank", {"inputs": ROWS, "ids": list(range(count))})

    assert refused(answer, 422, "invalid-input") == (
        f"there are {count} ids and 12 rows; send one id for each row, or none."
    )


@pytest.mark.parametrize(("name", "rows"), [("digits", ROWS), ("heights", F.tolist())], ids=["classes", "numbers"])
@pytest.mark.parametrize("score", ["std", "", "variation_ratio", "passes_used"])
def test_an_unknown_score_is_refused_with_those_of_the_task(server, name, rows, score):
    known = good(server.get(f"/v1/models/{name}"))["scores"]
    answer = server.post(f"/v1/models/{name}/rank", {"inputs": rows, "score": score})

    detail = refused(answer, 422, "unknown-measure")
    assert detail.startswith(f"there is no score {score!r} for ")
    assert detail.endswith(f" There are {', '.join(known)}.")


def test_the_scores_of_another_task_are_unknown(server):
    answer = server.post("/v1/models/heights/rank", {"inputs": F.tolist(), "score": "mutual_information"})

    assert "There are variance, epistemic_variance," in refused(answer, 422, "unknown-measure")


@pytest.mark.parametrize("k", [0, -1], ids=["none", "negative"])
def test_no_rows_cannot_be_chosen(server, k):
    answer = server.post("/v1/models/digits/rank", {"inputs": ROWS, "k": k})

    assert refused(answer, 422, "invalid-request").startswith("k: ")


def test_a_random_choice_runs_no_network_and_is_decided_by_the_seed(bundles, digits):
    catalogue = OneModel(replace(digits, engine=NoEngine()))
    catalogue.may_load.set()
    with Served(Settings(bundles=bundles), catalogue) as idle:
        idle.loaded()
        first, again, other = (idle.rank("digits", ROWS, score="random", seed=seed, k=12) for seed in (1, 1, 2))
        not_random = idle.post("/v1/models/digits/rank", {"inputs": ROWS, "score": "margin"})

    assert first == again
    assert first["passes"] == 0
    assert first["parts"] == {}
    assert sorted(first["indices"]) == list(range(12))
    assert first["indices"] != other["indices"]
    refused(not_random, 500, "internal")


def test_passes_and_seed_are_used_and_reported(server, digits):
    answer = server.rank("digits", ROWS, passes=3, seed=5, k=1)

    assert (answer["passes"], answer["seed"]) == (3, 5)
    assert answer["scores"] == [digits.predict(X, PassOptions(3, 5)).mutual_information.max().item()]


def test_a_null_seed_draws_one_that_gives_the_same_ranking_again(server):
    first = server.rank("digits", ROWS, seed=None)

    assert first["seed"] not in (7, server.rank("digits", ROWS, seed=None)["seed"])
    assert server.rank("digits", ROWS, seed=first["seed"])["indices"] == first["indices"]


def test_a_version_can_be_pinned(server):
    answers = [good(server.post(f"/v1/models/digits/versions/{n}/rank", {"inputs": ROWS})) for n in (1, 2)]

    assert [answer["version"] for answer in answers] == [1, 2]
    assert answers[0]["scores"] != answers[1]["scores"]
    assert answers[1] == server.rank("digits", ROWS)
