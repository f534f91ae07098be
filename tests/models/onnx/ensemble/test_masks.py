"""The noise in a file: the engine's own, a bit for each unit where one is enough."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from dropout_core.engine.masks import Masks
from dropout_core.engine.options import PassOptions
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import Graph, Input, Ref, RowAxis, Site
from mcdrop_models.onnx.ensemble.masks import noise_of, restored, stored
from mcdrop_models.onnx.graph.builder import Nodes
from tests.support.captured import captured
from tests.support.nets import NoisyWeights


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("rows", [RowAxis(0), RowAxis(1, 2, 3)], ids=["first", "folded"])
def test_draws_come_out_of_the_file_as_they_went_in(kind, rows):
    site = Site("site", 3, kind, Ref("x"), 0.3 if NOISE_KINDS[kind].rated else 0.0, rows)
    like = torch.zeros(1, 5, 3) if rows == RowAxis(0) else torch.zeros(2, 6, 3)
    draws = Masks(PassOptions(1, 7, sampling="balanced"), range(20)).draws(
        site, like, 0, 20, torch.zeros(1, dtype=torch.int64)
    )

    kept, nodes = stored(site, draws), Nodes("test")
    output = restored(kept, nodes.constant(kept.array), nodes)
    value = helper.make_tensor_value_info(output, kept.element, None)
    graph = helper.make_graph(nodes.nodes, "test", [], [value], nodes.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    for found in (ReferenceEvaluator(model).run(None, {})[0], *answers_without_inputs(model)):
        assert found.dtype == draws.numpy().dtype
        np.testing.assert_array_equal(found, draws)
    if NOISE_KINDS[kind].rated:
        assert kept.array.nbytes == 20 * -(-draws.numel() // 20 // 8)


def answers_without_inputs(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})


@pytest.mark.parametrize("sampling", ["iid", "balanced"])
def test_noise_on_weights_is_that_of_the_engine_pass_by_pass(sampling):
    one, x = captured(NoisyWeights), captured(NoisyWeights).rows(3)
    scheme = PassOptions(sampling=sampling)

    noise = noise_of(one.program.graph, likes(one), replace(scheme, passes=20, seed=5))[0]
    outputs = torch.cat(
        [chunk.outputs for chunk in one.engine.run(one.program.weights, x, replace(scheme, passes=20, seed=5))]
    )

    wanted = torch.stack([one.net.masked(x, [draws]) for draws in noise])
    torch.testing.assert_close(outputs, wanted)


def likes(one):
    return {site.name: one.net.body.weight for site in one.program.graph.sites}


def test_passes_that_branch_share_the_noise_of_all_sites_but_the_last():
    sites = (
        Site("first", 0, "dropout", Ref("x"), 0.5, RowAxis(0)),
        Site("last", 1, "dropout", Ref("first"), 0.5, RowAxis(0)),
    )
    graph = Graph((Input("x", (9,), torch.float32),), (), sites, "last", {"x": RowAxis(0)})
    likes = dict.fromkeys(("first", "last"), torch.zeros(1, 9))

    noise = noise_of(graph, likes, PassOptions(10, 4, sampling="balanced", branches=4))
    single = noise_of(graph, likes, PassOptions(10, 4, sampling="balanced"))

    assert noise[0].shape == noise[1].shape == (1, 10, 1, 1, 9)
    assert noise[0].equal(single[0][:, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]])
    assert noise[1].equal(single[1])
