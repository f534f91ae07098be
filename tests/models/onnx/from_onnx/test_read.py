"""A model from elsewhere: its noise as inputs, and t passes at once the same as t runs of its own graph."""

from functools import cache, partial

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dropout_core.errors import InvalidInput, NotTheModel
from dropout_core.graph.program import FreeDimension, RowAxis
from dropout_core.graph.sizes import Size
from mcdrop_models.onnx.from_onnx import read as importing
from mcdrop_models.onnx.from_onnx.read import imported
from mcdrop_models.onnx.from_onnx.split import halves
from tests.support.onnx_models import Attention, built, convolutions, draws, exported, replayed, sampled
from tests.support.program_nets import seeded


def _rows(*shape, dtype=torch.float32):
    return torch.randn(7, *shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def _of_torch(make, shape, *, dynamo):
    return exported(seeded(make), torch.randn(2, *shape), dynamo=dynamo)


MLP = partial(
    built,
    """g (float[n, 4] x) => (float[n, 3] y) {
        h = Gemm(x, w, b)  r = Relu(h)  d = Dropout(r, p, on)  y = Gemm(d, v) }""",
    {"w": (4, 6), "b": (6,), "v": (6, 3), "p": np.array(0.4, np.float32), "on": np.array(True)},
)
# name: the bytes, the shape of a row, the layout of the sites, of what crosses, and the kinds
CASES = {
    "mlp": (MLP, (4,), [RowAxis(0)], {"r": RowAxis(0)}, "dropout"),
    "of inputs": (
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            d = Dropout(x, p)  s = Add(d, x)  y = MatMul(s, w) }""", {"w": (4, 3), "p": np.array(0.5, np.float32)}),
        (4,), [RowAxis(0)], {"x": RowAxis(0)}, "dropout",
    ),
    "all operators": (
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            h = MatMul(x, w)  p = Sigmoid(h)
            k = Bernoulli <seed = 1.0> (p)
            u = RandomUniformLike <low = 0.5, high = 2.0> (h)
            z = RandomNormalLike <mean = 0.25, scale = 0.5> (h)
            m = Mul(h, k)  s = Mul(m, u)  o = Add(s, z)  y = MatMul(o, v) }""", {"w": (4, 6), "v": (6, 3)}),
        (4,), [RowAxis(0)] * 3, {"p": RowAxis(0), "h": RowAxis(0)}, "bernoulli uniform normal",
    ),
    "of another type": (  # draws like an integer tensor, and integer draws
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            i = Cast <to = 7> (x)  u = RandomUniformLike <dtype = 1> (i)  z = RandomNormalLike <dtype = 1> (i)
            p = Sigmoid(x)  k = Bernoulli <dtype = 7> (p)  f = Cast <to = 1> (k)
            a = Add(u, z)  c = Mul(a, f)  y = MatMul(c, w) }""", {"w": (4, 3)}),
        (4,), [RowAxis(0)] * 3, {"mcdrop.site/1": RowAxis(0), "mcdrop.site/2": RowAxis(0), "p": RowAxis(0)},
        "uniform normal bernoulli",
    ),
    "of a constant rate": (  # a tensor of one probability, as large as the batch
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            h = MatMul(x, w)  s = Shape(h)  e = Expand(p, s)  k = Bernoulli(e)  m = Mul(h, k)
            all = Size(h)  f = Cast <to = 1> (all)  o = Div(f, f)  c = Mul(m, o)  y = MatMul(c, v) }""",
            {"w": (4, 6), "v": (6, 3), "p": np.array(0.7, np.float32)}),
        (4,), [RowAxis(0)], {"h": RowAxis(0)}, "bernoulli",
    ),
    "length first": (
        partial(built, """g (float[n, 2, 4] x) => (float[n, 3] y) {
            h = Transpose <perm = [1, 0, 2]> (x)  t = Tanh(h)  d = Dropout(t, p)  s = Add(d, t)
            c = Transpose <perm = [1, 0, 2]> (s)  f = Flatten(c)  y = MatMul(f, w) }""",
            {"w": (8, 3), "p": np.array(0.5, np.float32)}),
        (2, 4), [RowAxis(1)], {"t": RowAxis(1)}, "dropout",
    ),
    "positions folded in": (
        partial(built, """g (float[n, 2, 4] x) => (float[n, 2, 3] y) {
            f = Reshape(x, flat)  t = Tanh(f)  d = Dropout(t, p)  s = Add(d, t)  m = MatMul(s, w)
            y = Reshape(m, apart) }""",
            {"w": (4, 3), "p": np.array(0.5, np.float32), "flat": np.array([-1, 4]), "apart": np.array([-1, 2, 3])}),
        (2, 4), [RowAxis(0, 1, 2)], {"t": RowAxis(0, 1, 2)}, "dropout",
    ),
    "copies of the batch": (
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            m = Neg(x)  c = Concat <axis = 0> (x, m)  d = Dropout(c, p)  s = Add(d, c)
            a, b = Split <axis = 0, num_outputs = 2> (s)  e = Mul(a, b)  y = MatMul(e, w) }""",
            {"w": (4, 3), "p": np.array(0.5, np.float32)}),
        (4,), [RowAxis(0, 2, 1)], {"c": RowAxis(0, 2, 1)}, "dropout",
    ),
    "a name of ours": (
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            output = Tanh(x)  d = Dropout(output, p)  y = MatMul(d, w) }""",
            {"w": (4, 3), "p": np.array(0.5, np.float32)}),
        (4,), [RowAxis(0)], {"own.output": RowAxis(0)}, "dropout",
    ),
    "an older opset": (
        partial(built, """g (float[n, 4] x) => (float[n, 3] y) {
            h, mean, var, m, v = BatchNormalization(x, a, a, b, c)  d = Dropout <ratio = 0.3> (h)
            y = MatMul(d, w) }""",
            {"w": (4, 3), **dict.fromkeys("ac", np.full(4, 2.0, np.float32)), "b": (4,)}, opset=11, ir=6),
        (4,), [RowAxis(0)], {"h": RowAxis(0)}, "dropout",
    ),
    "a newer opset": (partial(MLP, opset=22, ir=10), (4,), [RowAxis(0)], {"r": RowAxis(0)}, "dropout"),
    **{
        f"{name}, {'dynamo' if dynamo else 'script'}": (
            partial(_of_torch, make, shape, dynamo=dynamo), shape, [RowAxis(0)] * sites, None,
            " ".join(["dropout"] * sites),
        )
        for name, make, shape, sites in (("attention", Attention, (3, 3), 3), ("cnn", convolutions, (1, 4, 4), 2))
        for dynamo in (True, False)
    },
}  # fmt: skip


