"""The same question in every form has the same answer in every form, to the last digit."""

import io
import json
import time

import httpx
import numpy as np
import pytest
import torch

from dropout_core.engine.options import PassOptions
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ
from mcdrop.inference.query import model_measures
from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from mcdrop.wire.npy import write_npy, write_npz
from mcdrop_models.publishing.torch import publish
from tests.service.conftest import LABELS
from tests.support import service_nets as nets
from tests.support.asgi import Served, good, listening, refused, strict

X = nets.images(5, seed=1)
ROWS = X.int().tolist()
F = nets.features(3, seed=1).numpy()
DIGITS, HEIGHTS = "/v1/models/digits", "/v1/models/heights"
RUN = {
    "model": "digits", "version": 2, "passes": 20, "seed": 7, "sampling": "balanced", "masks": "shared", "branches": 1,
    "noise": 1,
}  # fmt: skip
BODIES = {
    JSON: json.dumps({"inputs": ROWS}).encode(),
    NPY: write_npy(X.numpy()),
    NPZ: write_npz({"x": X.numpy()}),
}


def asked(server, path, body, form, accept, **params):
    answer = server.post(path, body, headers={"Content-Type": form, "Accept": accept}, params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (200, accept), answer.text
    return answer


def arrays(answer):
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as archive:
        return dict(archive)


def rows(answer):
    """Lines as objects; each ends with a line break."""
    assert answer.content.endswith(b"\n") or not answer.content
    return [strict(line) for line in answer.content.splitlines()]


@pytest.mark.parametrize("form", BODIES)
def test_every_form_has_the_same_answer_in_every_form(server, digits, form):
    estimate = digits.predict(X, PassOptions(20, 7))
    document = good(server.post(f"{DIGITS}/predict", BODIES[form], headers={"Content-Type": form}))
    members = arrays(asked(server, f"{DIGITS}/predict", BODIES[form], form, NPZ))
    lines = rows(asked(server, f"{DIGITS}/predict", BODIES[form], form, NDJSON))

    assert list(members) == [*model_measures(digits), *RUN, "labels"]
    assert {name: members[name].item() for name in RUN} == RUN
    assert tuple(members["labels"].tolist()) == LABELS
    assert [line["row"] for line in lines] == list(range(5))
    assert all(list(line) == ["row", *model_measures(digits)] for line in lines)
    for name in model_measures(digits):
        wanted = estimate.measure(name).numpy()
        assert members[name].dtype == wanted.dtype
        assert np.array_equal(members[name], wanted)
        assert np.array_equal(document["outputs"][name], wanted)
        assert np.array_equal([line[name] for line in lines], wanted)


def test_the_query_of_the_address_says_all_that_json_does(server):
    said = {"passes": 4, "seed": 9, "outputs": ["std"], "quantiles": [0.1, 0.9], "samples": "true", "sampling": "iid"}
    wanted = server.predict("heights", F.tolist(), **{**said, "samples": True})
    members = arrays(asked(server, f"{HEIGHTS}/predict", write_npy(F), NPY, NPZ, **said))

    outputs = wanted.pop("outputs")
    assert members.pop("quantile_levels").tolist() == wanted.pop("quantiles") == [0.1, 0.9]
    assert set(members) == {*wanted, *outputs}
    assert list(outputs) == ["std", "quantiles", "samples"]
    for name, values in {**wanted, **outputs}.items():
        assert np.array_equal(members[name], values), name


def test_fields_may_stand_beside_json_as_well(server):
    answer = good(server.post(f"{DIGITS}/predict", {"inputs": ROWS, "seed": 3}, params={"passes": 4}))

    assert answer == server.predict("digits", ROWS, seed=3, passes=4)


def test_the_headers_of_lines_say_what_was_run(server):
    answer = asked(server, f"{DIGITS}/versions/1/predict", BODIES[NPY], NPY, NDJSON, passes=3, seed="null")

    told = {name: value for name, value in answer.headers.items() if name.startswith("mcdrop-")}
    assert told.pop("mcdrop-seed").isdecimal()
    assert told == {
        "mcdrop-model": "digits/1", "mcdrop-passes": "3", "mcdrop-sampling": "balanced",
        "mcdrop-masks": "shared", "mcdrop-branches": "1", "mcdrop-noise": "1",
    }  # fmt: skip


def test_no_rows_are_no_lines(server):
    assert rows(asked(server, f"{DIGITS}/predict", write_npy(np.zeros((0, 8, 8))), NPY, NDJSON)) == []


@pytest.mark.parametrize("form", BODIES)
def test_rankings_have_the_same_answer_in_every_form(server, form):
    wanted = server.rank("digits", ROWS, k=3, score="margin", ids=["a", "b", "c", "d", "e"])
    said = {"k": 3, "score": "margin", "ids": ["a", "b", "c", "d", "e"]}
    members = arrays(asked(server, f"{DIGITS}/rank", BODIES[form], form, NPZ, **said))

    assert {name: members[name].tolist() for name in members} == wanted | wanted.pop("parts")
    assert members["ids"].dtype.kind == "U"


@pytest.mark.parametrize(
    ("ids", "kind", "told"),
    [([5, 6], "i", [5, 6]), ([5, "x"], "U", ["5", "x"]), ([-1, 2**64 - 1], "U", ["-1", str(2**64 - 1)])],
    ids=["whole", "mixed", "huge"],
)
def test_names_of_rows_are_an_array_that_needs_no_pickle(server, ids, kind, told):
    body = json.dumps({"inputs": ROWS[:1] * 2, "ids": ids}).encode()
    found = arrays(asked(server, f"{DIGITS}/rank", body, JSON, NPZ))["ids"]

    assert found.dtype.kind == kind
    assert found.tolist() == told


@pytest.mark.parametrize("verb", ["predict", "rank"])
def test_a_form_that_is_not_read_is_415(server, verb):
    answer = server.post(f"{DIGITS}/{verb}", BODIES[NPY], headers={"Content-Type": "application/octet-stream"})

    assert "send application/json, application/x-npy or application/x-npz." in refused(
        answer, 415, "unsupported-media-type"
    )


@pytest.mark.parametrize(
    ("verb", "accept", "there"),
    [
        ("predict", "image/png", f"{JSON}, {NPZ}, {NDJSON}."),
        ("rank", "image/png", f"{JSON}, {NPZ}."),
        ("rank", NDJSON, f"{JSON}, {NPZ}."),
    ],
)
def test_a_form_that_is_not_written_is_406_with_those_that_are(server, verb, accept, there):
    answer = server.post(f"{DIGITS}/{verb}", {"inputs": ROWS}, headers={"Accept": accept})

    assert refused(answer, 406, "not-acceptable") == f"the Accept header is {accept!r}; this endpoint writes {there}"


REFUSED = {
    "an unknown field": (NPY, BODIES[NPY], {"pases": 3}, "invalid-request", "pases: Extra inputs are not permitted."),
    "a word for a number": (NPY, BODIES[NPY], {"passes": "ten"}, "invalid-request", "passes: Input should be a valid"),
    "a fraction of passes": (NPY, BODIES[NPY], {"passes": 2.5}, "invalid-request", "passes: Input should be a valid"),
    "True for true": (NPY, BODIES[NPY], {"samples": "True"}, "invalid-request", "samples: Input should be a valid"),
    "passes twice": (NPY, BODIES[NPY], {"passes": [2, 3]}, "invalid-request", "passes is in the query string twice"),
    "rows in the query": (NPY, BODIES[NPY], {"inputs": "[]"}, "invalid-request", "inputs is in the query string"),
    "in both places": (JSON, b'{"inputs": [], "passes": 3}', {"passes": 3}, "invalid-request", "passes is both in"),
    "too many passes": (NPY, BODIES[NPY], {"passes": 10**6}, "invalid-input", "passes is 1000000; this server runs"),
    "no array": (NPY, b"hello", {}, "invalid-request", "the body is not a .npy file"),
    "no zip": (NPZ, BODIES[NPY], {}, "invalid-request", "the body is not a .npz file"),
    "another name": (NPZ, write_npz({"y": F}), {}, "invalid-input", "inputs is an object of y; x takes float32 of sh"),
    "no members": (NPZ, write_npz({}), {}, "invalid-input", "inputs is an object of nothing"),
    "another shape": (NPY, write_npy(F), {}, "invalid-input", "row 0 has shape [4]; x takes float32 of shape [8, 8]"),
    "truths": (NPY, write_npy(X.numpy() > 3), {}, "invalid-input", "the array holds bool"),
    "not a number": (NPY, write_npy(np.full((2, 8, 8), np.nan)), {}, "invalid-input", "row 0, column [0, 0] is nan"),
    "one number": (NPY, write_npy(3.5), {}, "invalid-input", "row 0 has shape []"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "body", "params", "code", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_422(server, form, body, params, code, detail):
    answer = server.post(f"{DIGITS}/predict", body, headers={"Content-Type": form}, params=params)

    assert refused(answer, 422, code).startswith(detail)


def test_a_zip_that_inflates_beyond_the_bound_is_413(bundles, server):
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((200, 8, 8)))
    with Served(Settings(bundles=bundles, max_body_bytes=4000), server.state.catalogue) as small:
        answer = small.loaded().post(f"{DIGITS}/predict", file.getvalue(), headers={"Content-Type": NPZ})

    assert refused(answer, 413, "body-too-large").startswith("the .npz file has 102528 bytes when inflated; 4000 are")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """rooted 1, and wide 1 of which rows take long; a batch is no more than a few of their rows."""
    root = tmp_path_factory.mktemp("slow")
    publish(nets.seeded(nets.Rooted, 4), torch.ones(4, 2), name="rooted", task="classification", root=root)
    publish(nets.seeded(nets.Wide, 5), nets.images(4), name="wide", task="classification", root=root)
    return Settings(bundles=root, batch_ms=1)


def test_what_fails_after_the_first_rows_is_the_last_line(slow):
    values = np.ones((40, 2), "f4")
    values[-1, 1] = -1
    with Served(slow) as served:
        outcomes = Outcomes(served.loaded().state)
        path, params = "/v1/models/rooted/predict", {"passes": 1000, "outputs": ["mean"]}
        answer = asked(served, path, write_npy(values), NPY, NDJSON, **params)
        lone = served.post(path, write_npy(values[-1:]), headers={"Content-Type": NPY, "Accept": NDJSON})
        served.until(lambda: len(outcomes.seen) == 2)

    *lines, last = rows(answer)
    assert 0 < len(lines) < 40
    assert [line["row"] for line in lines] == list(range(len(lines)))
    assert last == {
        "error": {
            "type": "urn:mcdrop:non-finite-output",
            "title": "The network returned NaN or infinity",
            "status": 500,
            "detail": "rooted answers row 39 with NaN or infinity. "
            "Check that the row is in the range of the training data.",
        }
    }
    refused(lone, 500, "non-finite-output")
    assert outcomes.seen == ["backend", "backend"]


def test_who_leaves_in_the_middle_is_computed_for_no_more(slow):
    app = create_app(slow)
    outcomes = Outcomes(app.state.mcdrop)
    body, state = write_npy(nets.images(4000).numpy()), app.state.mcdrop
    with listening(app) as url, httpx.Client(timeout=60) as caller:
        request = {"content": body, "headers": {"Content-Type": NPY, "Accept": NDJSON}, "params": {"passes": 1000}}
        with caller.stream("POST", f"{url}/v1/models/wide/predict", **request) as answer:
            assert answer.status_code == 200
            lines_left = answer.iter_lines()  # held: the connection closes with it
            assert json.loads(next(lines_left))["row"] == 0
            assert state.batcher.pending_requests == 1
        wait(lambda: outcomes.seen and state.batcher.pending_requests == 0)
    assert outcomes.seen == ["cancelled"]


class Outcomes:
    """An observer that keeps what became of requests."""

    def __init__(self, state):
        self.seen = []
        state.observers.append(self)

    def call_finished(self, event):
        self.seen.append(event.outcome)

    def batch_finished(self, event):
        pass


def wait(happened):
    """Until something has happened, which takes far less than a test that fails."""
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)
