"""Our own recurrent operator in a bundle is stored by name and checks its arguments like those of torch."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from dropout_core.layers import VariationalLSTM
from mcdrop_models.bundle.allowed_operators import allowed_operator, operator_name
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import rows_for, seeded
from tests.support.side_effects import refused
from tests.support.tamper import Bundle, ref

_NAME = "mcdrop.rnn.default"
_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Sequences(nn.Module):
    """[B, 5, 4] → [B, 3], with lengths that the network computes from its input."""

    def __init__(self):
        super().__init__()
        self.rnn = VariationalLSTM(4, 6, 2, bidirectional=True, p_input=0.1, p_recurrent=0.3, p_output=0.2)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.rnn(x, (x[..., 0] > -1).sum(1))[0].mean(1))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    net = seeded(Sequences)
    root = tmp_path_factory.mktemp("sequences")
    path = publish(net, rows_for(net, (5, 4), 8), name="net", task="classification", root=root).path
    assert Predictor.load(Repository(root), "net", 1).version == 1
    return Bundle.of(path)


def operations(bundle):
    return [node for node in bundle.program["nodes"] if node.get("target") == _NAME]


def test_the_operator_is_found_again_by_its_name():
    assert operator_name(torch.ops.mcdrop.rnn.default) == _NAME
    assert allowed_operator(_NAME) is torch.ops.mcdrop.rnn.default


def test_reading_bundles_registers_the_operator():
    """In a process that imports nothing else."""
    code = f"from mcdrop_models.bundle.allowed_operators import allowed_operator; print(allowed_operator({_NAME!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _NAME


def test_a_bundle_holds_one_operator_for_each_layer(honest):
    first, second = operations(honest)
    weights = [f"weights/rnn.{kind}_l0{way}" for way in ("", "_reverse") for kind in _KINDS]
    assert first["args"][2] == [ref(name) for name in weights]
    assert first["args"][4:] == second["args"][4:] == [None, None, "lstm", True]
    assert first["args"][1] == second["args"][1]
    assert first["args"][3] != second["args"][3]


def test_loading_one_runs_no_code_and_imports_nothing(honest, tmp_path):
    """Not even torch's compiler, which torch.library.custom_op would load."""
    honest.write(tmp_path)
    code = (
        "import sys; from mcdrop_models.loading.predictor import Predictor; from "
        "mcdrop_models.bundle.repository import Repository; "
        f"Predictor.load(Repository({str(tmp_path)!r}), 'net', 1); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


_SHORT = {
    "a bias": ("bias_hh_l0", lambda w: w[:1]),
    "a bias of the other direction": ("bias_ih_l1_reverse", lambda w: w[:1]),
    "an input's weight with fewer rows": ("weight_ih_l0", lambda w: w[:2]),
    "an input's weight with fewer columns": ("weight_ih_l1", lambda w: w[:, :1]),
    "a state's weight": ("weight_hh_l0", lambda w: w[:, :3]),
    "a state's weight of no units": ("weight_hh_l0_reverse", lambda w: w[:, :0]),
    "a weight of another type": ("weight_hh_l0", lambda w: w.half()),
}


@pytest.mark.parametrize(("name", "change"), _SHORT.values(), ids=_SHORT)
def test_wrong_sizes_are_refused_before_the_kernel(honest, tmp_path, name, change):
    bundle = honest.copy()
    bundle.tensors[f"weights/rnn.{name}"] = change(bundle.tensors[f"weights/rnn.{name}"]).contiguous()
    bundle.write(tmp_path)
    assert "wanted" in refused(tmp_path)


_, _LENGTHS, _WEIGHTS, _, _H0, _C0, _CELL, _BOTH = range(8)
_MISUSED = {
    "a cell that is none": (_CELL, "LSTM", "the cell is 'LSTM'"),
    "another cell": (_CELL, "gru", "wanted"),
    "a cell that is no text": (_CELL, 7, "does not run"),
    "one direction": (_BOTH, False, "wanted"),
    "weights that are one tensor": (_WEIGHTS, ref("weights/head.weight"), "does not run"),
    "no weights": (_WEIGHTS, [], "wanted"),
    "lengths that are a number": (_LENGTHS, 3, "does not run"),
    "lengths that are no lengths": (_LENGTHS, ref("weights/head.bias"), "wanted"),
    "a state of a weight's shape": (_H0, ref("weights/head.weight"), "wanted"),
    "a state of a bias's shape": (_C0, ref("weights/head.bias"), "wanted"),
}


@pytest.mark.parametrize(("place", "argument", "reason"), _MISUSED.values(), ids=_MISUSED)
def test_wrong_arguments_are_refused_before_the_kernel(honest, tmp_path, place, argument, reason):
    bundle = honest.copy()
    operations(bundle)[0]["args"][place] = argument
    bundle.write(tmp_path)
    assert reason in refused(tmp_path)
