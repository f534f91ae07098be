"""A bundle that onnxruntime computes answers as torch does, and one that does not is refused."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from mcdrop_models.architectures.cnn import SmallCNN
from mcdrop_models.architectures.mlp import GaussianMLP
from mcdrop_models.bundle.manifest import PREFIX_FILE, SUFFIX_FILE, manifest_digest, sha256
from mcdrop_models.bundle.repository import MANIFEST_FILE, Repository
from mcdrop_models.errors import InvalidBundle, NotExportable
from mcdrop_models.loading import tunings
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import TuningCache
from mcdrop_models.onnx.runtime.options import Backends, Runtime
from mcdrop_models.publishing.torch import publish
from tests.support.foreign import FOREIGN
from tests.support.program_nets import ConvNet, Mlp, Recurrent, Tokens, Transformer, WeightDropout, rows_for, seeded

SHAPES = {ConvNet: (1, 6, 6), Recurrent: (5, 4), Tokens: (5,), Transformer: (5, 4), WeightDropout: (4,)}
KINDS = {kind.__name__.lower(): kind for kind in SHAPES}
SCHEMES = (
    PassOptions(sampling="iid"),
    PassOptions(sampling="balanced"),
    PassOptions(sampling="iid", masks="independent"),
    PassOptions(sampling="balanced", branches=4),
)


class Both(Repository):
    """Networks that torch and onnxruntime can compute, published when first asked for; the faster one is wanted."""

    def versions(self, name):
        kind = KINDS.get(name)
        if kind is not None and not (self.root / name).exists():
            net = seeded(kind)
            rows = rows_for(net, SHAPES[kind], 8)
            publish(net, rows, name=name, task="classification", root=self.root, backend="auto")
        return super().versions(name)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return Both(tmp_path_factory.mktemp("both"))


def loaded(repository, name, wanted, **more):
    return Predictor.load(repository, name, 1, backends=Backends(wanted), **more)


def computer(predictor):
    return predictor.engine.network.computer


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_measure_is_that_of_torch(kind, scheme, both):
    if kind is WeightDropout and scheme.branches > 1:
        pytest.skip("noise on weights runs pass by pass, and does not branch")
    torchs, onnxs = (loaded(both, kind.__name__.lower(), wanted) for wanted in ("torch", "onnx"))
    assert [computer(torchs), computer(onnxs)] == ["torch", "onnx"]
    for rows, passes, seed in ((0, 3, 0), (1, 1, 1), (7, 21, 2), (300, 5, 3)):
        x = rows_for(kind(), SHAPES[kind], rows)
        wanted, found = (
            one.predict(x, replace(scheme, passes=passes, seed=seed), keep_draws=True) for one in (torchs, onnxs)
        )
        torch.testing.assert_close(found.samples, wanted.samples, rtol=0, atol=1e-5)
        for name in ("mean", "variance", "predictive_entropy", "mutual_information"):
            torch.testing.assert_close(found.measure(name), wanted.measure(name), rtol=0, atol=1e-5)


def _bert():
    """Of up to eight tokens, and how many there are is free."""
    bert, length = FOREIGN["BERT"], torch.export.Dim("length", max=8)
    free = {name: {1: length} for name in bert.inputs}
    return bert.build(), dict(bert.inputs), {"result": bert.result, "dynamic": free}


def _wide():
    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    said = {"task": "regression", "output": "mean_and_log_variance", "output_scaling": ([30.0], [150.0])}
    return GaussianMLP(x.mean(0), x.std(0)), x, said


def _images():
    return SmallCNN((8, 8), 10, 16.0), torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)), {}


@pytest.mark.parametrize("make", [_images, _wide, _bert], ids=["SmallCNN", "GaussianMLP", "BERT"])
def test_the_architectures_and_a_transformer_answer_as_with_torch(make, tmp_path):
    torch.manual_seed(0)
    network, rows, said = make()
    said = {"task": "classification", **said}
    publish(network.eval(), rows, name="net", root=tmp_path, backend="auto", **said)
    torchs, onnxs = (loaded(Repository(tmp_path), "net", wanted) for wanted in ("torch", "onnx"))
    plan = PassOptions(20, 4, sampling="balanced")
    wanted, found = (one.predict(rows, plan) for one in (torchs, onnxs))
    for name in wanted.measures:
        scale = max(1.0, float(wanted.measure(name).abs().max()))
        torch.testing.assert_close(found.measure(name), wanted.measure(name), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", [ConvNet, Recurrent], ids=lambda kind: kind.__name__)
def test_a_tolerance_stops_each_row_where_it_does_for_torch(kind, both):
    x = rows_for(kind(), SHAPES[kind], 40)
    torchs, onnxs = (loaded(both, kind.__name__.lower(), by) for by in ("torch", "onnx"))
    errors = torchs.predict(x, PassOptions(48, 0, sampling="balanced")).standard_error.amax(1)
    plan = PassOptions(256, 0, sampling="balanced", tolerance={"mean": 1.01 * float(errors.median())}, min_passes=32)
    wanted, found = (one.predict(x, plan) for one in (torchs, onnxs))
    assert found.passes_used.tolist() == wanted.passes_used.tolist()
    assert 32 <= int(found.passes_used.min()) < int(found.passes_used.max())


def test_the_bundle_says_who_computes_and_a_server_may_say_otherwise(both):
    assert computer(Predictor.load(both, "tokens", 1)) == "torch"  # auto, and nothing was measured
    assert computer(loaded(both, "tokens", "onnx")) == "onnx"
    assert computer(loaded(both, "tokens", "torch")) == "torch"


@pytest.mark.parametrize(("torch_s", "onnx_s", "wanted"), [(1.0, 2.0, "torch"), (2.0, 1.0, "onnx")])
def test_who_is_faster_is_measured_once(torch_s, onnx_s, wanted, both, tmp_path, monkeypatch):
    measured = []

    def seconds(engine, program, example, count):
        measured.append((engine.network.computer, count))
        return torch_s if measured[-1][0] == "torch" else onnx_s

    monkeypatch.setattr(tunings, "seconds", seconds)
    for _ in range(2):
        assert computer(loaded(both, "tokens", "auto", tunings=TuningCache(tmp_path))) == wanted
    assert sorted(measured) == [(name, count) for name in ("onnx", "torch") for count in (1, 32)]


def test_a_bundle_without_onnx_is_computed_by_torch_or_refused(published):
    assert computer(loaded(Repository(published), "net", "auto")) == "torch"
    with pytest.raises(InvalidBundle, match="torch only, but the backend is onnx"):
        loaded(Repository(published), "net", "onnx")


def test_a_number_that_a_table_has_no_row_for_is_an_error_of_the_input(both):
    with pytest.raises(InvalidInput, match="holds 10, but the network knows 0 … 9"):
        loaded(both, "tokens", "onnx").predict(torch.full((2, 5), 10), PassOptions(sampling="iid"))


def test_without_onnxruntime_gpu_the_processor_computes_and_says_so(both, caplog):
    with caplog.at_level(logging.WARNING):
        predictor = Predictor.load(both, "convnet", 1, backends=Backends("onnx", Runtime(device="cuda:0")))
    assert computer(predictor) == "onnx"
    assert "install onnxruntime-gpu" in caplog.text


_BOUNDED = """
import sys, torch
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.onnx.runtime.options import Backends, Runtime
from tests.support.foreign import FOREIGN
from tests.support.program_nets import ConvNet, rows_for
torch.set_num_threads(1)
x = rows_for(ConvNet(), (1, 6, 6), 5000)
runtime = Runtime(max_bytes=int(sys.argv[2]) or None)
predictor = Predictor.load(Repository(sys.argv[1]), "convnet", 1, backends=Backends("onnx", runtime))
estimate = predictor.predict(x, passes=32, seed=0, sampling="iid")
print(predictor.engine.chunk_rows(predictor.program.weights, x), estimate.mean.sum(0).tolist())
"""


def test_within_few_bytes_fewer_rows_go_at_once_and_the_answer_is_the_same(both):
    """In processes of their own: a process has one bound."""
    assert both.versions("convnet") == [1]
    answers = []
    for most in (0, 2**20):
        done = subprocess.run(
            [sys.executable, "-c", _BOUNDED, both.root, str(most)], capture_output=True, text=True, check=True
        )
        rows, answer = done.stdout.split(" ", 1)
        answers.append(json.loads(answer))
    assert int(rows) > 64
    torch.testing.assert_close(torch.tensor(answers[1]), torch.tensor(answers[0]), rtol=1e-6, atol=0)


def test_weights_that_fill_the_bound_are_refused(both):
    """In a process of its own, as above."""
    assert both.versions("convnet") == [1]
    filled = (
        "import mcdrop_models.onnx.runtime.session as s; s.other = type('Other', (), {}); "
        "s._held[s.other] = 2**19 - 100"
    )
    program = _BOUNDED.replace("5000", "1").replace("predictor = ", filled + "\npredictor = ", 1)
    done = subprocess.run(
        [sys.executable, "-c", program, both.root, str(2**20)], capture_output=True, text=True, check=False
    )
    assert "InvalidBundle: prefix.onnx has" in done.stderr
    assert "at most half may be weights" in done.stderr


class Named(nn.Module):
    """[B, 4] → [B, 3], by an input with a name of ours."""

    def __init__(self):
        super().__init__()
        self.rest = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, output):
        return self.rest(output)


def test_an_input_may_not_have_the_name_of_a_value_of_ours(tmp_path):
    with pytest.raises(NotExportable, match="an input is called 'output'"):
        publish(Named(), torch.ones(4, 4), name="net", task="classification", root=tmp_path, backend="onnx")
    assert publish(Named(), torch.ones(4, 4), name="net", task="classification", root=tmp_path).version == 1


def tampered(both, tmp_path, change):
    """The convolutional network with another suffix, every digest made to fit."""
    assert both.versions("convnet") == [1]
    (folder := tmp_path / "convnet" / "1").mkdir(parents=True)
    for file in (both.root / "convnet" / "1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = onnx.load(folder / SUFFIX_FILE)
    change(model)
    (folder / SUFFIX_FILE).write_bytes(model.SerializeToString())
    fields = json.loads((folder / MANIFEST_FILE).read_text()) | {
        "onnx_suffix": sha256((folder / SUFFIX_FILE).read_bytes())
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(fields | {"digest": manifest_digest(fields)}))
    return Repository(tmp_path)


def _deaf(model):
    """Let the noise reach nothing: each site sees zeros times it, plus one."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for value in [one for one in model.graph.input if one.name.startswith("noise.")]:
        one, zero = f"{value.name}/one", f"{value.name}/zero"
        for name, number in ((one, 1.0), (zero, 0.0)):
            model.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [number]))
        model.graph.node.append(helper.make_node("Mul", [value.name, zero], [f"{value.name}/nothing"]))
        model.graph.node.append(helper.make_node("Add", [f"{value.name}/nothing", one], [f"{value.name}/deaf"]))
        for node in nodes:
            if node.op_type != "Shape":
                node.input[:] = [f"{value.name}/deaf" if name == value.name else name for name in node.input]
    model.graph.node.extend(nodes)


