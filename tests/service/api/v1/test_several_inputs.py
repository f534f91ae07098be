"""Bundles of several inputs, of free lengths and of several labels, from publish to the client."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.errors import InvalidInput
from dropout_core.predict import predict
from mcdrop.client import Client
from mcdrop.inference.query import Query, RequestLimits
from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.service.conftest import assert_refused
from tests.support import service_nets as nets
from tests.support.asgi import listening, refused
from tests.support.inputs import FREE, Attention, Dictionary, TwoInputs, drawn, network

TAGS = ("warm", "wet", "windy")


class Spotted(nn.Module):
    """Floats beside truths: which of them to see."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x, seen):
        return self.layers(torch.where(seen, x, 0.0))


def ready(inputs, length=None):
    """Inputs as a client has them."""
    return {name: value[:, :length].numpy() if length else value.numpy() for name, value in inputs.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    texts = Attention.inputs(4, 6)
    texts["attention_mask"][1, 4:] = 0
    publish(
        network(Attention), texts, name="tags", task="multilabel", labels=TAGS, dynamic=FREE[Attention], root=folder
    )
    publish(network(TwoInputs).float(), (drawn(4, 2).float(), drawn(4, 1).float()), name="pairs", task="regression",
            root=folder)  # fmt: skip
    publish(network(Dictionary), drawn(4, 2), name="chosen", task="classification", result="logits", root=folder)
    seen = torch.tensor([[True, False, True], [True, True, True]])
    publish(nets.seeded(Spotted, 0), {"x": drawn(2, 3).float(), "seen": seen}, name="spotted", task="regression",
            root=folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def client(root):
    with listening(create_app(Settings(bundles=root))) as address, Client(address) as one:
        yield one


def loaded(root, name):
    return Predictor.load(Repository(root), name, 1)


@pytest.mark.parametrize("length", [1, 6, 9])
def test_rows_of_any_length_are_answered_as_the_predictor_does(client, root, length):
    inputs = Attention.inputs(3, length)
    answer = client.predict("tags", ready(inputs), passes=40, seed=5)
    wanted = loaded(root, "tags").predict(inputs, PassOptions(40, 5))
    assert answer.labels == TAGS
    assert set(answer.outputs) >= {"mean", "variance", "mutual_information", "least_confidence"}
    for name, values in answer.outputs.items():
        assert np.array_equal(values, wanted.measure(name).numpy()), name


def test_a_published_network_is_the_live_one(root):
    """Also at a length that it was not published with."""
    inputs = Attention.inputs(3, 4)
    published = loaded(root, "tags")
    scheme = {"sampling": published.manifest.sampling, "masks": published.manifest.masks}
    live = predict(network(Attention), inputs, passes=20, seed=1, output="multilabel_logits", **scheme)
    torch.testing.assert_close(published.predict(inputs, PassOptions(20, 1)).mean, live.mean, rtol=0, atol=1e-6)


def test_padding_a_row_changes_no_answer_over_http(client):
    inputs = Attention.inputs(2, 5)
    short, long = (client.predict("tags", ready(x)).outputs for x in (inputs, Attention.padded(inputs, 4)))
    for name in ("mean", "variance"):
        np.testing.assert_allclose(long[name], short[name], rtol=0, atol=1e-5)


def test_a_description_names_inputs_lengths_and_the_result(client):
    tags, chosen = client.model("tags"), client.model("chosen")
    names = ("input_ids", "attention_mask")
    assert tags["inputs"] == [{"name": name, "shape": ["length"], "dtype": "int64"} for name in names]
    assert tags["free"] == {"length": {"least": 1, "most": None}}
    assert tags["result"] is None
    assert set(tags["example"]) == set(names)
    assert (chosen["inputs"][0]["name"], chosen["result"]) == ("x", "logits")


def test_the_example_of_a_description_is_a_row_to_send(client):
    example = client.model("tags")["example"]
    answer = client.predict("tags", {name: np.array([row]) for name, row in example.items()})
    assert answer.outputs["mean"].shape == (1, 3)


def test_rows_are_ranked(client):
    inputs = ready(Attention.inputs(5, 3))
    information = client.predict("tags", inputs).outputs["mutual_information"]
    ranked = client.rank("tags", inputs, k=2)
    assert ranked.score == "mutual_information"
    assert list(ranked.indices) == list(np.argsort(-information)[:2])


def test_floats_beside_truths(client, root):
    x, seen = drawn(2, 3).float(), torch.tensor([[True, False, False], [True, True, True]])
    wanted = loaded(root, "spotted").predict({"x": x, "seen": seen}, PassOptions(32, 0)).mean.numpy()
    for truths in (seen.numpy(), seen.numpy().astype(int)):
        assert np.array_equal(client.predict("spotted", {"x": x.numpy(), "seen": truths}).outputs["mean"], wanted)


def test_no_rows_are_answered_by_no_rows(client):
    nothing = {"input_ids": [], "attention_mask": []}
    assert client.predict("tags", nothing, outputs=["predictive_entropy"]).outputs["predictive_entropy"].shape == (0,)


IDS, MASK = [[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [1, 1, 0]]
REFUSED = {
    "a list for several": ("tags", IDS, "inputs is a list; send an object with the rows of each input: input_ids"),
    "a missing input": ("tags", {"input_ids": IDS}, "inputs is an object of input_ids; send an object"),
    "an unknown input": ("tags", {"input_ids": IDS, "mask": MASK}, "an object of input_ids, mask; send"),
    "rows of two lengths": (
        "tags", {"input_ids": [[1, 2, 3], [4, 5]], "attention_mask": MASK},
        "row 1 has 2 values, not 3; input_ids takes int64 of shape [length] for each row, all rows of one size: pad",
    ),
    "inputs of two lengths": (
        "tags", {"input_ids": IDS, "attention_mask": [[1, 1], [1, 1]]},
        "attention_mask has shape [2, 2]; [2, 3] is wanted",
    ),
    "another number of rows": (
        "tags", {"input_ids": IDS, "attention_mask": MASK[:1]}, "attention_mask has shape [1, 3]; [2, 3] is wanted",
    ),
    "a half": ("tags", {"input_ids": IDS, "attention_mask": [[1, 1, 0.5]] * 2}, "row 0, column 2 is 0.5; attention"),
    "a word": ("tags", {"input_ids": [["a"]], "attention_mask": [[1]]}, "row 0, column 0 is the text 'a'; input_ids"),
    "a two for a truth": (
        "spotted", {"x": [[1, 2, 3]], "seen": [[0, 1, 2]]}, "row 0, column 2 is 2; seen takes true and false, or 1",
    ),
    "a null for a truth": ("spotted", {"x": [[1, 2, 3]], "seen": [[True, False, None]]}, "row 0, column 2 is null"),
    "a truth for a number": ("spotted", {"x": [[1, True, 3]], "seen": [[True, False, True]]}, "column 1 is true; x"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_422_by_the_name_of_its_input(client, name, inputs, says):
    answer = client._http.post(f"/v1/models/{name}/predict", json={"inputs": inputs})
    assert says in refused(answer, 422, "invalid-input")


def test_a_server_bounds_free_lengths(root):
    texts, limits = loaded(root, "tags"), RequestLimits(max_passes=10, max_samples=100, max_length=8)
    assert Query.of(texts, Attention.inputs(2, 8), limits, overrides=PassOverrides(passes=1)).num_rows == 2
    with pytest.raises(InvalidInput, match="the length is 9; this server takes up to 8"):
        Query.of(texts, Attention.inputs(2, 9), limits, overrides=PassOverrides(passes=1))
    pairs = loaded(root, "pairs")  # nothing of it is free
    assert (
        Query.of(
            pairs, {"x": torch.zeros(9, 2), "weight": torch.zeros(9, 1)}, limits, overrides=PassOverrides(passes=1)
        ).num_rows
        == 9
    )


@pytest.mark.parametrize("wrong", [10, 2**40, -1])
def test_a_number_that_a_table_has_no_row_for_is_refused(root, wrong):
    """Before it reaches a device: on a GPU it would end the use of it."""
    inputs = Attention.inputs(2, 3)
    inputs["input_ids"][1, 2] = wrong
    with pytest.raises(InvalidInput, match=f"input_ids of row 1 holds {wrong}, but the network knows 0 … 9"):
        loaded(root, "tags").predict(inputs, PassOptions(2, 0))


def test_the_command_takes_inputs_by_name(mcdrop, root, tmp_path):
    np.savez(tmp_path / "rows.npz", **ready(Attention.inputs(3, 4)))
    code, out, _ = mcdrop("predict", "tags", tmp_path / "rows.npz", "--bundles", root, "--json")
    wanted = loaded(root, "tags").predict(Attention.inputs(3, 4), PassOptions(32, 0))
    assert code == 0
    assert np.array_equal(json.loads(out)["outputs"]["mean"], wanted.mean.numpy())
    np.savez(tmp_path / "rows.npz", input_ids=np.ones((3, 4), int))
    assert_refused(
        mcdrop("predict", "tags", tmp_path / "rows.npz", "--bundles", root), "inputs is an object of input_ids"
    )


def test_the_table_of_labels_names_all_that_are_likelier_than_not(mcdrop, root, tmp_path):
    np.savez(tmp_path / "rows.npz", **ready(Attention.inputs(3, 4)))
    _, out, _ = mcdrop("predict", "tags", tmp_path / "rows.npz", "--bundles", root)
    mean = loaded(root, "tags").predict(Attention.inputs(3, 4), PassOptions(32, 0)).mean
    for row, probabilities in enumerate(mean):
        wanted = ", ".join(tag for tag, probability in zip(TAGS, probabilities, strict=True) if probability >= 0.5)
        assert re.search(rf"(?m)^│ {row} +│ {wanted} +│", out), out


def test_pools_of_several_inputs_are_ranked_by_name(client):
    pool = {"x": drawn(9, 2).float().numpy(), "scale": drawn(9, 1).float().numpy()}
    names = [spec["name"] for spec in client.model("pairs")["inputs"]]
    pool = dict(zip(names, pool.values(), strict=True))
    left = {name: rows[:2] for name, rows in pool.items()}

    plain = client.rank("pairs", pool, k=9)
    apart = client.rank("pairs", pool, k=9, selector="k_centre", labelled=left)

    variance = client.predict("pairs", pool).outputs["variance"].mean(-1)
    assert plain.indices.tolist() == np.argsort(-variance).tolist()
    assert sorted(apart.indices[-2:].tolist()) == [0, 1]  # at no distance from those that are labelled
