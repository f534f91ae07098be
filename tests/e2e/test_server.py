import json
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch

from dropout_core.engine.options import PassOptions
from mcdrop.client import Client, ServerError
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support import service_nets as nets
from tests.support.processes import PATIENCE_S, serving

X = nets.images(4, seed=5)
KEY = "k3y"


def publish_digits(root, kind=nets.Classifier, seed=0, name="digits"):
    labels = ["nought", "one", "two"]
    return publish(nets.seeded(kind, seed), nets.images(4), name=name, task="classification", labels=labels, root=root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    publish_digits(root)
    publish(
        nets.seeded(nets.Regressor, 1),
        nets.features(4),
        name="heights",
        task="regression",
        output="mean_and_log_variance",
        output_scaling=((2.0, 2.0), (0.0, 1.0)),
        root=root,
    )
    return root


@pytest.fixture(scope="module")
def server(root):
    with serving(root) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as one:
        yield one


def agree(values, wanted):
    """Another process may round sums otherwise: 1e-5 of the output's scale is promised."""
    values, wanted = np.asarray(values), np.asarray(wanted)
    return values.shape == wanted.shape and np.abs(values - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_server_predicts_what_the_bundle_predicts(server, root):
    answer = httpx.post(f"{server.url}/v1/models/digits/predict", json={"inputs": X.tolist(), "passes": 8, "seed": 3})

    estimate = Predictor.load(Repository(root), "digits", 1).predict(X, PassOptions(8, 3))
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert (body["version"], body["passes"], body["seed"], body["labels"]) == (1, 8, 3, ["nought", "one", "two"])
    assert set(body["outputs"]) == set(estimate.measures)
    for name, values in body["outputs"].items():
        assert agree(values, estimate.measure(name)), name


def test_the_client_ranks_what_the_bundle_ranks(client, root):
    answer = client.rank("digits", X.numpy(), k=2, ids=["a", "b", "c", "d"])

    scores = Predictor.load(Repository(root), "digits", 1).predict(X, PassOptions(32, 0)).mutual_information
    best = scores.argsort(descending=True)[:2].tolist()
    assert answer.indices.tolist() == best
    assert answer.ids == tuple("abcd"[index] for index in best)
    assert agree(answer.scores, scores[best])


def test_quantiles_and_samples_come_over_the_wire(client):
    answer = client.predict("heights", nets.features(3), passes=5, quantiles=[0.1, 0.9], samples=True)

    assert answer.outputs["quantiles"].shape == (3, 2, 2)
    assert answer.outputs["samples"].shape == (3, 5, 2)


def test_models_and_health(client, server):
    assert {(one["name"], one["version"], one["state"]) for one in client.models()} >= {
        ("digits", 1, "ready"),
        ("heights", 1, "ready"),
    }
    assert client.model("heights")["task"] == "regression"
    assert httpx.get(f"{server.url}/healthz/live").json() == {"live": True}
    assert httpx.get(f"{server.url}/docs").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/models/digits/predict", b"{", 400),
        ("POST", "/v1/models/digits/predict", b'{"inputs": [[1, NaN]]}', 422),
        ("POST", "/v1/models/digits/predict", b'{"inputs": [], "outputs": ["x"]}', 422),
        ("POST", "/v1/models/nope/predict", b"{}", 404),
        ("POST", "/v1/models/..%2f..%2fetc/predict", b"{}", 404),
        ("GET", "/v1/models/digits/predict", b"", 405),
        ("POST", "/v1/models/digits/predict", b" " * (32 * 2**20 + 1), 413),
    ],
    ids=["no JSON", "wrong shape", "unknown measure", "unknown model", "a path out", "wrong method", "too large"],
)
def test_a_bad_request_is_a_problem(server, method, path, content, status):
    answer = httpx.request(method, server.url + path, content=content, timeout=PATIENCE_S)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status


def test_a_body_in_chunks_is_read_and_bounded(server):
    def chunks(size, count):
        yield from [b" " * size] * count
        yield json.dumps({"inputs": X.tolist()}).encode()

    url = f"{server.url}/v1/models/digits/predict"
    assert httpx.post(url, content=chunks(2**16, 2)).status_code == 200
    try:
        status = httpx.post(url, content=chunks(2**20, 64), timeout=PATIENCE_S).status_code
    except httpx.WriteError:  # the server answered and closed while we were still sending
        status = 413
    assert status == 413
    assert httpx.get(f"{server.url}/healthz/live").status_code == 200


def test_the_line_it_prints_works_as_pasted(server):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    assert server.line(r"^mcdrop serves digits/1, heights/1 on ").endswith(f"{server.url} (try {server.url}/docs)\n")
    line = server.line("^curl ")

    ended = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    answer = json.loads(ended.stdout)
    assert answer["model"] == "digits"
    assert len(answer["outputs"]["mean"]) == 1


def until(happened):
    """Once something is true of a server."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_published_while_it_runs_is_served_and_what_is_tampered_with_is_not(client, root):
    with pytest.raises(ServerError, match="there is no model 'later'"):
        client.predict("later", X)
    for version in (1, 2):
        assert publish_digits(root, seed=version, name="later").version == version
        until(lambda wanted=version: client.predict("later", X).version == wanted)
    broken = shutil.copytree(root / "later" / "2", root.parent / "broken")
    weights = broken / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    broken.rename(root / "later" / "3")
    publish_digits(root, seed=4, name="latest")
    until(lambda: ("latest", 1, "ready") in {(one["name"], one["version"], one["state"]) for one in client.models()})

    assert client.predict("later", X).version == 2
    with pytest.raises(ServerError, match="does not match its digest") as refusal:
        client.predict("later", X, version=3)
    assert (refusal.value.status, refusal.value.code) == (503, "invalid-bundle")
    newest = next(one for one in client.models() if one["name"] == "later")
    assert (newest["version"], newest["state"]) == (3, "refused")
    assert "weights.safetensors of later/3 does not match its digest" in newest["reason"]


def test_many_callers_at_once_get_their_own_rows(server):
    rows = nets.images(8, seed=6)
    wanted, failed = [], []

    def ask(row):
        with Client(server.url) as client:
            for _ in range(5):
                answer = client.predict("heights", nets.features(8)[row : row + 1], seed=1).outputs["mean"]
                if not agree(answer, wanted[row]):
                    failed.append(row)

    with Client(server.url) as client:
        wanted = [[row] for row in client.predict("heights", nets.features(8), seed=1).outputs["mean"]]
    threads = [threading.Thread(target=ask, args=(row,)) for row in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A folder with a network of a million products a row and pass."""
    root = tmp_path_factory.mktemp("wide")
    publish_digits(root, kind=nets.Wide)
    return root


@contextmanager
def computing(process, rows, passes, **headers):
    """While a server computes the answer to a long request, whose status is in the list at the end."""
    body = {"inputs": torch.ones(rows, 8, 8).int().tolist(), "passes": passes}
    ended = []

    def ask():
        url = f"{process.url}/v1/models/digits/predict"
        ended.append(httpx.post(url, json=body, headers=headers, timeout=PATIENCE_S).status_code)

    def pending():
        return re.search(
            r"^mcdrop_pending_requests 1\.0$", httpx.get(f"{process.url}/metrics", headers=headers).text, re.M
        )

    caller = threading.Thread(target=ask)
    caller.start()
    until(pending)
    yield ended
    caller.join()


def test_a_server_with_a_key_stops_on_request_even_while_it_computes(wide):
    with serving(wide, "--host", "0.0.0.0", MCDROP_API_KEY=KEY, MCDROP_DRAIN_MS="100") as process:
        process.wait_ready()
        with Client(process.url) as anyone, pytest.raises(ServerError, match="send the server's key"):
            anyone.models()
        # 2000 rows in 1000 passes of a million products each: a minute or more
        with computing(process, 2000, 1000, **{"X-API-Key": KEY}) as ended:
            code = process.terminate()

    assert (code, ended) == (0, [503])
    assert KEY not in "".join(process.lines)


def test_a_server_that_is_told_to_stop_finishes_what_it_computes(wide):
    drain = {"MCDROP_DRAIN_MS": str(1000 * PATIENCE_S)}
    # half a second or more
    with serving(wide, **drain) as process, computing(process.wait_ready(), 100, 200) as ended:
        assert ended == []
        code = process.terminate()

    assert (code, ended) == (0, [200])


def test_a_server_that_others_could_reach_without_a_key_does_not_start(root):
    with serving(root, "--host", "0.0.0.0") as process:
        assert process.process.wait(PATIENCE_S) == 2
        assert "MCDROP_API_KEY" in process.line("lets others in")


def test_a_server_without_bundles_is_live_says_how_to_get_some_and_stops_when_it_is_told_to(tmp_path):
    with serving(tmp_path / "nowhere") as process:
        assert process.line("^mcdrop serves no model yet on ")
        live, ready = (httpx.get(f"{process.url}/healthz/{state}") for state in ("live", "ready"))
        code = process.terminate()

    assert (live.status_code, ready.status_code, code) == (200, 503, 0)
    assert "docker run -v $PWD/bundles:/bundles:ro" in ready.json()["reason"]
    assert any("Application shutdown complete" in line for line in process.lines)
