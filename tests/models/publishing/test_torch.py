"""Publishing writes three files that hold the whole network and nothing of the machine, or refuses with a reason."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CoupledRows, InvalidInput, NoSite, NotTheModel
from dropout_core.predict import predict
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import Bessel, ConvNet, Coupled, Doubled, Mlp, Silent, TwoInputs, rows_for, seeded

_SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x):
        h = torch.relu(self.inner(x * self.scale))
        return self.head(nn.functional.dropout(h, 0.5, self.training))
"""


def _publish(net, root, shape=(4,), **fields):
    fields = {"name": "net", "task": "classification", **fields}
    return publish(net, rows_for(net, shape, 10), root=root, **fields)


def test_a_bundle_is_three_files_in_the_folder_of_its_version(tmp_path):
    net = seeded(Mlp)
    first, second = _publish(net, tmp_path), _publish(net, tmp_path)
    assert (first.version, second.version) == (1, 2)
    assert second.path == tmp_path / "net" / "2"
    assert sorted(path.name for path in second.path.iterdir()) == [MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE]
    assert Repository(tmp_path).read("net", 2).manifest == second.manifest


def test_the_same_network_gives_the_same_bytes(tmp_path):
    net = seeded(Mlp)
    first, second = _publish(net, tmp_path), _publish(net, tmp_path)
    for file in (PROGRAM_FILE, WEIGHTS_FILE):
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes()
    assert first.manifest.digest == second.manifest.digest


def test_weights_are_those_of_the_network_and_the_probe_its_first_rows(tmp_path):
    net = seeded(ConvNet)
    rows = rows_for(net, (1, 6, 6), 10)
    path = publish(net, rows, name="net", task="classification", root=tmp_path).path
    stored = safetensors.torch.load((path / WEIGHTS_FILE).read_bytes())
    wanted = {f"weights/{name}": value for name, value in net.state_dict().items() if "num_batches" not in name}
    kept = {name: value for name, value in stored.items() if not name.startswith("probe/")}
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
    assert torch.equal(stored["probe/input"], rows[:8])
    assert stored["probe/mean"].shape == stored["probe/variance"].shape == (8, 3)


class _Mirror(nn.Module):
    """Decodes with the transposed view of the weight that it encodes with."""

    def __init__(self):
        super().__init__()
        self.encode, self.drop = nn.Linear(4, 6), nn.Dropout(0.5)
        self.register_buffer("decode", self.encode.weight.detach().T)

    def forward(self, x):
        return nn.functional.linear(self.drop(self.encode(x)), self.decode)


def test_weights_that_share_memory_are_published_too(tmp_path):
    """safetensors accepts neither views nor tensors that share memory."""
    net = seeded(_Mirror)
    rows = rows_for(net, (4,), 10)
    predictor = Predictor.load(Repository(tmp_path), "net", _publish(net, tmp_path).version)
    assert torch.equal(predictor.program.weights["weights/decode"], net.encode.weight.T)
    ours, live = predictor.predict(rows, PassOptions(4, 1)).mean, predict(net, rows, passes=4, seed=1).mean
    # another memory layout sums in another order: a few roundings of float32
    assert torch.allclose(ours, live, rtol=0.0, atol=8 * torch.finfo(torch.float32).eps)


def test_the_manifest_records_what_the_publisher_says(tmp_path):
    manifest = _publish(
        seeded(ConvNet),
        tmp_path,
        (1, 6, 6),
        name="shapes",
        labels=["ring", "cross", "bar"],
        passes=48,
        seed=7,
        metrics={"accuracy": 0.5},
    ).manifest
    assert (manifest.name, manifest.task, manifest.output, manifest.num_outputs) == (
        "shapes",
        "classification",
        "logits",
        3,
    )
    assert manifest.labels == ("ring", "cross", "bar")
    assert (manifest.passes, manifest.seed, manifest.metrics) == (48, 7, {"accuracy": 0.5})
    assert [(spec.shape, spec.dtype) for spec in manifest.inputs] == [((1, 6, 6), "float32")]
    assert [(site.kind, site.rate) for site in manifest.sites] == [("feature_dropout", 0.25), ("dropout", 0.5)]
    assert manifest.sites[0].module == "drop"
    assert manifest.provenance["torch"] == torch.__version__