@cache
def _case(name):
    make, shape, *_ = CASES[name]
    content = make()
    network = imported(content)
    return content, network, {network.graph.inputs[0].name: _rows(*shape).numpy()}


def _close(found, wanted):
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("masks", ["shared", "independent"])
@pytest.mark.parametrize("name", CASES)
def test_passes_at_once_are_runs_of_the_model_itself(name, masks):
    content, network, rows = _case(name)
    noise = draws(network, rows, seed=3, passes=4, masks=masks)
    found = sampled(network, rows, noise, 4)
    wanted = replayed(content, network, rows, noise, 4)
    assert not np.allclose(wanted[0], wanted[1], atol=1e-3)  # there is something to get wrong
    _close(found, wanted)


@pytest.mark.parametrize("name", CASES)
def test_sites_and_their_rows(name):
    _, network, _ = _case(name)
    *_, sites, crossing, kinds = CASES[name]
    assert [site.rows for site in network.graph.sites] == sites
    assert " ".join(site.kind for site in network.graph.sites) == kinds
    assert [site.index for site in network.graph.sites] == list(range(len(sites)))
    assert crossing is None or network.graph.boundary == crossing
    assert network.graph.output == "output"


@pytest.mark.parametrize("name", CASES)
def test_one_row_and_one_pass(name):
    content, network, rows = _case(name)
    rows = {key: value[:1] for key, value in rows.items()}
    noise = draws(network, rows, seed=4, passes=1, masks="shared")
    _close(sampled(network, rows, noise, 1), replayed(content, network, rows, noise, 1))


