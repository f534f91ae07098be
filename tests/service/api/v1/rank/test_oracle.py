"""The oracle over HTTP is the library's own, whatever form it is asked in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dropout_core.acquire import RankOptions, choose, rank, scores_of
from dropout_core.engine.embedding import embeddings
from dropout_core.engine.options import PassOptions
from mcdrop.client import Client
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served, refused
from tests.support.rank_responses import assert_alike

X, SIDE = nets.images(40, seed=2), nets.images(6, seed=9)
ROWS, LEFT = X.int().tolist(), SIDE.int().tolist()
F = nets.features(30, seed=2)
PATH = "/v1/models/digits/rank"
COSTS = (torch.arange(40) % 7 + 1).double()
GROUPS = [n % 3 for n in range(40)]
SIDES = {"targets": SIDE}


NET = nets.seeded(nets.Classifier, 2)
# Rows of two of the classes: of full images it predicts one alone.
SPARSE = 16 * (torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.1).float()


def own(k=8, **asked):
    """The choice of the library, of the very network that was published as digits 2."""
    return rank(NET, X, k=k, **{"passes": 20, "seed": 7} | asked)


def same(answer, found):
    """Whether an answer is a choice, but for the rounding of sums over other chunks."""
    assert answer["indices"] == found.indices.tolist()
    assert (answer.get("score"), answer.get("reduction")) == (found.score, found.reduction)
    assert answer["considered"] == found.considered
    for name, values in (("scores", found.scores), ("shares", found.shares)):
        assert (name in answer) == (values is not None)
        assert values is None or np.allclose(answer[name], values, rtol=1e-5, atol=1e-7)
    assert list(answer["parts"]) == list(found.parts)
    for name, values in found.parts.items():
        assert np.allclose(answer["parts"][name], values, rtol=1e-5, atol=1e-7)


def on_wire(value):
    return value.tolist() if isinstance(value, torch.Tensor) else value


CHOICES = [
    *({"score": score, **(SIDES if score == "epig" else {})} for score in scores_of("logits")),
    *({"score": score, "selector": "power", "beta": 0.5} for score in ("mutual_information", "margin")),
    {"score": "predictive_entropy", "selector": "softmax", "beta": 2.0},
    {"score": "bald", "selector": "softrank"},
    {"selector": "k_centre"},
    {"selector": "k_centre", "labelled": SIDE},
    {"selector": "badge", "candidates": 20},
    {"selector": "batchbald", "candidates": 12},
    {"selector": "batchbald", "num_samples": 400, "k": 10},
    {"selector": "batchbald", "targets": SIDE},
    {"score": "variance", "reduction": "max"},
    {"score": "variance", "reduction": "top_fraction", "fraction": 0.5},
    {"exclude": [0, 5, 7], "selector": "batchbald"},
    {"costs": COSTS, "score": "predictive_entropy"},
    {"costs": COSTS, "selector": "power"},
    {"groups": GROUPS, "quotas": 2, "k": 9},
    {"passes": 32, "seed": 3, "branches": 4, "sampling": "iid", "score": "epig", **SIDES},
]


@pytest.mark.parametrize("asked", CHOICES, ids=lambda one: ", ".join(f"{name}={one[name]!s:.20}" for name in one))
def test_a_choice_is_that_of_the_library(server, asked):
    said = {name: on_wire(value) for name, value in ({"k": 8} | asked).items()}

    answer = server.rank("digits", ROWS, **said)

    same(answer, own(**asked))
    assert ("saturated" in answer) == (asked.get("selector") == "batchbald")


def by_hand(predictor, x, plan, **asked):
    """The choice by a driver that runs a predictor on all the rows of a Need at once."""
    choice = choose(RankOptions(predictor.manifest.output, len(x), seed=plan.seed, **asked))
    arrays = None
    while True:
        try:
            need = choice.send(arrays)
        except StopIteration as ended:
            return ended.value
        rows = x if need.rows is None else x[need.rows]
        estimate = predictor.predict(rows, replace(plan, passes=need.passes or plan.passes))
        arrays = {name: estimate.measure(name) for name in need.measures}
        if need.embeddings:
            arrays["embeddings"] = embeddings(predictor.program.graph, predictor.program.weights, {"input": rows})
        arrays = need.kept(arrays)


@pytest.mark.parametrize(
    "asked",
    [
        *({"score": score} for score in scores_of("mean_and_log_variance")),
        {"selector": "k_centre"},
        {"score": "upper_confidence_bound", "deviations": 0.5, "selector": "softrank"},
    ],
    ids=str,
)
def test_a_choice_among_numbers_is_that_of_the_library(server, heights, asked):
    plan = PassOptions(32, heights.manifest.seed)

    answer = server.rank("heights", F.tolist(), k=5, passes=32, **asked)

    same(answer, by_hand(heights, F, plan, k=5, **asked))


def test_a_round_is_replayed_by_what_its_answer_says(server):
    first = server.rank("digits", ROWS, seed=11, selector="batchbald", k=6, passes=24, sampling="iid")

    said = {name: first[name] for name in ("passes", "seed", "sampling", "masks", "branches", "selector", "score")}
    assert_alike(server.rank("digits", ROWS, k=6, **said), first)


def test_rows_of_their_own_masks_are_the_same_in_every_question_about_them(server):
    """The parts of k_centre's picks are asked for alone, and are those of the whole pool."""
    whole = server.rank("digits", ROWS, k=40, masks="independent")
    some = server.rank("digits", ROWS, k=5, masks="independent", selector="k_centre")

    for index, value in zip(some["indices"], some["parts"]["mutual_information"], strict=True):
        assert value == pytest.approx(whole["scores"][whole["indices"].index(index)], rel=1e-6)


