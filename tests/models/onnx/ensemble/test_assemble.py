"""The ensemble in one file: the same numbers as the engine's, in every runtime and whatever it optimises."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dropout_core.engine.engine import Chunk
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import fold_passes
from dropout_core.graph.program import ROWS, FreeDimension, Graph, Input, Ref, RowAxis, Site
from mcdrop_models.bundle.manifest import OutputScaling
from mcdrop_models.loading.predictor import rescale
from mcdrop_models.onnx.ensemble.assemble import Wanted, blocks_of, ensemble
from mcdrop_models.onnx.ensemble.blocks import Blocks
from mcdrop_models.onnx.ensemble.masks import noise_of
from mcdrop_models.onnx.graph.halves import Halves
from tests.support.ensemble_answers import answers, assert_are, drawn

T = 6
SCALING = OutputScaling(scale=(2.0, 0.5), shift=(-1.0, 3.0))


def scaled(*features):
    """A network without weights whose passes are its input times its noise, by hand."""
    site = Site("drop", 0, "normal", Ref("x"), 0.0, RowAxis(0))
    graph = Graph((Input("x", features, torch.float32),), (), (site,), "drop", {"x": RowAxis(0)}, (), features[:-1])
    folded = helper.make_tensor("folded", TensorProto.INT64, [4 + len(features)], [1, 1, -1, 1, *features])
    flat = helper.make_tensor("flat", TensorProto.INT64, [1 + len(features)], [-1, *features])
    nodes = [
        helper.make_node("Reshape", ["x", "folded"], ["rows"]),
        helper.make_node("Mul", ["rows", "noise.0"], ["all"]),
        helper.make_node("Reshape", ["all", "flat"], ["output"]),
    ]
    kinds = [("x", [ROWS, *features]), ("noise.0", [1, "passes", "masks", 1, *features]), ("output", [None, *features])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in kinds]
    suffix = helper.make_graph(nodes, "suffix", values[:2], values[2:], [folded, flat])
    return Halves(None, helper.make_model(suffix, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)), graph


def by_hand(kind, features, draws, blocks, scaling=None, facts=None):
    halves, graph = scaled(*features)
    noise = {0: draws.reshape(1, len(draws), 1, 1, *features)}
    return ensemble(halves, graph, noise, Wanted(kind, scaling, facts or {}), {}, blocks)


def estimate(kind, x, draws, scaling=None):
    return rescale(fold_passes([Chunk(0, x * draws.unsqueeze(1))], kind, len(draws), 0, ""), scaling)


@pytest.mark.parametrize("blocks", [Blocks(2, T), Blocks(3, 2), Blocks(9, 1)], ids=str)
@pytest.mark.parametrize(
    ("kind", "features", "scaling"),
    [
        ("logits", (3,), None),
        ("logits", (1,), None),
        ("logits", (2, 3), None),
        ("multilabel_logits", (2, 3), None),
        ("mean", (2,), SCALING),
        ("mean", (3, 2), None),
        ("mean_and_log_variance", (4,), SCALING),
        ("mean_and_log_variance", (3, 4), None),
    ],
)
def test_the_measures_are_the_estimates(kind, features, scaling, blocks):
    draws = drawn(T, *features)
    model = by_hand(kind, features, draws, blocks, scaling)

    for rows in (0, 1, 5):
        x = drawn(rows, *features, seed=1)
        assert_are(answers(model, x), estimate(kind, x, draws, scaling))


@pytest.mark.parametrize("kind", ["probabilities", "multilabel_probabilities"])
@pytest.mark.parametrize("columns", [1, 2])
def test_probabilities_of_0_and_of_1_are_certain_to_the_last_bit(kind, columns):
    draws = torch.ones(T, columns)
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[:, :columns]

    found = answers(by_hand(kind, (columns,), draws, Blocks(2, T)), x)

    assert_are(found, estimate(kind, x, draws))
    assert all((found[name] == 0).all() for name in found if name != "mean")


def test_large_logits_overflow_nothing():
    draws, x = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1e4], [88.0], [0.0]])

    assert_are(answers(by_hand("logits", (1,), draws, Blocks(9, 2)), x), estimate("logits", x, draws))


def test_a_small_variance_beside_a_large_mean_is_kept():
    draws, x = 1 + 1e-4 * drawn(64, 1), torch.full((1, 1), 1000.0)

    for blocks in (Blocks(1, 64), Blocks(1, 8)):
        found = answers(by_hand("mean", (1,), draws, blocks), x)["variance"]
        np.testing.assert_allclose(found, estimate("mean", x, draws).variance, rtol=1e-2)


@pytest.mark.parametrize("kind", ["logits", "multilabel_logits", "mean", "mean_and_log_variance"])
def test_what_is_not_finite_stays_in_its_row(kind):
    draws = drawn(T, 2)
    x = torch.stack([drawn(2), torch.full((2,), torch.nan), drawn(2, seed=1)])

    found = answers(by_hand(kind, (2,), draws, Blocks(2, T)), x)

    alone = answers(by_hand(kind, (2,), draws, Blocks(2, T)), x[[0, 2]])
    for name, values in found.items():
        assert np.isnan(values[1]).all(), name
        np.testing.assert_array_equal(values[[0, 2]], alone[name], err_msg=name)


def test_passes_with_noise_on_weights_go_one_by_one():
    draws, x = drawn(T, 2), drawn(5, 2, seed=1)
    halves, graph = scaled(2)
    site = Site("drop", 0, "normal", Ref("x"), 0.0, None)
    on_weights = Graph(graph.inputs, (), (site,), "drop", graph.boundary)

    model = ensemble(halves, on_weights, {0: draws}, Wanted("mean", None, {}), {}, Blocks(2, 1))

    assert_are(answers(model, x), estimate("mean", x, draws))


def test_a_weight_that_both_halves_read_is_kept_once():
    halves, graph = scaled(2)
    twice = numpy_helper.from_array(np.full(2, 2.0, np.float32), "weight")
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, 2]) for name in ("raw", "x")]
    doubled = helper.make_graph(
        [helper.make_node("Mul", ["raw", "weight"], ["x"])], "prefix", rows[:1], rows[1:], [twice]
    )
    prefix = helper.make_model(doubled, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    suffix = onnx.ModelProto()
    suffix.CopyFrom(halves.suffix)
    suffix.graph.initializer.append(twice)
    suffix.graph.node[-1].output[0] = "once"
    suffix.graph.node.append(helper.make_node("Mul", ["once", "weight"], ["output"]))
    fed_raw = replace(graph, inputs=(Input("raw", (2,), torch.float32),))
    draws, x = drawn(T, 2), drawn(4, 2, seed=1)

    noise = {0: draws.reshape(1, T, 1, 1, 2)}
    model = ensemble(Halves(prefix, suffix), fed_raw, noise, Wanted("mean", None, {}), {}, Blocks(2, T))

    assert_are(answers(model, x), estimate("mean", 4 * x, draws))
    weights = [one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and list(one.dims) == [2]]
    assert len(weights) == 1


def test_a_free_dimension_has_the_size_that_was_given():
    halves, graph = scaled(3)
    free = replace(graph, inputs=(Input("x", ("length",), torch.float32),), free=(FreeDimension("length", 2, 8),))
    suffix = onnx.ModelProto()
    suffix.CopyFrom(halves.suffix)
    suffix.graph.input.append(helper.make_tensor_value_info("size.length", TensorProto.UINT8, ["length"]))
    suffix.graph.node[-1].output[0] = "flat_output"
    suffix.graph.node.append(helper.make_node("Shape", ["size.length"], ["length"]))
    suffix.graph.node.append(helper.make_node("Cast", ["length"], ["times"], to=TensorProto.FLOAT))
    suffix.graph.node.append(helper.make_node("Mul", ["flat_output", "times"], ["output"]))
    draws, x = drawn(T, 3), drawn(4, 3, seed=1)

    noise = {0: draws.reshape(1, T, 1, 1, 3)}
    model = ensemble(Halves(None, suffix), free, noise, Wanted("mean", None, {}), {"length": 3}, Blocks(2, T))

    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [ROWS, 3]
    assert_are(answers(model, x), estimate("mean", 3 * x, draws))


@pytest.mark.parametrize(
    ("row_bytes", "passes", "alone", "blocks"),
    [
        ((1, 10), 32, False, Blocks(3, 32)),  # 960 of 1000 bytes
        ((400, 10), 32, False, Blocks(2, 32)),  # the prefix has room for two rows
        ((1, 100), 32, False, Blocks(1, 8)),  # ten passes would fit, eight divide 32
        ((1, 100), 31, False, Blocks(10, 1)),  # a prime number has no other divisor
        ((1, 100), 32, True, Blocks(10, 1)),
        ((5000, 5000), 32, False, Blocks(1, 1)),
    ],
)
def test_blocks_hold_as_much_as_the_bytes_allow(row_bytes, passes, alone, blocks):
    assert blocks_of(*row_bytes, passes, one_pass_at_a_time=alone, block_bytes=1000) == blocks


def test_what_no_file_can_hold_is_refused():
    halves, graph = scaled(2)
    free = Graph(graph.inputs, (), graph.nodes, graph.output, free=(FreeDimension("length", 2, 8),))
    wanted = Wanted("mean", None, {})

    with pytest.raises(InvalidInput, match=r"sizes came for nothing; .* are length\. .* give length=8\."):
        ensemble(halves, free, {}, wanted, {}, Blocks(1, 1))
    with pytest.raises(InvalidInput, match="the length is 9; 2 … 8 is allowed"):
        ensemble(halves, free, {}, wanted, {"length": 9}, Blocks(1, 1))
    with pytest.raises(InvalidInput, match="masks of this model are independent"):
        noise_of(graph, {}, PassOptions(4, 0, sampling="iid", masks="independent"))
