import asyncio
import shutil

import pytest

from mcdrop.server import app
from mcdrop.settings import Settings
from mcdrop_models.publishing.torch import publish
from tests.service.conftest import LABELS
from tests.support import service_nets as nets
from tests.support.asgi import Served, good, refused

ROWS = nets.images(2).int().tolist()


@pytest.fixture
def root(bundles, tmp_path):
    """The bundles, to be changed."""
    return shutil.copytree(bundles, tmp_path / "bundles")


def tamper(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def listed(served):
    return {(one["name"], one["version"]): one["state"] for one in good(served.get("/v1/models"))["models"]}


def test_every_version_is_listed_newest_first(bundles):
    with Served(Settings(bundles=bundles)) as served:
        answer = good(served.loaded().get("/v1/models"))

    assert answer == {
        "models": [
            {"name": "digits", "version": 2, "state": "ready", "reason": ""},
            {"name": "digits", "version": 1, "state": "unloaded", "reason": ""},
            {"name": "heights", "version": 1, "state": "ready", "reason": ""},
        ]
    }


def test_a_version_that_was_asked_for_is_ready(bundles):
    with Served(Settings(bundles=bundles)) as served:
        served.loaded().get("/v1/models/digits/versions/1")

        assert listed(served)["digits", 1] == "ready"


def test_no_models_are_an_empty_list(tmp_path):
    with Served(Settings(bundles=tmp_path / "nowhere")) as served:
        assert good(served.loaded().get("/v1/models")) == {"models": []}


def test_a_description_has_what_a_caller_needs(server, digits):
    description = good(server.get("/v1/models/digits"))

    assert description == {
        "name": "digits",
        "version": 2,
        "versions": [2, 1],
        "task": "classification",
        "output": "logits",
        "labels": list(LABELS),
        "inputs": [{"name": "x", "shape": [8, 8], "dtype": "float32"}],
        "free": {},
        "result": None,
        "positions": [],
        "measures": [
            "mean",
            "variance",
            "std",
            "predictive_entropy",
            "expected_entropy",
            "mutual_information",
            "least_confidence",
            "margin",
            "vote_variation_ratio",
        ],
        "scores": [
            "mutual_information",
            "predictive_entropy",
            "expected_entropy",
            "least_confidence",
            "margin",
            "vote_variation_ratio",
            "mean_std",
            "variance",
            "epig",
            "random",
        ],
        "passes": 20,
        "seed": 7,
        "sampling": "balanced",
        "masks": "shared",
        "branches": 1,
        "noise": 1,
        "sites": [{"module": "layers.3", "kind": "dropout", "rate": 0.5}],
        "computed_by": "torch",
        "looped": "",
        "metrics": {"accuracy": 0.5},
        "digest": digits.manifest.digest,
        "example": nets.images(4)[0].int().tolist(),
    }


def test_a_regression_is_described_by_its_own_measures(server):
    description = good(server.get("/v1/models/heights"))

    assert description["labels"] is None
    assert description["measures"] == [
        "mean",
        "variance",
        "std",
        "epistemic_variance",
        "aleatoric_variance",
        "gaussian_mutual_information",
    ]
    assert description["scores"] == [
        "variance",
        "epistemic_variance",
        "gaussian_mutual_information",
        "upper_confidence_bound",
        "thompson",
        "random",
    ]


@pytest.mark.parametrize("name", ["digits", "heights"])
def test_the_example_and_every_measure_and_score_of_a_description_can_be_asked_for(server, name):
    description = good(server.get(f"/v1/models/{name}"))

    outputs = server.predict(name, description["example"], outputs=description["measures"])["outputs"]
    assert list(outputs) == description["measures"]
    for score in description["scores"]:
        targets = {"targets": description["example"]} if score == "epig" else {}
        assert server.rank(name, description["example"], score=score, **targets)["score"] == score


def test_a_network_whose_passes_run_one_by_one_says_why(tmp_path):
    rows = nets.features(4)
    publish(nets.seeded(nets.NoisyWeights, 0), rows, name="noisy", task="classification", root=tmp_path)
    with Served(Settings(bundles=tmp_path)) as server:
        description = good(server.loaded().get("/v1/models/noisy"))

        assert description["looped"] == "noise on weights takes one draw for each pass"
        assert description["sites"] == [{"module": "", "kind": "dropout", "rate": 0.5}]
        assert server.predict("noisy", rows.tolist())["passes"] == 32


def test_an_older_version_can_be_described(server):
    old, new = good(server.get("/v1/models/digits/versions/1")), good(server.get("/v1/models/digits/versions/2"))

    assert (old["version"], new) == (1, good(server.get("/v1/models/digits")))
    assert old["digest"] != new["digest"]


def test_an_unknown_model_or_version_is_404(server):
    assert refused(server.get("/v1/models/nope"), 404, "unknown-model").endswith("there are digits, heights.")
    assert refused(server.get("/v1/models/digits/versions/3"), 404, "unknown-model").endswith("it has 2, 1.")
    refused(server.get("/v1/models/digits/versions/x"), 404, "unknown-model")


@pytest.mark.parametrize("file", ["manifest.json", "program.json", "weights.safetensors"])
def test_a_tampered_newest_version_is_listed_with_its_reason_and_the_older_is_served(root, file):
    tamper(root / "digits" / "2" / file)
    with Served(Settings(bundles=root)) as served:
        first = next(one for one in good(served.loaded().get("/v1/models"))["models"])
        answer = served.predict("digits", ROWS)
        pinned = served.post("/v1/models/digits/versions/2/predict", {"inputs": ROWS})

    assert (first["name"], first["version"], first["state"]) == ("digits", 2, "refused")
    assert file in first["reason"]
    assert answer["version"] == 1
    assert first["reason"] in refused(pinned, 503, "invalid-bundle")


def test_a_tampered_version_that_nobody_asked_for_is_listed_with_its_reason_too(root):
    tamper(root / "digits" / "1" / "weights.safetensors")
    with Served(Settings(bundles=root)) as served:
        models = good(served.loaded().get("/v1/models"))["models"]

    old = next(one for one in models if (one["name"], one["version"]) == ("digits", 1))
    assert old["state"] == "refused"
    assert "weights.safetensors of digits/1 does not match its digest" in old["reason"]


def test_a_half_written_version_is_refused(root):
    (root / "digits" / "2" / "weights.safetensors").unlink()
    with Served(Settings(bundles=root)) as served:
        assert listed(served.loaded())["digits", 2] == "refused"
        assert served.predict("digits", ROWS)["version"] == 1


def test_reasons_hold_no_path_of_the_server(root):
    (root / "digits" / "2" / "weights.safetensors").unlink()
    tamper(root / "digits" / "1" / "manifest.json")
    with Served(Settings(bundles=root)) as served:
        told = served.loaded().get("/v1/models").text + served.post("/v1/models/digits/predict", {}).text

    assert told.count("digits/2") >= 2
    assert str(root.parent) not in told


@pytest.fixture
def often(monkeypatch):
    """The folder is looked at a hundred times a second."""
    monkeypatch.setattr(app, "_WATCH_S", 0.01)


def publish_digits(root, seed):
    return publish(nets.seeded(nets.Classifier, seed), nets.images(4), name="digits", task="classification", root=root)


def test_a_version_published_while_the_server_runs_is_served_when_it_is_loaded(root, often):
    with Served(Settings(bundles=root)) as served:
        assert served.loaded().predict("digits", ROWS)["version"] == 2

        assert publish_digits(root, 9).version == 3
        served.until(lambda: served.state.catalogue.find("digits").version == 3)
        answer = served.predict("digits", ROWS)

    assert answer["version"] == 3
    assert "labels" not in answer


def test_a_broken_version_published_while_the_server_runs_is_listed_and_never_served(root, often):
    with Served(Settings(bundles=root)) as served:
        served.loaded()
        broken = shutil.copytree(root / "digits" / "2", root.parent / "3")
        tamper(broken / "weights.safetensors")
        broken.rename(root / "digits" / "3")
        shutil.copytree(root / "heights" / "1", root.parent / "2").rename(root / "heights" / "2")
        served.until(lambda: served.state.catalogue.find("heights").version == 2)  # which comes after digits
        states, answer = listed(served), served.predict("digits", ROWS)

    assert (states["digits", 3], states["digits", 2]) == ("refused", "ready")
    assert answer["version"] == 2


def test_nobody_watches_the_folder_where_it_is_not_wanted(root, often):
    with Served(Settings(bundles=root, watch=False)) as served:
        served.until(lambda: served.state.started and len(asyncio.all_tasks()) == 1)  # the one that asks this


def test_a_name_published_while_the_server_runs_is_served(root):
    with Served(Settings(bundles=root)) as served:
        refused(served.loaded().post("/v1/models/new/predict", {"inputs": ROWS}), 404, "unknown-model")

        publish(nets.seeded(nets.Classifier, 9), nets.images(4), name="new", task="classification", root=root)

        assert served.predict("new", ROWS)["version"] == 1
        assert listed(served)["new", 1] == "ready"
