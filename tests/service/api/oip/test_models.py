"""What the Open Inference Protocol tells of a server and its models, and how it loads and unloads them."""

import shutil

import pytest

from mcdrop.api.oip.statistics import statistics_response
from mcdrop.observability.events import BatchFinished, CallFinished, Phase
from mcdrop.observability.metrics import Metrics
from mcdrop.settings import Settings
from tests.service.api.oip.test_infer import INFER, answer, refused, tensor
from tests.support import service_nets as nets
from tests.support.asgi import Served

REPOSITORY = "/v2/repository"


@pytest.fixture
def own(bundles, tmp_path):
    """A server of bundles that a test may change."""
    root = shutil.copytree(bundles, tmp_path / "bundles")
    with Served(Settings(bundles=root, watch=False)) as served:
        yield served.loaded()


def index(served, body=None):
    found = served.post(f"{REPOSITORY}/index", body)
    assert found.status_code == 200, found.text
    return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in found.json()}


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_says_what_it_speaks(server, path):
    body = server.get(path).json()

    assert body["name"] == "mcdrop"
    assert body["extensions"] == [
        "binary_tensor_data",
        "model_repository",
        "model_configuration",
        "statistics",
        "parameters",
    ]


def test_health_has_a_body(server):
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}


def test_a_server_without_models_is_live_and_not_ready(tmp_path):
    with Served(Settings(bundles=tmp_path, watch=False)) as served:
        served.loaded()
        found = served.get("/v2/health/ready")

        assert (found.status_code, found.json()["ready"]) == (503, False)
        assert "no bundle can be served" in found.json()["error"]
        assert served.get("/v2/health/live").json() == {"live": True}
        assert served.get("/v2/models").json() == {"models": []}


def test_metadata_and_configuration_say_the_same(server):
    metadata, config = (server.get(f"/v2/models/digits{path}").json() for path in ("", "/config"))

    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("digits", ["2", "1"], "mcdrop")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8, 8]}]
    assert config == {
        "name": "digits",
        "platform": "mcdrop",
        "backend": "mcdrop",
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 8, 8]}],
        "output": [
            {"name": out["name"], "data_type": f"TYPE_{out['datatype']}", "dims": out["shape"]}
            for out in metadata["outputs"]
        ],
    }
    assert server.get("/v2/models/digits/versions/1").json()["versions"] == ["1"]
    assert server.get("/v2/models").json() == {"models": ["digits", "heights"]}


def test_models_are_unloaded_and_loaded(own):
    assert index(own) == {
        ("digits", "2"): ("READY", ""),
        ("digits", "1"): ("UNAVAILABLE", "it is not in memory."),
        ("heights", "1"): ("READY", ""),
    }

    assert own.post(f"{REPOSITORY}/models/digits/unload", {"parameters": {"unload_dependents": False}}).content == b""
    assert index(own, {"ready": True}) == {("heights", "1"): ("READY", "")}
    found = own.get("/v2/models/digits/ready")
    assert (found.status_code, found.json()) == (
        503,
        {"name": "digits", "ready": False, "error": "digits/2 is unloaded."},
    )
    assert "was unloaded" in refused(own.post(INFER, {"inputs": [tensor()]}), 503)

    assert own.post(f"{REPOSITORY}/models/digits/load", None).status_code == 200
    assert own.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    assert own.get("/v2/models/digits/versions/1/ready").status_code == 503
    answer(own.post(INFER, {"inputs": [tensor()]}))


def test_a_version_that_is_refused_is_listed_with_its_reason(own):
    (own.state.settings.bundles / "heights" / "1" / "program.json").write_text("{}")
    own.post(f"{REPOSITORY}/models/heights/unload", {})

    said = refused(own.post(f"{REPOSITORY}/models/heights/load", {}), 503)

    state, reason = index(own)["heights", "1"]
    assert state == "UNAVAILABLE"
    assert reason in said
    assert own.get("/v2/models/heights/ready").json() == {"name": "heights", "ready": False, "error": reason}


def test_a_bundle_cannot_be_changed_as_it_is_loaded(server):
    body = {"parameters": {"config": "{}"}}
    said = refused(server.post(f"{REPOSITORY}/models/digits/load", body), 400)

    assert "parameters.config" in said
    assert "unload_dependents" in said
    assert "ready" in refused(server.post(f"{REPOSITORY}/index", {"ready": 1}), 400)


def test_requests_are_counted_by_what_they_took(own):
    before = own.get("/v2/models/digits/stats").json()["model_stats"]
    answer(own.post(INFER, {"inputs": [tensor(nets.images(5))]}))
    answer(own.post(INFER, {"inputs": [tensor(nets.images(7))]}))
    refused(own.post(INFER, {}), 400)

    (stats,) = own.get("/v2/models/digits/stats").json()["model_stats"]

    assert before[0]["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert (stats["name"], stats["version"], stats["inference_count"], stats["execution_count"]) == (
        "digits",
        "2",
        12,
        2,
    )
    counts = {name: duration["count"] for name, duration in stats["inference_stats"].items()}
    assert counts == {
        "success": 2,
        "fail": 1,
        **dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 2),
        **dict.fromkeys(("cache_hit", "cache_miss"), 0),
    }
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in stats["batch_stats"]] == [(8, 2)]
    assert own.get("/v2/models/digits/versions/2/stats").json()["model_stats"] == [stats]
    assert [found["name"] for found in own.get("/v2/models/stats").json()["model_stats"]] == ["digits", "heights"]


def test_times_add_up():
    statistics = Metrics((), {})
    phases = (("decode", 0, 3), ("queue", 3, 10), ("prefix", 10, 30), ("suffix", 30, 100), ("encode", 100, 105))
    statistics.call_finished(CallFinished("m", 1, "infer", "success", 4, 8, tuple(Phase(*phase) for phase in phases)))
    statistics.call_finished(CallFinished("m", 1, "infer", "rejected", 4, 8, (Phase("decode", 0, 11),)))
    statistics.call_finished(CallFinished("m", 2, "infer", "success", 9, 8))
    for rows, failed in ((0, False), (1, False), (2, False), (3, False), (4, False), (9, True)):
        statistics.batch_finished(BatchFinished("m", 1, rows, 8, 1, 0.5, failed))

    counted = statistics_response(("m", 1), statistics.statistics("m", 1))

    spent = {name: duration["ns"] for name, duration in counted.inference_stats.model_dump().items()}
    assert spent == {
        "success": 105,
        "fail": 11,
        "queue": 7,
        "compute_input": 3,
        "compute_infer": 90,
        "compute_output": 5,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    assert (counted.inference_count, counted.execution_count) == (4, 5)
    batches = [(one.batch_size, one.compute_infer.count, one.compute_infer.ns) for one in counted.batch_stats]
    assert batches == [(1, 2, 10**9), (2, 1, 5 * 10**8), (4, 2, 10**9)]
    assert [statistics.statistics(*key).inference_count for key in (("m", 2), ("never", 1))] == [9, 0]


def test_an_answer_that_is_not_finite_is_an_error(nan_bundles):
    with Served(Settings(bundles=nan_bundles, watch=False)) as served:
        rows = -nets.features(1).abs()[:, :2]
        found = served.loaded().post("/v2/models/rooted/infer", {"inputs": [tensor(rows)]})

        assert "row 0 with NaN or infinity" in refused(found, 500)