@pytest.mark.parametrize(
    "scheme",
    [PassOptions(), PassOptions(sampling="iid"), PassOptions(sampling="balanced", masks="independent", branches=4)],
    ids=str,
)
def test_a_scheme_is_recorded_and_read_back(tmp_path, scheme):
    fields = {"sampling": scheme.sampling, "masks": scheme.masks, "branches": scheme.branches}
    publish(seeded(Mlp), rows_for(Mlp(), (4,), 8), name="net", task="classification", root=tmp_path, **fields)
    manifest = Predictor.load(Repository(tmp_path), "net", 1).manifest
    assert manifest.pass_options == scheme
    assert (manifest.sampling, manifest.masks, manifest.branches) == (scheme.sampling, scheme.masks, scheme.branches)


def test_each_task_has_a_default_output(tmp_path):
    assert _publish(seeded(Mlp), tmp_path).manifest.output == "logits"
    assert _publish(seeded(Mlp), tmp_path, task="regression").manifest.output == "mean"


def test_a_single_logit_has_two_classes(tmp_path):
    manifest = _publish(seeded(lambda: Mlp(1)), tmp_path, labels=["no", "yes"]).manifest
    assert (manifest.num_outputs, manifest.labels) == (2, ("no", "yes"))


def test_one_example_row_is_enough(tmp_path):
    net = seeded(Mlp)
    row = rows_for(net, (4,), 1)
    version = publish(net, (row,), name="net", task="classification", root=tmp_path).version
    assert torch.equal(Predictor.load(Repository(tmp_path), "net", version).probe["input"], torch.cat([row, row]))


def test_the_network_and_the_random_numbers_are_left_as_they_were(tmp_path):
    net = seeded(ConvNet).train()
    net.drop.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    _publish(net, tmp_path, (1, 6, 6))
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def local_source(tmp_path, monkeypatch):
    """A network that is defined in a file on the publisher's machine."""
    path = tmp_path / "private_folder" / "private_source.py"
    path.parent.mkdir()
    path.write_text(_SOURCE)
    spec = importlib.util.spec_from_file_location("private_source", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "private_source", module)
    spec.loader.exec_module(module)
    return path, seeded(module.Net)


def test_a_bundle_reveals_nothing_of_the_publishers_machine(local_source, tmp_path):
    source, net = local_source
    assert any(str(source) in node.where for node in capture(net, torch.ones(2, 4)).graph.nodes)  # capture knows it
    path = _publish(net, tmp_path / "bundles").path
    places = [source.parent, source.name, "private", tmp_path, Path.cwd(), Path(torch.__file__).parent, Path.home()]
    texts = [text for text in map(str, places) if len(text) > 1]  # a home may be "/"
    for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE):
        content = (path / file).read_bytes()
        for text in (*texts, "Traceback", 'File "', ".py", "stack"):
            assert text.encode() not in content, (file, text)


def test_a_bundle_needs_no_code_of_the_publisher(local_source, tmp_path):
    source, net = local_source
    rows = rows_for(net, (4,), 10)
    _publish(net, tmp_path / "bundles")
    source.unlink()
    del sys.modules["private_source"]
    predictor = Predictor.load(Repository(tmp_path / "bundles"), "net", 1)
    assert predictor.predict(rows, PassOptions(4, 0)).mean.shape == (10, 3)


