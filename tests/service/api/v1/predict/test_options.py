"""What a request may say of its passes: how they draw, and how many are enough. Over HTTP, the client, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.predict import predict
from mcdrop.client import Client
from mcdrop.inference.query import Query, RequestLimits, model_measures
from tests.service.conftest import assert_refused
from tests.support import service_nets as nets
from tests.support.asgi import refused

X = nets.images(5, seed=1)
ROWS = X.int().tolist()
PREDICT = "/v1/models/digits/predict"
LIMITS = RequestLimits(max_passes=200, max_samples=600, max_length=8)
TOLERANCE = 0.02
PRECISION = ("passes_used", "standard_error")


@pytest.fixture(scope="module")
def live():
    """The network of digits 2, asked directly for the same precision."""
    return predict(nets.seeded(nets.Classifier, 2), X, passes=200, seed=7, tolerance=TOLERANCE, min_passes=16)


def test_a_bundles_scheme_is_used_where_a_request_says_nothing(digits):
    manifest = digits.manifest.model_copy(update={"sampling": "iid", "masks": "independent", "branches": 4})
    other = replace(digits, manifest=manifest)
    assert Query.of(other, X, LIMITS).options == PassOptions(20, 7, "iid", "independent", 4)
    asked = PassOverrides(sampling="balanced", branches=2)
    assert Query.of(other, X, LIMITS, overrides=asked).options == PassOptions(20, 7, "balanced", "independent", 2)
    assert Query.of(digits, X, LIMITS).options == PassOptions(20, 7)


@pytest.mark.parametrize(
    "said",
    [{"sampling": "iid"}, {"masks": "independent"}, {"sampling": "iid", "masks": "independent", "branches": 4}],
    ids=str,
)
def test_a_scheme_that_is_said_is_used_and_reported(server, url, digits, said):
    answer = server.predict("digits", ROWS, **said)
    told = {name: answer[name] for name in ("sampling", "masks", "branches")}
    assert told == {"sampling": "balanced", "masks": "shared", "branches": 1, **said}
    wanted = digits.predict(X, PassOptions(20, 7, **told)).mean.numpy()
    assert np.array_equal(answer["outputs"]["mean"], wanted)
    assert not np.array_equal(server.predict("digits", ROWS)["outputs"]["mean"], wanted)
    with Client(url) as client:
        assert np.array_equal(client.predict("digits", X, **said).outputs["mean"], wanted)


def test_rows_stop_when_their_error_is_small_enough(server, digits, live):
    answer = server.predict("digits", ROWS, tolerance=TOLERANCE, passes=200, min_passes=16)
    used = np.array(answer["outputs"]["passes_used"])
    assert answer["passes"] == 200
    assert len(set(used.tolist())) > 1  # else it could have stopped them all at once
    assert set(used.tolist()) <= {*range(16, 200, 16), 200}
    assert (np.array(answer["outputs"]["standard_error"])[used < 200] <= TOLERANCE).all()
    assert tuple(answer["outputs"]) == (*model_measures(digits), *PRECISION)
    for name, values in answer["outputs"].items():
        np.testing.assert_allclose(values, live.measure(name).numpy(), rtol=0, atol=1e-5, err_msg=name)


def test_the_client_and_the_command_ask_for_the_same(mcdrop, url, bundles, tmp_path, server):
    wanted = server.predict("digits", ROWS, tolerance=TOLERANCE, passes=200, min_passes=16)["outputs"]
    with Client(url) as client:
        answer = client.predict("digits", X, tolerance=TOLERANCE, passes=200, min_passes=16)
        by_name = client.predict("digits", X, tolerance={"mean": TOLERANCE}, passes=200, min_passes=16)
    for outputs in (answer.outputs, by_name.outputs):
        assert {name: values.tolist() for name, values in outputs.items()} == wanted
    np.save(tmp_path / "rows.npy", X.numpy())
    args = ["--tolerance", TOLERANCE, "--passes", 200, "--min-passes", 16, "--json"]
    for where in (["--bundles", bundles], ["--url", url]):
        code, out, _ = mcdrop("predict", "digits", tmp_path / "rows.npy", *args, *where)
        assert (code, json.loads(out)["outputs"]) == (0, wanted)
    _, table, _ = mcdrop("predict", "digits", tmp_path / "rows.npy", *args[:-1], "--bundles", bundles)
    assert f" {wanted['passes_used'][0]} " in table  # passes are whole


def test_mutual_information_may_be_what_has_to_be_known(server):
    tolerance = {"mean": 0.05, "mutual_information": 0.02}
    wanted = ["passes_used", "standard_error", "mutual_information_standard_error"]
    outputs = server.predict("digits", ROWS, tolerance=tolerance, outputs=wanted)["outputs"]
    used = np.array(outputs["passes_used"])
    assert used.min() < 1000
    assert (np.array(outputs["standard_error"])[used < 1000] <= 0.05).all()
    assert (np.array(outputs["mutual_information_standard_error"])[used < 1000] <= 0.02).all()
    assert (used >= server.predict("digits", ROWS, tolerance=0.05)["outputs"]["passes_used"]).all()


def test_no_rows_need_no_passes(server):
    outputs = server.predict("digits", [], tolerance={"mean": 0.05, "mutual_information": 0.02})["outputs"]
    assert outputs
    assert all(values == [] for values in outputs.values())


def test_errors_may_be_asked_for_without_a_tolerance(server, digits):
    outputs = server.predict("digits", ROWS, outputs=["standard_error", "passes_used"])["outputs"]
    assert outputs["passes_used"] == [20] * 5
    wanted = digits.predict(X, replace(digits.manifest.pass_options, passes=20, seed=7)).standard_error
    assert np.array_equal(outputs["standard_error"], wanted.numpy())


def test_where_no_most_is_said_the_server_has_one(digits):
    assert Query.of(digits, X, LIMITS, overrides=PassOverrides(tolerance=0.1)).options.passes == 200
    many = replace(LIMITS, max_passes=5000)
    assert Query.of(digits, X, many, overrides=PassOverrides(tolerance=0.1)).options.passes == 1024


REFUSED = {
    "no tolerance at all": ({"tolerance": 0}, "invalid-input", "must be finite and above 0"),
    "a tolerance of nothing": ({"tolerance": {}}, "invalid-input", "there is a tolerance for nothing"),
    "of the variance": ({"tolerance": {"variance": 1}}, "invalid-input", "for variance; there can be one for mean, "),
    "with samples": ({"tolerance": 0.1, "samples": True}, "invalid-input", "cannot be combined with a tolerance"),
    "with quantiles": ({"tolerance": 0.1, "quantiles": [0.5]}, "invalid-input", "cannot be combined with a tolerance"),
    "a least without a tolerance": ({"min_passes": 16}, "invalid-input", "min_passes belongs to a tolerance"),
    "a least above the most": (
        {"tolerance": 0.1, "passes": 20, "min_passes": 21}, "invalid-input", "min_passes is 21 and passes 20",
    ),
    "three branches": ({"branches": 3}, "invalid-input", "branches is 3; choose 1, 2, 4, 8, 16"),
    "another sampling": ({"sampling": "antithetic"}, "invalid-request", "sampling"),
    "the error of one pass": (
        {"outputs": ["standard_error"], "passes": 1}, "invalid-input", "one pass has no standard error",
    ),
    "the error of a few passes": (
        {"outputs": ["mutual_information_standard_error"], "passes": 31}, "invalid-input", "has a standard error from",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "code", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_422(server, said, code, detail):
    assert detail in refused(server.post(PREDICT, {"inputs": ROWS, **said}), 422, code)


@pytest.mark.parametrize(
    "said",
    [{"tolerance": {"mutual_information": 0.1}}, {"outputs": ["mutual_information_standard_error"]}],
    ids=["as tolerance", "as output"],
)
def test_numbers_have_no_mutual_information_to_know(server, said):
    answer = server.post("/v1/models/heights/predict", {"inputs": nets.features(2).tolist(), **said})
    assert "heights has no measure 'mutual_information" in refused(answer, 422, "unknown-measure")


def test_the_command_refuses_in_one_line(mcdrop, bundles, tmp_path):
    np.save(tmp_path / "rows.npy", X.numpy())
    ended = mcdrop("predict", "digits", tmp_path / "rows.npy", "--min-passes", 16, "--bundles", bundles)
    assert_refused(ended, "min_passes belongs to a tolerance")


@pytest.mark.parametrize("command", [["predict", "digits", "rows.npy"], ["rank", "digits", "rows.npy"]], ids=" ".join)
def test_a_device_that_is_not_there_is_refused(mcdrop, here, bundles, monkeypatch, command):
    """Named by a flag or by its variable; the flag is stronger."""
    command = [*command, "--bundles", bundles]
    assert_refused(mcdrop(*command, "--device", "cuda:99"), "the device is cuda:99")
    monkeypatch.setenv("MCDROP_DEVICE", "cuda:99")
    assert_refused(mcdrop(*command), "the device is cuda:99")
    assert mcdrop(*command, "--device", "cpu")[0] == 0


def test_a_device_of_no_kind_is_refused(mcdrop, here, bundles):
    said = "device: .*should match pattern"
    assert_refused(mcdrop("predict", "digits", "rows.npy", "--device", "tpu", "--bundles", bundles), said, code=2)
