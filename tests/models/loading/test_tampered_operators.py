"""Programs that try to reach files, code, memory or random numbers are refused before they do."""

import json

import pytest
import torch

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from tests.support.side_effects import refused
from tests.support.tamper import operation, ref

_SENTINEL = "SENTINEL"  # replaced by a path that must not appear


def _placed(item, path):
    return json.loads(json.dumps(item).replace(_SENTINEL, str(path)))


def test_from_file_would_open_its_file(tmp_path):
    """So that the absence of the file below proves something."""
    torch.ops.aten.from_file.default(str(tmp_path / "opened"), True, 16)
    assert (tmp_path / "opened").exists()


_OUT, _X = ref("linear_1"), ref("input")
_QKV = [ref("cube")] * 3
_FORBIDDEN = {
    "a file mapped into memory": operation("a", "aten.from_file.default", _SENTINEL, True, 16),
    "a shell": operation("a", "os.system", f"touch {_SENTINEL}"),
    "a shell by way of torch": operation("a", "torch.os.system", f"touch {_SENTINEL}"),
    "a subprocess": operation("a", "subprocess.run", ["touch", _SENTINEL]),
    "eval": operation("a", "builtins.eval", f"open('{_SENTINEL}', 'w')"),
    "exec": operation("a", "builtins.exec", f"open('{_SENTINEL}', 'w')"),
    "open": operation("a", "builtins.open", _SENTINEL, "w"),
    "open without a module": operation("a", "open", _SENTINEL, "w"),
    "torch.save": operation("a", "torch.save", _OUT, _SENTINEL),
    "torch.load": operation("a", "torch.load", _SENTINEL),
    "a library": operation("a", "torch.ops.load_library", _SENTINEL),
    "the class of the namespace": operation("a", "aten.__class__", _SENTINEL),
    "the class of an operator": operation("a", "aten.add.__class__"),
    "the constructor of an operator": operation("a", "aten.add.__init__", _SENTINEL),
    "the globals of a function": operation("a", "aten.add.__init__.__globals__"),
    "a private attribute": operation("a", "aten.add._op", _OUT, _OUT),
    "another namespace": operation("a", "prims.sin.default", _OUT),
    "a custom operator": operation("a", "mcdrop.other.default", _OUT),
    "higher order": operation("a", "higher_order.cond", True),
    "a print": operation("a", "aten._print.default", "printed"),
    "an operator in place": operation("a", "aten.add_.Tensor", _OUT, 1),
    "an operator with an out": operation("a", "aten.add.out", _OUT, 1, out=_OUT),
    "a copy into a weight": operation("a", "aten.copy_.default", ref("weights/0.bias"), 0),
    "another storage": operation("a", "aten.set_.source_Tensor", _OUT, _X),
    "uninitialised memory": operation("a", "aten.empty.memory_format", [1, 3]),
    "uninitialised memory like another": operation("a", "aten.empty_like.default", _OUT),
    "storage out of bounds": operation("a", "aten.as_strided.default", _OUT, [1, 3], [1, 1], 1_000_000),
    "a resize": operation("a", "aten.resize.default", _OUT, [1_000_000]),
    "a value as a Python number": operation("a", "aten._local_scalar_dense.default", _OUT),
    "a shape by values": operation("a", "aten.nonzero.default", _OUT),
    "a Bernoulli draw": operation("a", "aten.bernoulli.p", _OUT, 0.5),
    "a normal draw": operation("a", "aten.randn_like.default", _OUT),
    "torch's own dropout": operation("a", "aten.native_dropout.default", _OUT, 0.5, True),
    "a random leaky ReLU": operation("a", "aten.rrelu.default", _OUT, 0.1, 0.3, True),
    "no operator": operation("a", ""),
    "an operator without an overload": operation("a", "aten.relu", _OUT),
    "an operator that is a list": {"name": "a", "target": ["aten.relu.default"], "args": [_OUT], "kwargs": {}},
    "an operator of plain numbers": operation("a", "aten.remainder.int", 1, 0),
    "an operator of texts": operation("a", "aten.add.str", "a", "b"),
}


@pytest.mark.parametrize("node", _FORBIDDEN.values(), ids=_FORBIDDEN)
@pytest.mark.parametrize("place", ["after the network", "where nothing reads it"])
def test_an_operator_that_is_not_allowed_is_refused(bundle, tmp_path, node, place):
    sentinel = tmp_path / "sentinel"
    if place == "after the network":
        bundle.append(_placed(node, sentinel))
    else:
        bundle.program["nodes"].append(_placed(node, sentinel))
    bundle.write(tmp_path / "bundles")
    reason = refused(tmp_path / "bundles")
    assert str(node["target"]) in reason
    assert not sentinel.exists()