def test_halves_are_plain_files_for_many_runtimes():
    _, network, _ = _case("attention, dynamo")
    for half in (network.halves.prefix, network.halves.suffix):
        onnx.checker.check_model(half, full_check=True)
        assert not half.functions
        assert not any(node.doc_string or node.metadata_props for node in half.graph.node)
        assert b".py" not in half.SerializeToString()
    old = _case("an older opset")[1].halves.suffix
    assert (old.ir_version, [(one.domain, one.version) for one in old.opset_import]) == (8, [("", 18)])
    newer = _case("a newer opset")[1].halves.suffix
    assert (newer.ir_version, newer.opset_import[0].version) == (10, 22)


def test_rates_are_those_of_the_model_before_they_were_rounded():
    assert [site.rate for site in _case("mlp")[1].graph.sites] == [0.4]
    assert [site.rate for site in _case("cnn, script")[1].graph.sites] == [0.2, 0.5]
    assert [site.rate for site in _case("an older opset")[1].graph.sites] == [0.3]


def test_a_site_is_called_by_its_node():
    modules = [site.module for site in _case("attention, script")[1].graph.sites]
    assert modules == ["/drop/Dropout", "/drop_1/Dropout", "/drop_2/Dropout"]


def test_dropout_of_ratio_0_is_none():
    content = built(
        """g (float[n, 4] x) => (float[n, 3] y) {
            a = Dropout(x, zero, on)  d = Dropout(a, half, off)  y = MatMul(d, w) }""",
        {"w": (4, 3), "zero": np.array(0.0, np.float32), "half": np.array(0.5, np.float32),
         "on": np.array(True), "off": np.array(False)},
    )  # fmt: skip
    (site,) = imported(content).graph.sites  # off or on, the second one is
    assert (site.name, site.rate) == ("d", 0.5)


def test_noise_on_weights_comes_one_pass_at_a_time():
    content = built(
        """g (float[n, 4] x) => (float[n, 3] y) {
            z = RandomNormal <shape = [4, 3], scale = 0.5> ()  u = RandomUniform <shape = [3], low = 1.0, high = 2.0> ()
            a = Add(w, z)  h = Tanh(x)  m = MatMul(h, a)  y = Mul(m, u) }""",
        {"w": (4, 3)},
    )
    network = imported(content)
    assert [(site.kind, site.rows) for site in network.graph.sites] == [("normal", None), ("uniform", None)]
    rows = {"x": _rows(4).numpy()}
    noise = draws(network, rows, seed=3, passes=1, masks="shared")
    assert [value.shape for value in noise.values()] == [(4, 3), (3,)]
    _close(sampled(network, rows, noise, 1), replayed(content, network, rows, noise, 1))


def test_free_dimensions_and_several_inputs():
    content = built(
        """g (float[n, length, 4] x, int64[n, length] i) => (float[n, length, 3] y) {
            t = Tanh(x)  e = Gather(table, i)  h = Add(t, e)  d = Dropout(h, p)
            s = Shape(h)  rows = Gather(s, zero)  long = Gather(s, one)  product = Mul(rows, long)
            flat = Concat <axis = 0> (product, four)  f = Reshape(d, flat)  m = MatMul(f, w)
            ahead = Shape <end = -1> (t)  apart = Concat <axis = 0> (ahead, three)  o = Reshape(m, apart)
            before = Size(t)  after = Size(o)  ratio = Div(after, before)  r = Cast <to = 1> (ratio)  z = Sub(r, r)
            v = Add(o, z)  h3 = Slice(h, zero, three, two)  y = Add(v, h3) }""",
        {"w": (4, 3), "table": (5, 4), "p": np.array(0.5, np.float32), "zero": np.array([0]), "one": np.array([1]),
         "two": np.array([2]), "three": np.array([3]), "four": np.array([4])},
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="'x' leaves length open; give an example"):
        imported(content)
    network = imported(content, {"x": _rows(4, 4), "i": torch.arange(28).reshape(7, 4) % 5})
    assert network.graph.free == (FreeDimension("length", 1),)
    assert network.graph.positions == (Size("length"),)
    assert [spec.shape for spec in network.graph.inputs] == [("length", 4), ("length",)]
    assert network.graph.boundary == dict.fromkeys(("h", "h3", "t"), RowAxis(0))
    for length in (1, 4, 9):
        rows = {"x": _rows(length, 4).numpy(), "i": np.arange(7 * length).reshape(7, length) % 5}
        noise = draws(network, rows, seed=3, passes=3, masks="shared")
        _close(sampled(network, rows, noise, 3), replayed(content, network, rows, noise, 3))


