"""What is refused, with what reason: files that are no model or too much of one, and graphs that cannot be sampled."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dropout_core.errors import CaptureError, CoupledRows, InvalidInput, NoSite, UnknownRandomness
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.from_onnx.read import imported
from mcdrop_models.onnx.graph import checks
from mcdrop_models.onnx.graph.checks import parsed
from tests.support.onnx_models import built

HALF = np.array(0.5, np.float32)
WEIGHTS = {"w": (4, 3), "p": HALF}
SMALL = built("g (float[n, 4] x) => (float[n, 3] y) { t = Tanh(x)  d = Dropout(t, p)  y = MatMul(d, w) }", WEIGHTS)


def _edited(edit, content=SMALL):
    model = onnx.ModelProto.FromString(content)
    edit(model)
    return model.SerializeToString()


def _graph(body, inputs="float[n, 4] x", output="float[n, 3] y", **weights):
    return built(f"g ({inputs}) => ({output}) {{ {body} }}", {**WEIGHTS, **weights})


# what is wrong: the bytes, the error, and what it says
GRAPHS = {
    "no site": (_graph("t = Tanh(x)  y = MatMul(t, w)"), NoSite, "no node .* draws random numbers"),
    "a fixed batch": (
        _graph("d = Dropout(x, p)  y = MatMul(d, w)", "float[2, 4] x"), InvalidBundle,
        "'x' has the fixed size 2; .*dynamic batch axis",
    ),
    "a batch fixed inside": (
        _graph("d = Dropout(x, p)  r = Reshape(d, s)  y = MatMul(r, w)", s=np.array([2, 4])), InvalidBundle,
        r"does not run for x \[3, 4\].*dynamic batch axis",
    ),
    "a mean over rows": (
        _graph("m = ReduceMean(x, z)  c = Sub(x, m)  d = Dropout(c, p)  y = MatMul(d, w)", z=np.array([0])),
        CoupledRows, r"shape \[rows…, 4\] at Sub 'c' mixes rows: changing one row changes another's",
    ),
    "a mean over rows after the noise": (
        _graph("d = Dropout(x, p)  m = ReduceMean(d, z)  c = Sub(d, m)  y = MatMul(c, w)", z=np.array([0])),
        CoupledRows, "at MatMul .* mixes rows",
    ),
    "one answer for all": (
        _graph("d = Dropout(x, p)  m = MatMul(d, w)  y = ReduceMean(m, z)", output="float[1, 3] y", z=np.array([0])),
        CoupledRows, "mixes rows: all rows share one value",
    ),
    "rows last": (
        _graph("d = Dropout(x, p)  m = MatMul(d, w)  y = Transpose(m)", output="float[3, n] y"), CoupledRows,
        r"the output has shape \[3, rows\]; one row for each",
    ),
    "no classes": (
        _graph("d = Dropout(x, p)  y = ReduceSum <keepdims = 0> (d, z)", output="float[n] y", z=np.array([1])),
        CoupledRows, r"the output has shape \[rows\]; .* then its classes",
    ),
    "free classes": (
        _graph("y = Dropout(x, p)", "float[n, m] x", "float[n, m] y"), InvalidInput,
        "'x' leaves m open; give an example",
    ),
    "as many rows as entries": (
        _graph("y = Dropout(x, p)", "float[n, n] x", "float[n, n] y"), CoupledRows, "the number of rows is in it",
    ),
    "integers": (
        _graph("d = Dropout(x, p)  y = Cast <to = 7> (d)", output="int64[n, 4] y"), CaptureError,
        "the output is torch.int64; name a result of floats",
    ),
    "noise on integers": (
        _graph("i = Cast <to = 7> (x)  u = RandomUniformLike(i)  f = Cast <to = 1> (u)  y = MatMul(f, w)"),
        (CaptureError, InvalidBundle), "int64",
    ),
    "a used mask": (
        _graph("d, m = Dropout(x, p)  f = Cast <to = 1> (m)  y = MatMul(f, w)"), CaptureError,
        "the mask 'm' of Dropout 'd'",
    ),
    "a computed ratio": (
        _graph("q = Sigmoid(p)  d = Dropout(x, q)  y = MatMul(d, w)"), CaptureError,
        "the ratio of Dropout 'd' is computed",
    ),
    "a ratio of 1": (
        _graph("d = Dropout(x, q)  y = MatMul(d, w)", q=np.array(1.0, np.float32)), CaptureError, r"is 1.0; 0 up to",
    ),
    "unknown noise": (
        _graph("d = Multinomial <sample_size = 3> (x)  y = Cast <to = 1> (d)"), UnknownRandomness, "Multinomial 'd'",
    ),
    "huge noise": (
        _graph("u = RandomNormal <shape = [1099511627776]> ()  a = ReduceMax <keepdims = 0> (u)  b = Add(x, a)"
               " y = MatMul(b, w)"), CaptureError, r"draws \[1099511627776\] numbers; up to",
    ),
    "no data after the noise": (
        _graph("k = Tanh(w)  d = Dropout(k, p)  s = Shape <end = 1> (x)  t = Concat <axis = 0> (s, three)"
               " r = ReduceSum(d, z)  y = Expand(r, t)", three=np.array([3]), z=np.array([0])), CaptureError,
        "does not depend on its inputs",
    ),
    "a sequence that noise meets": (
        _graph("s = SequenceConstruct(x, x)  d = Dropout(x, p)  e = SequenceInsert(s, d)  f = SequenceAt(e, zero)"
               " y = MatMul(f, w)", zero=np.array(0)), CaptureError, "'s' is a sequence_type",
    ),
    "an input of ours": (
        _graph("d = Dropout(output, p)  y = MatMul(d, w)", "float[n, 4] output"), InvalidInput,
        "named 'output'; rename it",
    ),
    "no rows": (
        _graph("d = Dropout(x, p)  q = Mul(d, s)  y = MatMul(q, w)", "float[n, 4] x, float s"), InvalidBundle,
        "'s' is no tensor of rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_cannot_be_sampled(name):
    content, error, says = GRAPHS[name]
    with pytest.raises(error, match=says):
        imported(content)


def _branch(value):
    made = helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 4])
    return helper.make_graph([helper.make_node("Neg", [value], ["s"])], "b", [], [made])


def test_noise_within_a_branch_and_a_branch_after_noise():
    def within(model):
        inner = _branch("t")
        inner.node[0].op_type = "Dropout"
        model.graph.node[1].CopyFrom(helper.make_node("If", ["on"], ["d"], then_branch=inner, else_branch=_branch("t")))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))

    def after(model):
        node = helper.make_node("If", ["on"], ["e"], then_branch=_branch("d"), else_branch=_branch("d"))
        model.graph.node.insert(2, node)
        model.graph.node[3].input[0] = "e"
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))

    with pytest.raises(CaptureError, match="Dropout 's' draws random numbers within If 'd'"):
        imported(_edited(within))
    with pytest.raises(CaptureError, match="noise reaches If 'e', a branch or a loop"):
        imported(_edited(after))


def test_statistics_of_a_batch_that_are_used():
    body = "h, m, v = BatchNormalization <training_mode = 1> (x, a, a, a, a)  c = Add(h, m)  d = Dropout(c, p)"
    with pytest.raises(CaptureError, match=r"its statistics m are used; export .* in eval mode"):
        imported(_graph(body + "  y = MatMul(d, w)", a=np.ones(4, np.float32)))


def _external(model):
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def _custom(model):
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _calls(model):
    for name, called in (("A", "B"), ("B", "A")):
        body = [helper.make_node(called, ["a"], ["b"], domain="own")]
        own = helper.make_opsetid("own", 1)
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], body, [own]))
    model.graph.node[0].op_type, model.graph.node[0].domain = "A", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))


def _doubling(model):
    """Sixty functions, each twice the one before: 2^60 nodes written out."""
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 18)]
    for depth in range(60):
        name = {"op_type": "Neg"} if not depth else {"op_type": f"F{depth - 1}", "domain": "own"}
        body = [
            helper.make_node(inputs=["a"], outputs=["b"], **name),
            helper.make_node(inputs=["b"], outputs=["c"], **name),
        ]
        model.functions.append(helper.make_function("own", f"F{depth}", ["a"], ["c"], body, opsets))
    model.graph.node[0].op_type, model.graph.node[0].domain = "F59", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))


def _nested(model):
    graph = _branch("x")
    for _ in range(9):
        outer = _branch("x")
        outer.node[0].CopyFrom(helper.make_node("If", ["on"], ["s"], then_branch=graph, else_branch=_branch("x")))
        graph = outer
    model.graph.node[0].CopyFrom(helper.make_node("If", ["on"], ["t"], then_branch=graph, else_branch=_branch("x")))


def _sparse(model):
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend([4, 3])
    sparse.values.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]))


def _version(model):
    model.opset_import[0].version = 99


def _ir(model):
    model.ir_version = 2


def _bomb(model):
    model.graph.initializer[0].dims[:] = [2**40, 3]


def _cycle(model):
    model.graph.node[0].input[0] = "d"


def _missing(model):
    del model.graph.node[1]


def _often(model):
    """A function of 400 nodes, called 400 times."""
    names = [f"v{step}" for step in range(401)]
    body = [helper.make_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    model.functions.append(helper.make_function("own", "F", ["v0"], ["v400"], body, [helper.make_opsetid("", 18)]))
    for step in range(400):
        model.graph.node.append(helper.make_node("F", ["y"], [f"more{step}"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))


FILES = {
    "a long function, often": (_often, "functions .* write out to more than"),
    "external data": (_external, "'w' lies in another file; save the model as one file"),
    "a custom operator": (_custom, r"com\.microsoft\.Tanh, which is no standard operator"),
    "functions in a ring": (_calls, "functions .* call themselves"),
    "functions without end": (_doubling, "functions .* write out to more than"),
    "graphs in graphs": (_nested, "nested more than 8 deep"),
    "sparse weights": (_sparse, "sparse weights"),
    "an opset of the future": (_version, r"opset 99; 1 to \d+ are known"),
    "an old file format": (_ir, "IR version 2; 3 to"),
    "a shape without its bytes": (_bomb, r"says its shape is \[1099511627776, 3\] and has \d+ bytes"),
    "a cycle": (_cycle, "invalid: .*topologically sorted"),
    "a value from nowhere": (_missing, "invalid: "),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_refused(name):
    edit, says = FILES[name]
    with pytest.raises(InvalidBundle, match=says):
        imported(_edited(edit))


@pytest.mark.parametrize(
    ("limit", "says"),
    [("MAX_BYTES", "bytes; fewer than 2"), ("MAX_NODES", "3 nodes; 2 are"),
     ("MAX_WEIGHTS", "2 weights and constants; 1 are"),
     ("MAX_AXES", "at most 1 axes"), ("MAX_NAME", "characters; 2 are")],
)  # fmt: skip
def test_limits(monkeypatch, limit, says):
    parsed(SMALL)
    monkeypatch.setattr(checks, limit, 1 if limit in {"MAX_AXES", "MAX_WEIGHTS"} else 2)
    with pytest.raises(InvalidBundle, match=says):
        parsed(SMALL)


def test_examples_that_do_not_fit():
    with pytest.raises(InvalidInput, match=r"x is torch.float64 of 2 axes; torch.float32 of 2"):
        imported(SMALL, torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(InvalidInput, match=r"the inputs that came are z; the network takes x"):
        imported(SMALL, {"z": torch.zeros(2, 4)})
    with pytest.raises(InvalidBundle, match=r"does not run for x \[3, 5\]"):
        imported(SMALL, torch.randn(2, 5))
    large = _graph(
        "d = Dropout(x, p)  y = ReduceSum(d, z)", "float[n, 1099511627776] x", "float[n, 1] y", z=np.array([1])
    )
    with pytest.raises(InvalidInput, match=r"has the shape \[1099511627776\]; give an example"):
        imported(large)
