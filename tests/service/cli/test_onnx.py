"""ONNX files are published, served and exported, by the command and over HTTP."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from mcdrop.settings import Settings
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.onnx.runtime.options import Backends
from mcdrop_models.publishing.onnx import publish_onnx
from tests.service.conftest import assert_refused
from tests.support.asgi import Served

RANDOM = np.random.default_rng(0)
HIDDEN, HEAD = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((4, 16), (16, 3)))
OPTIONS = ("--name", "net", "--task", "classification", "--bundles", "bundles")


def network(rate):
    """ReLU(x W) V, with dropout before V if there is a rate."""
    nodes = [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("Relu", ["a"], ["h"])]
    constants = [numpy_helper.from_array(HIDDEN, "W"), numpy_helper.from_array(HEAD, "V")]
    if rate is not None:
        constants.append(numpy_helper.from_array(np.array(rate, np.float32), "rate"))
        nodes.append(helper.make_node("Dropout", ["h", "rate"], ["d"], name="drop"))
    nodes.append(helper.make_node("MatMul", ["h" if rate is None else "d", "V"], ["y"], name="last"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with two networks: net.onnx has dropout, still.onnx has none."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(0.5), "net.onnx")
    onnx.save(network(None), "still.onnx")
    return tmp_path


def mean(x, seed, rate=0.5, passes=32):
    """Compute the class probabilities in numpy from the masks of the only site."""
    predictor = Predictor.load(Repository("bundles"), "net", 1)
    (site,) = predictor.program.graph.sites
    assert (site.kind, site.rate) == ("dropout", pytest.approx(rate))
    from dropout_core.engine.masks import Masks

    masks = Masks(replace(predictor.manifest.pass_options, passes=1, seed=seed), range(passes))
    draws = masks.draws(site, torch.zeros(1, 16), 0, passes, torch.arange(1)).reshape(passes, 1, 16).numpy()
    logits = (np.maximum(x @ HIDDEN, 0) * draws) @ HEAD
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).mean(0)


def test_an_onnx_file_is_published_and_served_without_a_capture(files, mcdrop, monkeypatch):
    assert mcdrop("publish", "net.onnx", *OPTIONS, "--labels", "a,b,c")[0] == 0
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("captured"))
    x = RANDOM.standard_normal((5, 4)).astype(np.float32)
    with Served(Settings(bundles=files / "bundles")) as server:
        body = {"inputs": x.tolist(), "seed": 7, "outputs": ["mean", "mutual_information"]}
        answer = server.post("/v1/models/net/predict", body).json()
        assert server.get("/v1/models/net").json()["computed_by"] == "onnx"
        assert server.post("/v1/models/net/rank", {"inputs": x.tolist(), "k": 2}).status_code == 200
        refused = server.post("/v1/models/net/rank", {"inputs": x.tolist(), "k": 2, "selector": "k_centre"})
    assert (refused.status_code, "came as an ONNX file" in refused.text) == (422, True)
    np.testing.assert_allclose(answer["outputs"]["mean"], mean(x, 7), atol=1e-6)
    assert min(answer["outputs"]["mutual_information"]) > 0


def test_a_network_without_dropout_is_refused_until_it_has_one(files, mcdrop):
    assert_refused(mcdrop("publish", "still.onnx", *OPTIONS), "no node of the ONNX model draws")
    assert mcdrop("add-dropout", "still.onnx", "--before", "head", "--p", 0.5, "--out", "given.onnx")[0] == 0
    assert mcdrop("publish", "given.onnx", *OPTIONS)[0] == 0
    x = RANDOM.standard_normal((5, 4)).astype(np.float32)
    found = Predictor.load(Repository("bundles"), "net", 1).predict(
        torch.from_numpy(x), PassOptions(32, 3, sampling="iid")
    )
    assert found.variance.min() > 0
    assert_refused(
        mcdrop("add-dropout", "still.onnx", "--before", "head", "--p", 0.5, "--out", "given.onnx"), "exists already"
    )


def test_torch_cannot_compute_an_imported_network(files, mcdrop, monkeypatch):
    assert mcdrop("publish", "net.onnx", *OPTIONS)[0] == 0
    np.save("rows.npy", np.zeros((1, 4), np.float32))
    monkeypatch.setenv("MCDROP_BACKEND", "torch")
    assert_refused(mcdrop("predict", "net", "rows.npy", "--bundles", "bundles"), "onnx only, but the backend is torch")
    monkeypatch.setenv("MCDROP_BACKEND", "auto")
    assert mcdrop("predict", "net", "rows.npy", "--bundles", "bundles")[0] == 0
    assert_refused(mcdrop("lint", "net", "--bundles", "bundles"), "was published from an ONNX file")
    assert mcdrop("bench", "net", "--rows", 2, "--bundles", "bundles")[0] == 0


def test_passes_of_onnx_do_not_branch(files, mcdrop):
    double = network(0.5)
    double.graph.node[-1].input[0] = "e"
    double.graph.node.insert(3, helper.make_node("Dropout", ["d", "rate"], ["e"], name="again"))
    onnx.save(double, "double.onnx")
    assert mcdrop("publish", "double.onnx", *OPTIONS)[0] == 0
    with Served(Settings(bundles=files / "bundles")) as server:
        refused = server.post("/v1/models/net/predict", {"inputs": [[0, 0, 0, 0]], "branches": 4})
    assert (refused.status_code, "do not branch" in refused.text) == (422, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--weights", "net.onnx"), "holds its weights"),
        (("--backend", "torch"), "holds its weights"),
        (("--result", "z"), "'z'"),
        (("--class-axis", "1"), "must be its last axis; leave out --class-axis"),
        (("--example-shape", "5"), "5"),
        (("--task", "ranking"), "the task is 'ranking'"),
    ],
)
def test_what_does_not_fit_a_file_is_refused(options, reason, files, mcdrop):
    assert_refused(mcdrop("publish", "net.onnx", *OPTIONS, *options), reason)


def test_the_function_publishes_as_the_command_does(files, mcdrop):
    assert mcdrop("publish", "net.onnx", *OPTIONS)[0] == 0
    content = (files / "net.onnx").read_bytes()
    manifest = publish_onnx(content, name="net", task="classification", root="bundles").manifest
    assert manifest.digest == Repository("bundles").read("net", 1).manifest.digest
    with pytest.raises(InvalidInput, match="the result is 1; name an output of the ONNX model"):
        publish_onnx(content, name="net", task="classification", result=1, root="bundles")


def test_a_factory_is_published_for_both_backends(tmp_path, monkeypatch, mcdrop):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_twice.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))\n"
    )
    options = (*OPTIONS, "--example-shape", "4")
    assert mcdrop("publish", "own_twice:make", *options, "--backend", "auto")[0] == 0
    names = {file.name for file in (tmp_path / "bundles" / "net" / "1").iterdir()}
    assert names == {"manifest.json", "program.json", "weights.safetensors", "prefix.onnx", "suffix.onnx"}
    answers = [
        Predictor.load(Repository("bundles"), "net", 1, backends=Backends(by)).predict(
            torch.ones(3, 4), PassOptions(sampling="iid")
        )
        for by in ("torch", "onnx")
    ]
    torch.testing.assert_close(answers[0].mean, answers[1].mean, rtol=0, atol=1e-6)
    assert_refused(mcdrop("publish", "own_twice:make", *options, "--backend", "tensorrt"), "the backend is 'tensorrt'")
    assert_refused(mcdrop("publish", "own_twice:make", *OPTIONS), "give --example-shape")


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_an_imported_network_is_exported_with_its_passes(opset, files, mcdrop):
    model = network(0.5)
    model.opset_import[0].version = opset
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))  # converters declare it, whether it is used or not
    model.ir_version = 10
    onnx.save(model, "net.onnx")
    assert mcdrop("publish", "net.onnx", *OPTIONS)[0] == 0
    ended = mcdrop("export", "net", "--onnx", "ensemble.onnx", "--passes", 32, "--seed", 7, "--bundles", "bundles")
    assert ended[0] == 0
    x = RANDOM.standard_normal((5, 4)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession("ensemble.onnx").run(["mean"], {"x": x})
    np.testing.assert_allclose(found, mean(x, 7), atol=1e-6)
    assert [(one.domain, one.version) for one in onnx.load("ensemble.onnx").opset_import] == [("", max(opset, 18))]


def test_noise_on_weights_is_published_and_served(files, mcdrop):
    model = network(None)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "rate"))
    model.graph.node.insert(0, helper.make_node("Dropout", ["V", "rate"], ["dropped"], name="drop"))
    model.graph.node[-1].input[1] = "dropped"
    onnx.save(model, "connect.onnx")
    assert mcdrop("publish", "connect.onnx", *OPTIONS)[0] == 0
    x = torch.from_numpy(RANDOM.standard_normal((5, 4)).astype(np.float32))
    found = Predictor.load(Repository("bundles"), "net", 1).predict(
        x, PassOptions(32, 3, sampling="iid"), keep_draws=True
    )
    assert (len(found.samples.unique(dim=0)), found.samples.shape) == (32, (32, 5, 3))


def test_dropout_is_inserted_into_a_file_of_an_old_opset(files, mcdrop):
    model = network(None)
    model.ir_version, model.opset_import[0].version = 3, 9
    model.graph.input.extend(
        helper.make_tensor_value_info(one.name, TensorProto.FLOAT, one.dims) for one in model.graph.initializer
    )
    onnx.save(model, "old.onnx")
    assert mcdrop("add-dropout", "old.onnx", "--before", "head", "--p", 0.5, "--out", "given.onnx")[0] == 0
    assert mcdrop("publish", "given.onnx", *OPTIONS)[0] == 0