def test_a_local_function_is_written_out():
    model = onnx.ModelProto.FromString(MLP())
    body = [helper.make_node("Dropout", ["a", "b", "c"], ["d"])]
    opset = helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("local", "Noisy", ["a", "b", "c"], ["d"], body, [opset]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = model.graph.node[2]
    node.op_type, node.domain = "Noisy", "local"
    rows = {"x": _rows(4).numpy()}
    plain, network = imported(MLP()), imported(model.SerializeToString())
    noise = draws(plain, rows, seed=3, passes=3, masks="shared")
    np.testing.assert_array_equal(sampled(network, rows, noise, 3), sampled(plain, rows, noise, 3))


def test_double_and_half_precision():
    for kind, dtype, tolerance in (
        (TensorProto.DOUBLE, torch.float64, 1e-12),
        (TensorProto.FLOAT16, torch.float16, 4e-3),
    ):
        content = built(
            f"""g (float[n, 4] x) => (float[n, 3] y) {{
                c = Cast <to = {kind}> (x)  t = Tanh(c)  d = Dropout(t, p)  u = RandomUniformLike(d)  a = Add(d, u)
                f = Cast <to = 1> (a)  y = MatMul(f, w) }}""",
            {"w": np.eye(4, 3, dtype=np.float32), "p": np.array(0.1, np.float32)},
        )
        network = imported(content)
        declared = {one.name: one.type.tensor_type.elem_type for one in network.halves.suffix.graph.input}
        assert declared["noise.0"] == (TensorProto.DOUBLE if dtype == torch.float64 else TensorProto.FLOAT)
        assert declared["noise.1"] == kind
        rows = torch.tensor([[0.3, -0.2, 0.7, 0.1]])
        mask = np.array([1.25, 0.0, 1.25, 1.0]).astype(np.float64 if dtype == torch.float64 else np.float32)
        feeds = {
            "noise.0": mask.reshape(1, 1, 1, 1, 4),
            "noise.1": np.full((1, 1, 1, 1, 4), 0.25, np.float64 if dtype == torch.float64 else np.float16),
        }
        found = sampled(network, {"x": rows.numpy()}, feeds, 1)
        wanted = torch.tanh(rows.double())[0, :3].numpy() * mask[:3] + 0.25
        np.testing.assert_allclose(found[0, 0], wanted, atol=max(tolerance, 1e-6))


def test_a_prefix_keeps_its_branches_and_a_result_may_be_any_value():
    model = onnx.ModelProto.FromString(MLP())
    then = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["s"])], "t", [], [helper.make_tensor_value_info("s", 1, ["n", 6])]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["h"], ["q"])], "e", [], [helper.make_tensor_value_info("q", 1, ["n", 6])]
    )
    model.graph.node[1].CopyFrom(helper.make_node("If", ["on"], ["r"], then_branch=then, else_branch=other))
    model.graph.output.append(helper.make_tensor_value_info("d", 1, ["n", 6]))
    content = model.SerializeToString()
    network = imported(content, result="y")
    rows = {"x": _rows(4).numpy()}
    noise = draws(network, rows, seed=3, passes=3, masks="shared")
    del model.graph.output[1:]
    _close(sampled(network, rows, noise, 3), replayed(model.SerializeToString(), network, rows, noise, 3))
    dropped = imported(content, result="d")
    wanted = np.maximum(0, noise["noise.0"][0, :, 0, 0])
    assert ((sampled(dropped, rows, noise, 3) == 0) == np.broadcast_to((wanted == 0)[:, None], (3, 7, 6))).all()


def test_halves_that_are_not_the_model_are_refused(monkeypatch):
    def wrong(*parts):
        found = halves(*parts)
        node = next(node for node in found.suffix.graph.node if node.op_type == "Gemm")
        node.attribute.append(helper.make_attribute("alpha", 1.01))
        return found

    monkeypatch.setattr(importing, "halves", wrong)
    with pytest.raises(NotTheModel, match="with its noise off the halves"):
        imported(MLP())