def _scaled(model):
    """Answer a thousandth more."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}/before" if name == output else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("more", onnx.TensorProto.FLOAT, [], [1.001]))
    model.graph.node.append(helper.make_node("Mul", [f"{output}/before", "more"], [output]))


def _renamed(model):
    for value in model.graph.input:
        for node in model.graph.node:
            node.input[:] = [f"{name}/other" if name == value.name else name for name in node.input]
        value.name += "/other"


def _elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_deaf, "agree to the last digit"),
        (_scaled, "not the one published"),
        (_renamed, "not the halves of the network"),
        (_elsewhere, "external|another file|outside"),
    ],
)
def test_another_suffix_is_refused(change, reason, both, tmp_path):
    repository = tampered(both, tmp_path, change)
    with pytest.raises(InvalidBundle, match=reason):
        Predictor.load(repository, "convnet", 1, backends=Backends("onnx"))


@pytest.mark.parametrize("file", [PREFIX_FILE, SUFFIX_FILE])
def test_a_file_that_was_changed_is_refused_by_its_digest(file, both, tmp_path):
    repository = tampered(both, tmp_path, lambda model: None)
    path = tmp_path / "convnet" / "1" / file
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"{file} of convnet/1 does not match its digest" in repository.entry("convnet", 1).reason
    with pytest.raises(InvalidBundle, match=f"{file} of convnet/1 does not match its digest"):
        Predictor.load(repository, "convnet", 1)


def test_models_of_torch_alone_do_not_load_onnxruntime(published):
    program = (
        "import sys; from mcdrop_models.loading.predictor import Predictor; from "
        "mcdrop_models.bundle.repository import Repository;"
        f"Predictor.load(Repository({str(published)!r}), 'net', 1);"
        "assert not {'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_bundle_of_before_keeps_its_digest(published, both):
    fields = json.loads((published / "net" / "1" / MANIFEST_FILE).read_text())
    before = {key: value for key, value in fields.items() if key not in ("backend", "onnx_prefix", "onnx_suffix")}
    assert manifest_digest(before) == fields["digest"]
    mlp = seeded(Mlp)
    version = publish(mlp, rows_for(mlp, (4,), 8), name="mlp", task="classification", root=both.root, backend="auto")
    assert version.manifest.backend == "auto"
    assert version.manifest.onnx_suffix is not None
