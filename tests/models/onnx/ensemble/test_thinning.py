"""A thinned suffix answers what the dense one does, and computes no unit that no pass keeps."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dropout_core.engine.engine import Chunk
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import fold_passes
from dropout_core.graph.program import Graph, Input, Ref, RowAxis, Site
from mcdrop_models.onnx.ensemble.assemble import Wanted, ensemble
from mcdrop_models.onnx.ensemble.blocks import Blocks
from mcdrop_models.onnx.ensemble.chains import chains_in
from mcdrop_models.onnx.ensemble.thinning import thinned
from mcdrop_models.onnx.from_onnx.read import imported
from mcdrop_models.onnx.graph.halves import noise_name
from tests.support.ensemble_answers import LEVELS, answers, assert_are, drawn, reference_answers
from tests.support.onnx_models import built, ran

T, B, N = 5, 4, 20
HALF = {"p": np.array(0.5, np.float32)}
TWICE = {"w": (N, 16), "b": (16,), "v": (3, 16), "c": (3,)}
GELU = {name: np.array(value, np.float32) for name, value in {"root": 2**0.5, "one": 1.0, "half": 0.5}.items()}
# name: the body of a graph on x [n, 20], its weights, and the noises of each chain that is to be found
CASES = {
    "one layer": ("t = Tanh(x)  d = Dropout(t, p)  y = MatMul(d, w)", {"w": (N, 3)}, [[0]]),
    "two layers": (
        """t = Tanh(x)  d = Dropout(t, p)  h = MatMul(d, w)  g = Add(b, h)  r = Relu(g)
        e = Dropout(r, p)  y = Gemm <transB = 1> (e, v, c)""",
        TWICE, [[0, 1]],
    ),
    "nothing in between": (
        "d = Dropout(x, p)  h = Gemm(d, w, b)  e = Dropout(h, p)  y = Gemm <transB = 1> (e, v)",
        {name: TWICE[name] for name in "wbv"}, [[0, 1]],
    ),
    "gelu by parts": (
        """d = Dropout(x, p)  h = Gemm(d, w, b)  q = Div(h, root)  f = Erf(q)  a = Add(f, one)
        m = Mul(h, a)  g = Mul(m, half)  e = Dropout(g, p)  y = Gemm <transB = 1> (e, v, c)""",
        TWICE | GELU, [[0, 1]],
    ),
    "of noise": (  # the first dropout's own reader is no layer, and the second one's input has rows of every pass
        """a = Dropout(x, p)  t = Tanh(a)  d = Dropout(t, p)  h = Gemm(d, w, b)  r = Relu(h)
        e = Dropout(r, p)  y = Gemm <transB = 1> (e, v, c)""",
        TWICE, [[1, 2]],
    ),
    "a dropout that no layer reads": (
        """d = Dropout(x, p)  h = Gemm(d, w, b)  r = Relu(h)  e = Dropout(r, p)  z = Tanh(e)
        y = Gemm <transB = 1> (z, v, c)""",
        TWICE, [[0]],
    ),
    "in float64": (
        "z = Cast <to = 11> (x)  d = Dropout(z, p)  h = MatMul(d, w)  y = Cast <to = 1> (h)",
        {"w": np.linspace(-1, 1, 3 * N).reshape(N, 3)}, [[0]],
    ),
    "a skip": (  # what the first layer makes is read twice, so that all of it is computed
        """d = Dropout(x, p)  h = Gemm(d, w)  r = Relu(h)  e = Dropout(r, p)  i = Gemm(e, u)  s = Add(h, i)
        f = Dropout(s, p)  y = Gemm <transB = 1> (f, v, c)""",
        {"w": (N, 16), "u": (16, 16), "v": (3, 16), "c": (3,)}, [[0], [1], [2]],
    ),
    "an affine in between": (  # what is added differs from unit to unit
        """d = Dropout(x, p)  h = Gemm(d, w, b)  r = Relu(h)  s = Add(r, k)  e = Dropout(s, p)
        y = Gemm <transB = 1> (e, v, c)""",
        TWICE | {"k": (16,)}, [[0], [1]],
    ),
}  # fmt: skip
NONE = {
    "read twice": ("d = Dropout(x, p)  h = MatMul(d, w)  s = Add(d, x)  i = MatMul(s, u)  y = Add(h, i)",
                   {"w": (N, 3), "u": (N, 3)}),
    "for each position": (
        "a = Reshape(x, apart)  t = Tanh(a)  d = Dropout(t, p)  m = MatMul(d, w)  y = Reshape(m, flat)",
        {"w": (10, 3), "apart": np.array([-1, 2, 10]), "flat": np.array([-1, 6])},
    ),
    "folded positions": (
        "f = Reshape(x, flat)  t = Tanh(f)  d = Dropout(t, p)  m = MatMul(d, w)  y = Reshape(m, both)",
        {"w": (10, 3), "flat": np.array([-1, 10]), "both": np.array([-1, 6])},
    ),
    "turned": ("d = Dropout(x, p)  h = Gemm <alpha = 0.5> (d, w)  y = Relu(h)", {"w": (N, 3)}),
    "a computed weight": ("m = Mul(w, p)  d = Dropout(x, p)  y = MatMul(d, m)", {"w": (N, 3)}),
}  # fmt: skip


@cache
def network(name):
    body, weights = (CASES | NONE)[name][:2]
    columns = 6 if "position" in name else 3
    text = f"g (float[n, {N}] x) => (float[n, {columns}] y) {{ {body} }}"
    return imported(built(text, weights | HALF))


def noise_for(net, *most):
    """Keep masks of all passes over 1 − 0.5, of which some pass keeps so many units, and the others fewer."""
    noise, generator = {}, np.random.default_rng(3)
    declared = {one.name: one.type.tensor_type for one in net.halves.suffix.graph.input}
    for site in net.graph.sites:
        kind = declared[noise_name(site)]
        sizes = [dim.dim_value or 1 for dim in kind.shape.dim]
        sizes[site.rows.axis + 1] = T
        mask = np.zeros(sizes, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        for number in range(T):
            units = mask[:, number].reshape(-1)
            count = (most or (units.size // 2,) * 9)[site.index]
            units[generator.permutation(units.size)[: max(0, count - number)]] = 2
            mask[:, number] = units.reshape(mask[:, number].shape)
        noise[site.index] = torch.from_numpy(mask)
    return noise


def thin_of(net, noise):
    return thinned(net.halves.suffix, net.graph, noise)


def fed(net, noise, seed=1):
    feeds = {noise_name(site): noise[site.index].numpy() for site in net.graph.sites}
    rows = {"x": drawn(B, N, seed=seed).numpy()}
    return feeds | (rows if net.halves.prefix is None else rows | ran(net.halves.prefix, rows))


def once(thin, feeds):
    """What is made of the noise alone, by name."""
    opset = helper.make_opsetid("", 18)
    return ran(helper.make_model(thin.once, opset_imports=[opset], ir_version=8), feeds)


@pytest.mark.parametrize("name", CASES)
def test_a_thinned_suffix_answers_as_the_dense_one(name):
    net = network(name)
    noise = noise_for(net)
    thin, feeds = thin_of(net, noise), fed(net, noise)

    made = once(thin, feeds)
    dense = ran(net.halves.suffix, feeds)["output"]

    assert np.ptp(dense.reshape(T, B, -1), axis=0).min() > 1e-3  # passes differ
    np.testing.assert_allclose(ran(thin.suffix, feeds | made)["output"], dense, rtol=1e-5, atol=1e-5)
    given = {one.name: (feeds | made)[one.name] for one in thin.suffix.graph.input}
    (found,) = ReferenceEvaluator(thin.suffix).run(None, given)
    np.testing.assert_allclose(found, dense, rtol=1e-5, atol=1e-5)
    assert thin.nbytes == sum(value.nbytes for value in made.values())


@pytest.mark.parametrize("name", CASES)
def test_chains_are_as_long_as_they_can_be(name):
    net = network(name)
    widths = {f"noise.{index}": noise.shape[-1] for index, noise in noise_for(net).items()}

    found = chains_in(net.halves.suffix.graph, widths)

    assert [[link.noise for link in chain.links] for chain in found] == [
        [f"noise.{number}" for number in numbers] for numbers in CASES[name][2]
    ]


def test_parts_of_weights_are_of_the_units_that_a_pass_keeps():
    net = network("two layers")
    noise = noise_for(net, 9, 5)
    first, second = (noise[number].reshape(T, -1).numpy() != 0 for number in (0, 1))
    w, v = (
        numpy_helper.to_array(one) for name in "wv" for one in net.halves.suffix.graph.initializer if one.name == name
    )

    made = once(thin_of(net, noise), fed(net, noise))

    parts = {one.shape: one for one in made.values()}
    assert set(parts) == {(T, 9), (T, 5, 9), (T, 5, 1), (T, 3, 5)}
    for number in range(T):
        keeps, then = first[number].nonzero()[0], second[number].nonzero()[0]
        assert (len(keeps), len(then)) == (9 - number, 5 - number)
        np.testing.assert_array_equal(parts[T, 9][number, : len(keeps)], keeps)
        np.testing.assert_array_equal(parts[T, 5, 9][number, : len(then), : len(keeps)], 2 * w.T[np.ix_(then, keeps)])
        np.testing.assert_array_equal(parts[T, 3, 5][number, :, : len(then)], 2 * v[:, then])
        assert not parts[T, 5, 9][number, :, len(keeps) :].any()
        assert not parts[T, 3, 5][number, :, len(then) :].any()


def test_passes_that_drop_everything_answer_the_bias():
    net = network("two layers")
    noise = {0: torch.zeros(1, T, 1, 1, N), 1: torch.zeros(1, T, 1, 1, 16)}
    thin, feeds = thin_of(net, noise), fed(net, noise)
    (bias,) = [numpy_helper.to_array(one) for one in net.halves.suffix.graph.initializer if one.name == "c"]

    made = once(thin, feeds)

    assert all(one.size for one in made.values())  # not every runtime multiplies what is empty
    np.testing.assert_array_equal(ran(thin.suffix, feeds | made)["output"], np.tile(bias, (T * B, 1)))


SITE = "s = Reshape(x, apart)  m = Mul(s, noise0)  d = Reshape(m, flat)  "
AGAIN = "  s2 = Reshape(h, apart2)  m2 = Mul(s2, noise1)  d2 = Reshape(m2, flat2)  output = Gemm(d2, w2)"


@pytest.mark.parametrize(
    ("body", "sizes", "links"),
    [
        (SITE + "h = Gemm(d, w)" + AGAIN, {"flat": [-1, 8], "w": (8, 6), "w2": (6, 3)}, 2),
        (SITE + "h = Gemm(d, w)" + AGAIN, {"flat": [-1, 8], "w": (8, 12), "w2": (6, 3)}, 1),  # two rows of one
        (SITE + "output = Gemm(d, w)", {"flat": [-1, 16], "w": (16, 6)}, 0),  # one row of two
        (SITE + "output = MatMul(d, w)", {"flat": [-1, 2, 8], "w": (8, 6)}, 0),  # not a matrix
        (SITE.replace("d =", "output =") + "h = Gemm(output, w)", {"flat": [-1, 8], "w": (8, 6)}, 0),
        (SITE + "output = Gemm(d, w)" + AGAIN.replace("output", "unread").replace("(h,", "(output,"),
         {"flat": [-1, 8], "w": (8, 6), "w2": (6, 3)}, 1),
    ],
)  # fmt: skip
def test_reshapes_that_do_more_and_the_output_end_a_chain(body, sizes, links):
    weights = {name: np.array(size) if isinstance(size, list) else size for name, size in sizes.items()}
    noises = "float[1, t, 1, 1, 8] noise0, float[1, t, 1, 1, 6] noise1"
    text = f"g (float[n, 8] x, {noises}) => (float[k, 3] output) {{ {body} }}"
    graph = onnx.ModelProto.FromString(built(text, weights | {"flat2": np.array([-1, 6])})).graph

    found = chains_in(graph, {"noise0": 8, "noise1": 6})

    assert len(found[0].links if found else ()) == links


@pytest.mark.parametrize("name", NONE)
def test_what_cannot_be_thinned_is_refused(name):
    net = network(name)

    with pytest.raises(InvalidInput, match="nothing of this network can be thinned"):
        thin_of(net, noise_for(net))


def test_masks_that_differ_between_positions_are_refused():
    values = "(float[n, 2, 8] x, float[1, t, m, 1, 2, 8] noise0) => (float[k, 3] output)"
    text = f"g {values} {{ {SITE} output = Gemm(d, w) }}"
    suffix = built(text.replace("noise0", '"noise.0"'), {"flat": np.array([-1, 8]), "w": (8, 3)})
    site = Site("d", 0, "dropout", Ref("x"), 0.5, RowAxis(0))
    graph = Graph((Input("x", (2, 8), torch.float32),), (), (site,), "output", {"x": RowAxis(0)})

    with pytest.raises(InvalidInput, match="nothing of this network can be thinned"):
        thinned(onnx.ModelProto.FromString(suffix), graph, {0: torch.zeros(1, T, 1, 1, 2, 8)})


def test_too_many_kept_units_are_refused():
    net = network("one layer")

    assert once(thin_of(net, noise_for(net, 14)), fed(net, noise_for(net, 14)))  # 0.7 of 20
    with pytest.raises(InvalidInput, match=r"at most 0\.7 of the multiplications"):
        thin_of(net, noise_for(net, 15))


@pytest.mark.parametrize("blocks", [Blocks(3, T), Blocks(3, 1)], ids=str)
def test_an_ensemble_is_the_same_thinned(blocks):
    net, x = network("of noise"), drawn(B, N, seed=1)
    noise = noise_for(net)
    model = ensemble(net.halves, net.graph, noise, Wanted("mean", None, {}), {}, blocks, thin_of(net, noise))
    passes = ran(net.halves.suffix, fed(net, noise))["output"].reshape(T, B, -1)
    estimate = fold_passes([Chunk(0, torch.from_numpy(passes))], "mean", T, 0, "")

    for level in LEVELS:
        assert_are(answers(model, x, level), estimate)
    assert_are(reference_answers(model, x), estimate)


def test_parts_are_made_before_any_rows_come():
    net = network("two layers")
    noise = noise_for(net)
    model = ensemble(net.halves, net.graph, noise, Wanted("mean", None, {}), {}, Blocks(3, 1), thin_of(net, noise))
    (rows,) = [node for node in model.graph.node if node.op_type == "Loop"]
    (body,) = [one.g for one in rows.attribute if one.name == "body"]

    assert sum(node.op_type == "TopK" for node in model.graph.node) == 2
    assert not {"TopK", "BitShift"} & {node.op_type for node in inside(body)}
    assert onnxruntime.InferenceSession(model.SerializeToString()).get_inputs()[0].shape == ["rows", N]


def inside(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from inside(attribute.g)
