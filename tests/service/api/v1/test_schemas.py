import json

import pytest

from mcdrop.api.v1.rank.schemas import RankRequest
from mcdrop.api.v1.schemas import PredictRequest, parse_body
from mcdrop.errors import InvalidRequest
from mcdrop_models.bundle.manifest import Manifest

INPUTS = {"inputs": [[1]]}
OF_ALL = "inputs, passes, seed, sampling, masks, branches, tolerance, min_passes"
OF_RANK = (
    "k, score, selector, beta, deviations, candidates, num_samples, reduction, fraction, labelled, targets, ids, "
    "exclude, costs, groups, quotas"
)
OF_PASSES = ("passes", "sampling", "masks", "branches", "tolerance", "min_passes")


def test_inputs_are_all_that_is_needed():
    asked = parse_body(PredictRequest, INPUTS)

    assert (asked.inputs, asked.passes, asked.seed, asked.outputs) == ([[1]], None, None, None)
    assert (asked.quantiles, asked.samples) == ([], False)
    assert [getattr(asked, name) for name in OF_PASSES] == [None] * len(OF_PASSES)


def test_a_field_that_was_left_out_is_told_from_null():
    assert "seed" not in parse_body(PredictRequest, INPUTS).model_fields_set
    assert "seed" in parse_body(PredictRequest, {**INPUTS, "seed": None}).model_fields_set


@pytest.mark.parametrize("body", [None, True, 3, "inputs", [], [INPUTS]], ids=str)
def test_a_body_that_is_no_object_is_refused_with_what_to_send(body):
    with pytest.raises(InvalidRequest, match=r'^the body is not a JSON object; send \{"inputs": \[\.\.\.\]\}\.$'):
        parse_body(PredictRequest, body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pases", 3),
        ("passes", 3.0),
        ("passes", 3.5),
        ("passes", True),
        ("passes", "3"),
        ("passes", float("inf")),
        ("seed", 1.0),
        ("seed", False),
        ("seed", "0"),
        ("outputs", "mean"),
        ("outputs", ["mean", 1]),
        ("outputs", {"mean": True}),
        ("quantiles", 0.5),
        ("quantiles", None),
        ("quantiles", ["0.5"]),
        ("quantiles", [True]),
        ("quantiles", [0.5] * 100),
        ("samples", 1),
        ("samples", "true"),
        ("samples", None),
        ("sampling", "antithetic"),
        ("masks", "tied"),
        ("branches", True),
        ("branches", 2.0),
        ("branches", "2"),
        ("tolerance", "0.01"),
        ("tolerance", True),
        ("tolerance", {"mean": "0.01"}),
        ("tolerance", [0.01]),
        ("min_passes", 32.0),
        ("k", 3),
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_is_named(field, value):
    with pytest.raises(InvalidRequest) as refusal:
        parse_body(PredictRequest, {**INPUTS, field: value})

    assert str(refusal.value).startswith(field)
    assert str(refusal.value).endswith(f". The fields are {OF_ALL}, outputs, quantiles, samples, defer_above.")


def test_inputs_that_are_missing_are_named():
    with pytest.raises(InvalidRequest, match=r"^inputs: Field required\."):
        parse_body(PredictRequest, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("k", 0),
        ("k", -1),
        ("k", 1.0),
        ("k", None),
        ("score", 3),
        ("ids", "abc"),
        ("ids", [1.5]),
        ("ids", [True]),
        ("ids", [None]),
        ("selector", "best"),
        ("beta", "1"),
        ("candidates", 2.5),
        ("reduction", "median"),
        ("exclude", [1.5]),
        ("costs", [True]),
        ("groups", "labels"),
        ("quotas", {"a": 1.5}),
        ("outputs", ["mean"]),
    ],
    ids=str,
)
def test_a_field_of_rank_that_does_not_fit_is_named(field, value):
    with pytest.raises(InvalidRequest) as refusal:
        parse_body(RankRequest, {**INPUTS, field: value})

    assert str(refusal.value).startswith(field)
    assert str(refusal.value).endswith(f"The fields are {OF_ALL}, {OF_RANK}.")


def test_ids_are_texts_or_numbers():
    assert parse_body(RankRequest, {**INPUTS, "ids": ["a", 1]}).ids == ["a", 1]


def test_levels_may_be_whole_numbers_so_that_the_refusal_says_what_is_allowed():
    assert parse_body(PredictRequest, {**INPUTS, "quantiles": [1, 0.5]}).quantiles == [1.0, 0.5]


@pytest.mark.parametrize("kind", [PredictRequest, RankRequest], ids=["predict", "rank"])
def test_an_example_of_the_documentation_fits(kind):
    schema = kind.model_json_schema()

    assert schema["examples"]
    for example in schema["examples"]:
        assert parse_body(kind, json.loads(json.dumps(example))).inputs


def test_the_wire_offers_what_bundles_can_say():
    for field in ("sampling", "masks"):
        assert PredictRequest.model_fields[field].annotation == Manifest.model_fields[field].annotation | None