def test_weights_are_safetensors(published):
    """Eight bytes of length, JSON of that length, then numbers and nothing else."""
    content = (published / "net" / "1" / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert ends[0][0] == 0
    assert ends[-1][1] == len(content) - 8 - length
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("make", "fields", "error", "reason"),
    [
        (Coupled, {}, CoupledRows, "must not depend"),
        (Silent, {}, NoSite, "every pass would agree"),
        (lambda: nn.Sequential(nn.Linear(4, 3)), {}, NoSite, "nn.Dropout"),
        (Doubled, {}, NotTheModel, "otherwise than model.eval"),
        (Bessel, {}, InvalidBundle, r"'aten\.special_bessel_j0\.default' \(at .*nets\.py:\d+\)"),
        (Mlp, {"labels": ["a", "b"]}, InvalidInput, "2 labels and 3 outputs"),
        (lambda: Mlp(1), {"labels": ["yes"]}, InvalidInput, "1 labels and 2 outputs"),
        (
            Mlp,
            {"output": "mean"},
            InvalidInput,
            "a classification model cannot have the output mean; choose one of logits",
        ),
        (
            Mlp,
            {"task": "regression", "output": "logits"},
            InvalidInput,
            "a regression model cannot have the output logits; choose one of mean",
        ),
        (Mlp, {"output": "scores"}, InvalidInput, "'scores'; choose one of logits, probabilities, multilabel_logits"),
        (Mlp, {"task": "ranking"}, InvalidInput, "'ranking'; choose one of classification, multilabel, regression"),
        (Mlp, {"output": "probabilities"}, InvalidInput, "are no probabilities"),
        (Mlp, {"task": "regression", "output": "mean_and_log_variance"}, InvalidInput, "3 columns"),
        (Mlp, {"output_scaling": ([1.0] * 3, [0.0] * 3)}, InvalidInput, "output scaling is for regression"),
        (
            Mlp,
            {"task": "regression", "output_scaling": ([1.0] * 2, [0.0] * 2)},
            InvalidInput,
            "one pair for each output",
        ),
        (Mlp, {"task": "regression", "output_scaling": ([1.0] * 3, [0.0])}, InvalidInput, "3 scales and 1 shifts"),
        (Mlp, {"task": "regression", "output_scaling": ([-1.0] * 3, [0.0] * 3)}, InvalidInput, "scales above 0"),
        (Mlp, {"task": "regression", "output_scaling": ([1.0] * 3, [float("nan")] * 3)}, InvalidInput, "finite"),
        (Mlp, {"passes": 0}, InvalidInput, "passes"),
        (Mlp, {"seed": -1}, InvalidInput, "seed"),
        (Mlp, {"metrics": {"rmse": float("inf")}}, InvalidInput, "metrics.rmse"),
    ],
    ids=[
        "coupled rows",
        "dropout switched off",
        "no dropout",
        "another network in training",
        "an operator bundles may not use",
        "too few labels",
        "one label for a single logit",
        "a classification with means",
        "a regression with logits",
        "an unknown output",
        "an unknown task",
        "logits called probabilities",
        "an odd number of means and variances",
        "output scaling of classes",
        "output scaling too short",
        "scales and shifts of two lengths",
        "a negative scale",
        "a shift that is no number",
        "no passes",
        "a negative seed",
        "an infinite metric",
    ],
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(tmp_path, make, fields, error, reason):
    with pytest.raises(error, match=reason):
        _publish(seeded(make), tmp_path / "bundles", **fields)
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Mlp, "Mlp is a class; publish a trained instance of it"),
        (torch.relu, "the model is a builtin_function_or_method, but only a torch.nn.Module can be published"),
        ({"0.weight": torch.ones(4, 4)}, "the model is a dict, .*load a file of weights into the module"),
    ],
    ids=["a class", "a function", "a state dict"],
)
def test_what_is_not_a_module_is_refused_with_advice(tmp_path, model, reason):
    with pytest.raises(InvalidInput, match=reason):
        publish(model, torch.ones(2, 4), name="net", task="classification", root=tmp_path)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        ((torch.ones(2, 4), torch.ones(3, 4)), "2 of "),
        ((), "give a tensor, rows first"),
        ([[1.0, 2.0, 3.0, 4.0]], "list"),
        (torch.ones(0, 4), "at least one row"),
        (torch.tensor(1.0), "without rows"),
    ],
    ids=["rows of two numbers", "no inputs", "a list", "no rows", "a single number"],
)
def test_an_example_that_is_not_a_batch_of_rows_is_refused(tmp_path, example, reason):
    net = seeded(TwoInputs if isinstance(example, tuple) else Mlp)
    with pytest.raises(InvalidInput, match=reason):
        publish(net, example, name="net", task="classification", root=tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()