_CUBE = operation("cube", "aten.unsqueeze.default", _OUT, 1)
_LSTM = ("aten.lstm.input", ref("cube"), [ref("h"), ref("h")], [ref("weights/0.weight")] * 8, True, 2)
_MISUSED = {
    "attention that drops": (
        [_CUBE, operation("a", "aten.scaled_dot_product_attention.default", *_QKV, None, 0.5)],
        "random",
    ),
    "attention that drops by keyword": (
        [_CUBE, operation("a", "aten.scaled_dot_product_attention.default", *_QKV, dropout_p=0.5)],
        "random",
    ),
    "an LSTM that drops": (
        [_CUBE, operation("h", "aten.relu.default", ref("cube")), operation("a", *_LSTM, 0.5, True, False, True)],
        "random",
    ),
    "an LSTM that drops by keyword": (
        [
            _CUBE,
            operation("h", "aten.relu.default", ref("cube")),
            operation("a", *_LSTM, dropout=0.5, train=True, bidirectional=False, batch_first=True),
        ],
        "random",
    ),
    "batch statistics written into a weight": (
        [
            operation(
                "a",
                "aten.batch_norm.default",
                _OUT,
                None,
                None,
                ref("weights/3.bias"),
                ref("weights/3.bias"),
                True,
                0.1,
                1e-5,
                False,
            )
        ],
        "a bundle's weights never change",
    ),
    "a memory format that is a number": (
        [operation("a", "aten.clone.default", _OUT, memory_format=10**9)],
        "MemoryFormat",
    ),
    "a dtype that is a number": ([operation("a", "aten.softmax.int", _OUT, 1, 10**6)], "ScalarType"),
    "a device of its own": ([operation("a", "aten.zeros.default", [1, 3], device="cuda:0")], "Device"),
    "an unknown interpolation": ([operation("a", "aten.grid_sampler.default", _OUT, _OUT, 7, 0, False)], "0, 1 or 2"),
    "an element by a text": ([operation("a", "getitem", _OUT, "__class__")], "must be an integer"),
    "an element by a list": ([operation("a", "getitem", _OUT, [0, 1])], "must be an integer"),
    "an element of a list": ([operation("a", "getitem", [_OUT], 0)], "must be a node and an index"),
    "an element of nothing": ([operation("a", "getitem")], "must be a node and an index"),
    "an element far away": ([operation("a", "getitem", _OUT, 10**30)], "does not run"),
    "a list as the answer": ([operation("a", "aten.split.Tensor", _OUT, 1)], "does not run"),
    "a size divided by zero": (
        [operation("a", "aten.mul.Scalar", _OUT, {"size": ["floordiv", "rows", 0]})],
        "ZeroDivisionError",
    ),
    "a size modulo zero": ([operation("a", "aten.mul.Scalar", _OUT, {"size": ["mod", 7, 0]})], "ZeroDivisionError"),
    "a number that no operator takes": ([operation("a", "aten.mul.Scalar", _OUT, 10**30)], "OverflowError"),
    "a size that no tensor has": ([operation("a", "aten.expand.default", _OUT, [10**18, 10**18, 3])], "does not run"),
    "a negative size": ([operation("a", "aten.repeat.default", _OUT, [-1, 1])], "does not run"),
    "an index out of bounds": (
        [
            operation("i", "aten.full_like.default", _OUT, 10**12, dtype={"dtype": "int64"}),
            operation("a", "aten.gather.default", _OUT, 1, ref("i")),
        ],
        "does not run",
    ),
    "shapes that do not fit": ([operation("a", "aten.mm.default", _OUT, _OUT)], "does not run"),
    "arguments of the wrong kind": ([operation("a", "aten.relu.default", "text")], "cross it"),
    "too many arguments": ([operation("a", "aten.relu.default", *[_OUT] * 9)], "does not run"),
}


@pytest.mark.parametrize(("nodes", "reason"), _MISUSED.values(), ids=_MISUSED)
def test_an_allowed_operator_with_dangerous_arguments_is_refused(bundle, tmp_path, nodes, reason):
    bundle.append(*nodes)
    bundle.write(tmp_path)
    assert reason in refused(tmp_path)


def test_weights_are_not_written_by_a_load(bundle, tmp_path):
    """Batch norm declares that it is functional, but would write the statistics that are refused above."""
    running = torch.zeros(3)
    torch.ops.aten.batch_norm.default(torch.ones(4, 3), None, None, running, torch.ones(3), True, 0.5, 1e-5, False)
    assert bool((running != 0).all())
    bundle.write(tmp_path)
    weights = Predictor.load(Repository(tmp_path), "net", 1).program.weights
    assert all(torch.equal(weights[name], bundle.tensors[name]) for name in weights)
