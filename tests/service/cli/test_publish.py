import re
import sys

import pytest
import safetensors.torch
import torch

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from tests.service.conftest import assert_refused

CODE = '''
"""A network of the publisher's own."""
import torch
from torch import nn

NUMBER = 3

class Net(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs))
    def forward(self, x):
        return self.layers(x)

def make():
    torch.manual_seed(0)
    return Net()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = Net(2), Net(3)
    def forward(self, x):
        return self.one(x), self.other(x)

def probabilities():
    return nn.Sequential(Net(), nn.Softmax(-1))

def certain():
    return nn.Linear(4, 2)

def number():
    return NUMBER
'''
OPTIONS = ("--name", "net", "--task", "classification", "--example-shape", "4", "--bundles", "bundles")


@pytest.fixture
def publish(tmp_path, monkeypatch, mcdrop):
    """Return a function that publishes from a folder with own_net.py and its weights. Later options win."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "own_net.py").write_text(CODE)
    (tmp_path / "broken_net.py").write_text("import no_such_library")
    torch.manual_seed(1)
    weights = {"layers.0.weight": (8, 4), "layers.0.bias": (8,), "layers.3.weight": (2, 8), "layers.3.bias": (2,)}
    safetensors.torch.save_file({name: torch.randn(shape) for name, shape in weights.items()}, "net.safetensors")
    safetensors.torch.save_file({"other": torch.zeros(1)}, "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save({}, "net.pt")
    yield lambda factory, *options: mcdrop("publish", factory, *OPTIONS, *options)
    for name in ("own_net", "broken_net"):
        sys.modules.pop(name, None)


def published(version=1):
    return Predictor.load(Repository("bundles"), "net", version)


def test_a_factory_of_the_current_folder_is_published_with_its_weights(publish):
    ended = publish("own_net:make", "--weights", "net.safetensors", "--labels", "cat, dog")

    assert ended == (0, "published bundles/net/1\n", "")
    predictor, stored = published(), safetensors.torch.load_file("net.safetensors")
    assert predictor.manifest.labels == ("cat", "dog")
    assert (predictor.manifest.task, predictor.manifest.output) == ("classification", "logits")
    assert predictor.manifest.inputs[0].shape == (4,)
    kept = {tuple(tensor.shape): tensor for tensor in predictor.program.weights.values()}
    assert all(torch.equal(kept[tuple(tensor.shape)], tensor) for tensor in stored.values())


def test_without_weights_those_of_the_factory_are_published(publish):
    assert publish("own_net:make")[0] == 0

    made = sys.modules["own_net"].make().layers[0].weight
    assert any(torch.equal(made, tensor) for tensor in published().program.weights.values())


def test_a_known_name_gets_the_next_version(publish):
    publish("own_net:make")

    assert publish("own_net:make")[1] == "published bundles/net/2\n"


def test_every_flag_of_the_description_reaches_the_manifest(publish):
    flags = {"passes": 48, "seed": 7, "sampling": "iid", "masks": "independent", "branches": 1, "backend": "torch"}
    options = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    assert publish("own_net:make", *options)[0] == 0

    manifest = published().manifest
    assert {name: getattr(manifest, name) for name in flags} == flags


@pytest.mark.parametrize(("position", "outputs"), [("0", 2), ("1", 3)])
def test_one_of_several_results_is_named_by_its_position(publish, position, outputs):
    assert publish("own_net:Two", "--result", position)[0] == 0

    assert (published().manifest.result, published().manifest.num_outputs) == (position, outputs)


def test_task_output_and_shape_reach_the_manifest(publish):
    assert publish("own_net:make", "--task", "regression", "--output", "mean_and_log_variance")[0] == 0
    assert publish("own_net:probabilities", "--output", "probabilities")[0] == 0

    assert [published(n).manifest.output for n in (1, 2)] == ["mean_and_log_variance", "probabilities"]
    assert published(1).manifest.num_outputs == 1


REFUSALS = {
    "no factory named": (["own_net"], "'own_net' does not name a factory; write package.module:factory"),
    "no module named": ([":make"], "':make' does not name a factory"),
    "a relative module": ([".own_net:make"], "'.own_net:make' does not name a factory"),
    "a file": (["own_net.py:make"], "own_net.py:make cannot be imported: .*own_net.py"),
    "an unknown module": (["nowhere:make"], "nowhere:make cannot be imported: No module named 'nowhere'"),
    "a module that cannot be imported": (["broken_net:make"], "cannot be imported: No module named 'no_such_library'"),
    "an unknown attribute": (["own_net:nope"], "own_net, which is .*own_net.py, has no 'nope'. Name a function of it"),
    "no function": (["own_net:NUMBER"], "own_net:NUMBER is a int; name a function that returns the network"),
    "no network": (["own_net:number"], "own_net:number returns a int, but it must return a torch.nn.Module"),
    "a network without dropout": (["own_net:certain"], "no random operator reaches the output"),
    "no weights": (["own_net:make", "--weights", "no.safetensors"], "no.safetensors does not fit the network: No such"),
    "other weights": (
        ["own_net:make", "--weights", "other.safetensors"],
        "other.safetensors does not fit the network: .*Missing key.*Unexpected key",
    ),
    "no tensors": (
        ["own_net:make", "--weights", "text.safetensors"],
        "text.safetensors is not a safetensors file: .*safetensors.torch.save_file",
    ),
    "a file of torch.save": (
        ["own_net:make", "--weights", "net.pt"],
        "net.pt is not a safetensors file: .*can run code when it is read; convert it",
    ),
    "an unknown sampling": (["own_net:make", "--sampling", "random"], "sampling is 'random'; choose"),
    "an unknown task": (
        ["own_net:make", "--task", "sorting"],
        "the task is 'sorting'; choose one of classification, multi",
    ),
    "an unknown output": (
        ["own_net:make", "--output", "odds"],
        "the output is 'odds'; choose one of logits, probabilities, multilabel_logits",
    ),
    "an output of another task": (
        ["own_net:make", "--output", "mean"],
        "a classification model cannot have the output mean; choose one of logits, prob",
    ),
    "too many labels": (["own_net:make", "--labels", "a,b,c"], "there are 3 labels and 2 outputs"),
    "no probabilities": (["own_net:make", "--output", "probabilities"], "are no probabilities; say output='logits'"),
    "another shape": (["own_net:make", "--example-shape", "5"], r"got \[s\d+, 5\] X \[4, 8\]"),
    "a bad name": (["own_net:make", "--name", "../net"], r"'\.\./net' is not a model name"),
    **{
        f"the shape {shape!r}": (["own_net:make", "--example-shape", shape], "write the sizes of one row, such as 1,28")
        for shape in ("", "4,", "4x4", "0", "-1", "1.5")
    },
}


@pytest.mark.parametrize(("args", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_published_is_refused_in_one_line(publish, args, reason):
    assert_refused(publish(*args), reason)

    assert Repository("bundles").entries() == []


def test_an_error_of_the_publishers_own_code_is_not_hidden(publish, tmp_path):
    (tmp_path / "own_net.py").write_text("def make(): raise ZeroDivisionError('mine')")

    with pytest.raises(ZeroDivisionError, match="mine"):
        publish("own_net:make")


def test_training_an_example_publishes_it_with_its_metrics(mcdrop, tmp_path, monkeypatch):
    monkeypatch.setattr("mcdrop_models.recipes.diabetes._EPOCHS", 2)

    code, out, err = mcdrop("train", "diabetes", "--bundles", tmp_path)

    manifest = Predictor.load(Repository(tmp_path), "diabetes", 1).manifest
    facts = ", ".join(f"{name} {value:g}" for name, value in manifest.metrics.items())
    assert (code, err) == (0, "")
    assert re.search(r"training diabetes .*2/2 loss ", out)
    assert out.endswith(f"published {tmp_path}/diabetes/1: {facts}\n")
    assert set(manifest.metrics) == {"rmse", "coverage_of_95_percent"}


@pytest.mark.parametrize(
    ("environment", "args", "reason"),
    [
        ({}, ["--host", "0.0.0.0"], "listening on 0.0.0.0 lets others in: set MCDROP_API_KEY .*MCDROP_ALLOW_ANONYMOUS"),
        ({"MCDROP_HOST": "::", "MCDROP_API_KEY": ""}, [], "listening on :: lets others in"),
        ({}, ["--port", "70000"], "port: .*65535"),
        ({"MCDROP_PORT": "http"}, [], "port: .*integer"),
        ({"MCDROP_MAX_PASSES": "0"}, [], "max_passes: "),
        ({}, ["--threads", "0"], "threads: "),
    ],
    ids=["open", "open by the environment", "port too large", "port a word", "no passes", "no threads"],
)
def test_a_server_that_must_not_start_names_the_setting(mcdrop, monkeypatch, environment, args, reason):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*_, **__):
        raise AssertionError("the server started")

    monkeypatch.setattr("uvicorn.run", run)

    assert_refused(mcdrop("serve", *args), reason, code=2)
