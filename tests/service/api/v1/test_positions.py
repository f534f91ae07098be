"""Models that answer at positions, over HTTP and from the shell."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.errors import InvalidInput
from mcdrop.api.oip.metadata import model_metadata
from mcdrop.inference.query import Query, RequestLimits
from mcdrop.settings import Settings
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.service.cli.test_console import cells
from tests.support import service_nets as nets
from tests.support.asgi import Served, refused

X = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
LABELS = ("noun", "verb", "other")


class Tagger(nn.Sequential):
    """Tokens [B, L, 2] → the logits of three tags of each, [B, L, 3]."""

    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("positions")
    dynamic = {"input": {1: "length"}}
    publish(nets.seeded(Tagger, 0), X, name="tags", task="classification", labels=LABELS, dynamic=dynamic, root=folder)
    return folder


@pytest.fixture(scope="module")
def server(root):
    with Served(Settings(bundles=root)) as served:
        yield served.loaded()


@pytest.fixture(scope="module")
def predictor(root):
    return Predictor.load(Repository(root), "tags", 1)


def test_an_answer_is_nested_lists_of_rows_and_positions(server, predictor):
    answer = server.predict(
        "tags", X.tolist(), quantiles=[0.1, 0.5, 0.9], passes=16, outputs=["mean", "margin"], samples=True
    )
    wanted = predictor.predict(X, PassOptions(16, 0), keep_draws=True)
    outputs = {name: torch.tensor(values, dtype=torch.float64) for name, values in answer["outputs"].items()}
    assert torch.equal(outputs["mean"], wanted.mean)
    assert torch.equal(outputs["margin"], wanted.margin)
    assert torch.equal(outputs["samples"], wanted.samples.movedim(0, 1))
    assert torch.equal(outputs["quantiles"], wanted.quantiles([0.1, 0.5, 0.9]).movedim(0, 1))
    assert outputs["quantiles"].shape == (2, 3, 4, 3)


def test_a_description_says_the_positions(server, predictor):
    described = server.ask("GET", "/v1/models/tags").json()
    assert described["positions"] == ["length"]
    shapes = {tensor.name: tensor.shape for tensor in model_metadata(predictor, [1]).outputs}
    assert (shapes["mean"], shapes["margin"], shapes["passes_used"]) == ([-1, -1, 3], [-1, -1], [-1])


def test_numbers_of_all_positions_count_to_the_most_that_are_kept(predictor):
    """16 passes of 2 rows of 5 positions of 3 outputs."""
    x, asked = torch.zeros(2, 5, 2), PassOverrides(passes=16)
    Query.of(predictor, x, RequestLimits(100, 480, 10), overrides=asked, samples=True)
    with pytest.raises(InvalidInput, match=r"would keep 480 numbers"):
        Query.of(predictor, x, RequestLimits(100, 479, 10), overrides=asked, samples=True)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    np.save("rows.npy", X.numpy())
    return tmp_path


def test_the_command_writes_all_positions(mcdrop, rows, root, predictor):
    code, _, err = mcdrop("predict", "tags", "rows.npy", "--bundles", root, "--out", "answer.npz")
    wanted = predictor.predict(X, PassOptions(32, 0))
    assert (code, err) == (0, "")
    with np.load(rows / "answer.npz") as answer:
        assert answer["mean"].shape == (2, 4, 3)
        for name in predictor.predict(X, PassOptions(2, 0)).measures:
            assert np.array_equal(answer[name], wanted.measure(name).numpy()), name


def test_the_command_prints_where_measures_reach_and_how_many_have_each_label(mcdrop, rows, root, predictor):
    code, out, _ = mcdrop("predict", "tags", "rows.npy", "--bundles", root)
    header, *lines = cells(out)
    wanted = predictor.predict(X, PassOptions(32, 0))
    assert code == 0
    assert header[:3] == ["row", "positions", "predictive_entropy"]
    for row, line in enumerate(lines):
        counts = np.bincount(wanted.mean[row].argmax(-1).numpy(), minlength=3)
        assert line[1] == ", ".join(f"{LABELS[place]} {counts[place]}" for place in range(3) if counts[place])
        entropy = wanted.predictive_entropy[row]
        assert line[2] == f"{entropy.min():.4g} … {entropy.max():.4g}"
    assert sum(len(line[1].split(",")) for line in lines) > 2


def test_the_command_prints_json_of_all_positions(mcdrop, rows, root, predictor):
    code, out, _ = mcdrop("predict", "tags", "rows.npy", "--bundles", root, "--json", "--passes", 8)
    assert code == 0
    assert np.array_equal(json.loads(out)["outputs"]["std"], predictor.predict(X, PassOptions(8, 0)).std.numpy())


def test_positions_are_reduced_to_rank_rows_and_are_no_classes_to_pick_jointly(server, predictor):
    x = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(1))
    measured = predictor.predict(x, PassOptions(32, 0)).mutual_information

    for reduction, values in (("mean", measured.mean(1)), ("max", measured.amax(1))):
        answer = server.rank("tags", x.tolist(), k=6, reduction=reduction, passes=32)
        assert answer["reduction"] == reduction
        assert answer["indices"] == values.argsort(descending=True).tolist()
        assert np.allclose(answer["scores"], values.sort(descending=True).values, rtol=1e-5, atol=0)
    for asked in ({"selector": "batchbald"}, {"selector": "badge"}, {"score": "epig", "targets": x.tolist()}):
        said = refused(server.post("/v1/models/tags/rank", {"inputs": x.tolist(), **asked}), 422, "invalid-input")
        assert "tags has them at each of its positions" in said
    one_each = server.post("/v1/models/tags/rank", {"inputs": x.tolist(), "selector": "k_centre"})
    assert "one vector for each row" in refused(one_each, 422, "invalid-input")
