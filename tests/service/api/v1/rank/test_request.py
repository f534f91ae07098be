"""What a pool is asked, in every form, and what of it is refused."""

import io
import json

import numpy as np
import pytest
import torch

from mcdrop.http.media_types import NPY, NPZ
from mcdrop.wire.npy import write_npy, write_npz
from mcdrop.wire.oip_frame import LENGTH_HEADER
from tests.support import service_nets as nets
from tests.support.asgi import good, refused
from tests.support.rank_responses import assert_alike

X, SIDE = nets.images(40, seed=2), nets.images(6, seed=9)
ROWS, LEFT = X.int().tolist(), SIDE.int().tolist()
PATH = "/v1/models/digits/rank"
COSTS = (torch.arange(40) % 7 + 1).double()
GROUPS = [n % 3 for n in range(40)]
FRAMED = {"k": 5, "score": "epig", "quotas": '{"1": 2}', "seed": 3}
MEMBERS = {
    "inputs": X.numpy(),
    "targets.x": SIDE.numpy(),
    "costs": COSTS.numpy(),
    "groups": np.array(GROUPS),
    "exclude": np.array([3, 4]),
    "ids": np.arange(100, 140),
}


def frame(members, parameters):
    """A frame of the Open Inference Protocol, all tensors as bytes, and the length of its JSON."""
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
    tensors = [
        {"name": name, "shape": x.shape, "datatype": kinds[x.dtype.name], "parameters": {"binary_data_size": x.nbytes}}
        for name, x in members.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": parameters}).encode()
    return head + b"".join(np.ascontiguousarray(x).tobytes() for x in members.values()), str(len(head))


def test_every_form_of_a_pool_has_the_same_answer(server):
    fields = {
        "targets": LEFT, "costs": COSTS.tolist(), "groups": GROUPS, "exclude": [103, 104], "ids": list(range(100, 140)),
        **FRAMED, "quotas": {"1": 2},
    }  # fmt: skip
    members = {**MEMBERS, "exclude": MEMBERS["exclude"] + 100}
    wanted = server.rank("digits", ROWS, **fields)

    archive = good(server.post(PATH, write_npz(members), headers={"Content-Type": NPZ}, params=FRAMED))
    named = {"x": members["inputs"], **{name: x for name, x in members.items() if name != "inputs"}}
    body, length = frame(named, FRAMED)
    framed = good(server.post(PATH, body, headers={LENGTH_HEADER: length, "Content-Type": "application/octet-stream"}))

    assert_alike(archive, wanted)
    assert_alike(framed, wanted)
    assert 103 not in wanted["ids"]


def test_a_pool_alone_may_be_an_array_with_its_fields_in_the_address(server):
    params = [("k", "3"), ("exclude", "0"), ("exclude", "1"), ("groups", "predicted_class"), ("quotas", '{"one":1}')]

    answer = good(server.post(PATH, write_npy(X.numpy()), headers={"Content-Type": NPY}, params=params))

    wanted = server.rank("digits", ROWS, k=3, exclude=[0, 1], groups="predicted_class", quotas={"one": 1})
    assert_alike(answer, wanted)


def test_an_answer_as_an_archive_has_the_parts_as_members(server):
    said = {"inputs": ROWS, "k": 4, "selector": "batchbald"}
    wanted = good(server.post(PATH, said))

    with np.load(io.BytesIO(server.post(PATH, said, headers={"Accept": NPZ}).content)) as archive:
        found = {name: archive[name].tolist() for name in archive}

    parts = {name: found.pop(name) for name in wanted["parts"]}
    assert_alike({**found, "parts": parts}, wanted)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"selector": "best"}, "invalid-request", "selector: Input should be 'top_k'"),
        ({"best": 1}, "invalid-request", "best: Extra inputs"),
        ({"selector": "badge", "score": "margin"}, "invalid-input", "badge picks without a score"),
        ({"beta": 1.0}, "invalid-input", "beta belongs to power"),
        ({"score": "epig"}, "invalid-input", "epig asks about targets"),
        ({"targets": LEFT}, "invalid-input", "targets are for epig"),
        ({"labelled": LEFT}, "invalid-input", "labelled rows are for k_centre"),
        ({"targets": [[1]], "score": "epig"}, "invalid-input", "row 0"),
        ({"selector": "batchbald", "masks": "independent"}, "invalid-input", "needs shared masks"),
        ({"selector": "batchbald", "tolerance": 0.1}, "invalid-input", "leave tolerance out"),
        (
            {"selector": "batchbald", "num_samples": 10**6},
            "invalid-input",
            "num_samples make this server hold 20000000",
        ),
        ({"selector": "batchbald", "passes": 1000, "num_samples": 5000}, "invalid-input", "it holds up to 4194304"),
        ({"exclude": [40]}, "invalid-input", "exclude has 40; the rows are 0 … 39."),
        ({"exclude": ["a"]}, "invalid-input", "exclude has 'a' and there are no ids"),
        ({"exclude": ["a"], "ids": list(range(40))}, "invalid-input", "none of the ids"),
        ({"costs": [1.0]}, "invalid-input", "the costs have shape [1]; [40] is wanted."),
        ({"costs": [0.0] * 40}, "invalid-input", "a cost is not a finite number above 0"),
        ({"quotas": 3}, "invalid-input", "there are groups or quotas, and not both"),
        ({"groups": "predicted_class", "quotas": {"three": 1}}, "invalid-input", "there are nought, one, two."),
        ({"groups": "predicted_class", "quotas": {"9" * 5000: 1}}, "invalid-input", "which is no class of digits"),
        ({"exclude": ["9" * 5000]}, "invalid-input", "there are no ids"),
        ({"k": 5, "candidates": 4, "selector": "badge"}, "invalid-input", "at least k rows must be considered"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_cannot_be_chosen_is_refused_before_anything_runs(place, asked, code, said):
    one = place()

    detail = refused(one.served.post(PATH, {"inputs": ROWS, **asked}), 422, code)

    assert said in detail
    assert one.gate.rows == []
    assert one.seen.outcomes == ["invalid"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"x": X.numpy(), "inputs": X.numpy()}, "inputs of x are there twice, once as 'inputs'"),
        ({"x": X.numpy(), "target": X.numpy()}, "'target' is nothing of a pool; there are inputs.x, labelled.x"),
        ({"x": X.numpy(), "costs": np.ones((40, 1))}, "costs.0: "),
        ({"costs": np.ones(40)}, "inputs: Field required"),
    ],
    ids=["twice", "unknown", "shape", "no pool"],
)
def test_members_that_are_nothing_of_a_pool_are_refused(server, members, said):
    answer = server.post(PATH, write_npz(members), headers={"Content-Type": NPZ})

    assert said in refused(answer, 422, "invalid-request")
