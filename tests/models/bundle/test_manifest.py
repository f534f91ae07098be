"""The digest of a manifest covers every field that decides an answer, and no other."""

import hashlib
import json
from typing import get_args

import pytest
from pydantic import ValidationError

from dropout_core.engine.options import PassOptions
from dropout_core.graph.noise_kinds import NOISE_KINDS
from mcdrop_models.bundle.manifest import Manifest, SiteSpec, manifest_digest, seal_manifest, sha256
from tests.support.manifests import sample_fields, sample_manifest

_UNDIGESTED = {"digest", "metrics", "provenance"}
_CHANGES = {
    "schema": 2,
    "name": "other",
    "task": "classification",
    "output": "mean",
    "num_outputs": 3,
    "labels": ["high", "low"],
    "inputs": [{"name": "x", "shape": [5], "dtype": "float32"}],
    "free": {"length": {"least": 1, "most": None}},
    "result": "logits",
    "positions": [8, "length"],
    "output_scaling": {"scale": [2.0, 0.5], "shift": [0.0, -2.0]},
    "sites": [{"name": "drop", "module": "trunk.1", "kind": "dropout", "rate": 0.25}],
    "noise": 2,
    "sampling": "balanced",
    "masks": "independent",
    "branches": 4,
    "passes": 31,
    "seed": 1,
    "program": sha256(b"another program"),
    "weights": sha256(b"other weights"),
    "backend": "onnx",
    "onnx_prefix": sha256(b"another prefix"),
    "onnx_suffix": sha256(b"another suffix"),
}


def _fields():
    return json.loads(sample_manifest().model_dump_json(by_alias=True))


def _resealed(**changes):
    fields = {**_fields(), **changes}
    return json.dumps({**fields, "digest": manifest_digest(fields)})


def _reason(text):
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate_json(text)
    return str(caught.value)


def test_a_manifest_may_name_every_kind_of_site_and_no_other():
    assert set(get_args(SiteSpec.model_fields["kind"].annotation)) == set(NOISE_KINDS)


def test_every_field_is_decisive_or_named_as_not():
    assert set(_CHANGES) == set(_fields()) - _UNDIGESTED


@pytest.mark.parametrize("field", _CHANGES)
def test_digest_changes_with_each_decisive_field(field):
    fields = _fields()
    assert manifest_digest({**fields, field: _CHANGES[field]}) != manifest_digest(fields)


@pytest.mark.parametrize("field", _CHANGES)
def test_a_decisive_field_changed_after_sealing_is_refused(field):
    assert _reason(json.dumps({**_fields(), field: _CHANGES[field]}))


@pytest.mark.parametrize(("field", "value"), [("passes", 31), ("seed", 1), ("labels", ["high", "low"])])
def test_the_reason_for_a_changed_field_is_the_digest(field, value):
    assert "changed after publishing" in _reason(json.dumps({**_fields(), field: value}))


def test_metrics_and_provenance_are_not_under_the_digest():
    plain = sample_manifest()
    other = sample_manifest(metrics={"rmse": 9.0, "nll": 1.0}, provenance={"created": "later"})
    assert other.digest == plain.digest
    assert other.metrics != plain.metrics
    moved = {**_fields(), "metrics": {}, "provenance": {}}
    assert Manifest.model_validate_json(json.dumps(moved)).metrics == {}


def test_digest_is_sha256_of_canonical_json():
    """Pinned, because published bundles have it."""
    wanted = hashlib.sha256(b'{"a":[1.5,null,"\\u00e9"],"b":{"c":1,"d":true}}').hexdigest()
    fields = {"b": {"d": True, "c": 1}, "a": [1.5, None, "é"], "metrics": {"x": 1}, "digest": "old", "provenance": {}}
    assert manifest_digest(fields) == f"sha256:{wanted}"


def test_later_fields_at_their_defaults_do_not_change_the_digest():
    """Bundles published before these fields existed have digests without them."""
    fields = _fields()
    later = {"free": None, "result": None, "positions": None, "branches": 1}
    assert {name: fields[name] for name in later} == later
    older = {name: value for name, value in fields.items() if name not in later}
    assert manifest_digest(older) == fields["digest"]
    assert Manifest.model_validate_json(json.dumps(older)).pass_options == PassOptions(
        sampling="iid", masks="shared", branches=1
    )


def test_json_round_trip_gives_an_equal_manifest():
    manifest = sample_manifest()
    text = manifest.model_dump_json(by_alias=True)
    assert Manifest.model_validate_json(text) == manifest
    assert json.loads(text)["schema"] == 1