def test_what_is_excluded_by_id_is_never_chosen(server):
    ids = [f"row {n}" if n % 2 else n for n in range(40)]
    whole = server.rank("digits", ROWS, k=40)["indices"]
    out = [ids[index] for index in whole[:5]]

    answer = server.rank("digits", ROWS, k=40, ids=ids, exclude=out)

    assert answer["indices"] == whole[5:]
    assert answer["ids"] == [ids[index] for index in whole[5:]]
    assert answer["considered"] == 35
    assert server.rank("digits", ROWS, k=40, exclude=whole[:5])["indices"] == whole[5:]


def test_a_row_that_the_network_cannot_answer_may_be_excluded(nan_bundles):
    with Served(Settings(bundles=nan_bundles)) as rooted:
        rooted.loaded()
        rows = [[1.0, 2.0], [2.0, 1.0], [-1.0, 1.0], [3.0, 1.0]]
        asked = {"inputs": rows, "k": 4, "exclude": [0]}
        said = refused(rooted.post("/v1/models/rooted/rank", asked), 500, "non-finite-output")
        answer = rooted.rank("rooted", rows, k=4, exclude=[2])
        targets = rooted.post("/v1/models/rooted/rank", {"inputs": rows[:2], "score": "epig", "targets": rows})

    assert said.startswith("rooted answers row 2 ")  # of the pool, not of the rows that may be chosen
    assert sorted(answer["indices"]) == [0, 1, 3]
    assert refused(targets, 500, "non-finite-output").startswith("of the targets: rooted answers row 2 ")


@pytest.mark.parametrize("selector", ["top_k", "batchbald", "k_centre", "badge"])
@pytest.mark.parametrize("quotas", [{"nought": 2, "2": 1}, 2], ids=["by class", "one for all"])
def test_no_more_rows_of_a_predicted_class_are_chosen_than_its_quota(server, selector, quotas):
    rows = SPARSE.tolist()
    answer = server.rank("digits", rows, k=40, selector=selector, groups="predicted_class", quotas=quotas)

    mean = np.array(server.predict("digits", rows, outputs=["mean"])["outputs"]["mean"])
    classes = mean.argmax(1)
    there = np.bincount(classes, minlength=3)
    most = [2, there[1], 1] if isinstance(quotas, dict) else [2, 2, 2]
    chosen = np.bincount(classes[answer["indices"]], minlength=3)
    assert there.min() == 0
    assert (there > 2).sum() == 2
    assert chosen.tolist() == np.minimum(most, there).tolist()