def test_sealing_fills_in_the_digest():
    manifest = seal_manifest(sample_fields())
    assert manifest.digest == manifest_digest(json.loads(manifest.model_dump_json(by_alias=True)))
    assert seal_manifest(sample_fields(digest="sha256:" + "0" * 64)).digest == manifest.digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema"),
        ({"schema": None}, "schema"),
        ({"colour": "red"}, "colour"),
        ({"inputs": [{"name": "x", "shape": [4], "dtype": "float32", "scale": 16}]}, "scale"),
        ({"noise": 2}, "noise"),
        ({"sampling": "antithetic"}, "sampling"),
        ({"masks": "tied"}, "masks"),
        ({"branches": 3}, "branches is 3; choose one of 1, 2, 4, 8, 16"),
        ({"task": "ranking"}, "task"),
        ({"output": "embedding"}, "output"),
        ({"output": "logits"}, "a regression model cannot have the output logits"),
        ({"num_outputs": 0}, "num_outputs"),
        ({"labels": ["one"]}, "1 labels and 2 outputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "shape": [4], "dtype": "float32"} for _ in "xy"]}, "two inputs have the same name"),
        ({"inputs": [{"name": f"x{n}", "shape": [4], "dtype": "float32"} for n in range(17)]}, "inputs"),
        (
            {"inputs": [{"name": "x", "shape": ["length"], "dtype": "int64"}]},
            "free dimensions ['length'], but free has []",
        ),
        ({"inputs": [{"name": "x", "shape": ["a b"], "dtype": "int64"}]}, "shape"),
        ({"free": {"length": {"least": 1, "most": None}}}, "free dimensions [], but free has ['length']"),
        ({"free": {"length": {"least": 0, "most": None}}}, "least"),
        ({"free": {}}, "free"),
        ({"positions": []}, "positions"),
        ({"positions": [0]}, "positions"),
        ({"positions": [4] * 7}, "positions"),
        ({"positions": ["<b>"]}, "positions"),
        ({"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}]}, "shape"),
        ({"inputs": [{"name": "x", "shape": [2**31], "dtype": "float32"}]}, "shape"),
        ({"inputs": [{"name": "x", "shape": [1] * 7, "dtype": "float32"}]}, "shape"),
        ({"inputs": [{"name": "x", "shape": [4], "dtype": "complex64"}]}, "dtype"),
        ({"output_scaling": {"scale": [1.0], "shift": [0.0]}}, "one pair for each output"),
        ({"output_scaling": {"scale": [1.0, 1.0], "shift": [0.0]}}, "2 scales and 1 shifts"),
        ({"output_scaling": {"scale": [1.0, 0.0], "shift": [0.0, 0.0]}}, "scales above 0"),
        ({"sites": []}, "sites"),
        ({"sites": [{"name": "d", "module": "", "kind": "dropout", "rate": 0}]}, "rate"),
        ({"sites": [{"name": "d", "module": "", "kind": "dropout", "rate": 1.5}]}, "rate"),
        ({"sites": [{"name": "d", "module": "", "kind": "zoneout", "rate": 0.5}]}, "kind"),
        ({"passes": 0}, "passes"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"program": "md5:" + "0" * 32}, "program"),
        ({"weights": "sha256:" + "0" * 63}, "weights"),
        *[({"name": name}, "name") for name in ("..", "../x", "a/b", "", "A", "x" * 65, ".", "a\n", "é", "-a")],
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_refused_by_name_whatever_its_digest(changes, reason):
    assert reason in _reason(_resealed(**changes))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_refused(constant):
    text = json.dumps(_fields()).replace('"rmse": 1.5', f'"rmse": {constant}')
    assert constant in text
    assert "finite" in _reason(text)


def test_a_right_manifest_resealed_is_accepted():
    """The helper of the tests above makes manifests that are otherwise valid."""
    assert Manifest.model_validate_json(_resealed()) == sample_manifest()
    assert Manifest.model_validate_json(_resealed(passes=31)).passes == 31


@pytest.mark.parametrize("backend", ["onnx", "auto"])
def test_an_onnx_backend_needs_a_suffix(backend):
    assert "the bundle has no suffix.onnx to compute with" in _reason(_resealed(backend=backend))
    assert "the bundle has no suffix.onnx" in _reason(_resealed(onnx_prefix=sha256(b"a prefix alone")))
    Manifest.model_validate_json(_resealed(backend=backend, onnx_suffix=sha256(b"a suffix")))