def test_groups_are_compared_as_texts(server):
    named = server.rank("digits", ROWS, k=40, groups=[str(one) for one in GROUPS], quotas={"0": 1, "2": 3})
    numbered = server.rank("digits", ROWS, k=40, groups=GROUPS, quotas={"0": 1, "2": 3})

    assert_alike(named, numbered)
    assert np.bincount(np.array(GROUPS)[named["indices"]]).tolist() == [1, 13, 3]


def test_passes_are_held_of_few_rows_at_once_and_the_choice_is_the_same(place):
    one = place(max_samples=20 * 3 * 6)
    answer = one.served.rank("digits", ROWS, k=8, score="epig", targets=LEFT)
    assert one.gate.rows == [6, *[6] * 6, 4]  # the targets, and the pool
    many = one.served.post(PATH, {"inputs": ROWS, "score": "epig", "targets": ROWS})
    joint = one.served.post(PATH, {"inputs": ROWS, "selector": "batchbald", "k": 4})

    same(answer, own(score="epig", targets=SIDE))
    assert refused(many, 422, "invalid-input").startswith("targets make this server hold 2400 numbers")
    assert refused(joint, 422, "invalid-input").startswith("candidates make this server hold 2400 numbers")


def test_a_choice_is_told_as_one_request_about_all_its_rows(place):
    one = place()
    one.served.rank("digits", ROWS, k=3, selector="batchbald", candidates=5)
    one.served.rank("digits", ROWS, k=3, score="random")

    joint, drawn = one.seen.told
    assert (joint.verb, joint.rows, joint.passes, joint.outcome) == ("rank", 40, 20, "success")
    assert len(joint.measures["mutual_information"]) == 40
    assert (drawn.rows, drawn.passes) == (40, 0)
    assert one.gate.rows == [40, 5]


def test_a_choice_ends_with_its_deadline(place):
    one = place()
    one.gate.shut()

    answer = one.served.post(PATH, {"inputs": ROWS}, headers={"X-Request-Timeout-Ms": "50"})

    refused(answer, 504, "deadline-exceeded")
    assert one.seen.outcomes == ["deadline"]
    assert one.state.batcher.pending_requests == 0


def test_a_choice_that_is_slow_to_make_ends_with_its_deadline(place, monkeypatch):
    one = place()

    def slow(choice, arrays):
        one.gate.open.wait(5)

    monkeypatch.setattr("mcdrop.api.v1.rank.choose.advance", slow)
    one.gate.shut()
    answer = one.served.post(PATH, {"inputs": ROWS}, headers={"X-Request-Timeout-Ms": "50"})
    one.gate.open.set()

    refused(answer, 504, "deadline-exceeded")


def test_the_client_sends_names_as_numbers(url):
    names = [f"img {n}" for n in range(40)]
    with Client(url) as client:
        answer = client.rank(
            "digits", X, k=6, score="predictive_entropy", ids=names, exclude=names[:4], costs=COSTS.numpy(),
            groups=["abc"[n] for n in GROUPS], quotas={"a": 1, "z": 0}, passes=10, seed=4,
        )  # fmt: skip
        joint = client.rank("digits", X, k=4, selector="batchbald", targets=SIDE, seed=7, passes=20)
        apart = client.rank("digits", {"x": X}, k=4, selector="k_centre", labelled={"x": SIDE})

    found = own(6, passes=10, seed=4, score="predictive_entropy", exclude=range(4), costs=COSTS, groups=GROUPS,
                quotas={0: 1})  # fmt: skip
    assert answer.indices.tolist() == found.indices.tolist()
    assert answer.ids == tuple(names[index] for index in answer.indices)
    assert np.allclose(answer.parts["margin"], found.parts["margin"], rtol=1e-5, atol=1e-7)
    assert (answer.run.passes, answer.run.seed, answer.digest[:7]) == (10, 4, "sha256:")
    assert joint.indices.tolist() == own(4, selector="batchbald", targets=SIDE).indices.tolist()
    assert (joint.score, joint.saturated, len(joint.shares)) == ("epig", False, 4)
    assert apart.indices.tolist() == own(4, selector="k_centre", labelled=SIDE).indices.tolist()
    assert (apart.score, apart.scores) == (None, None)
