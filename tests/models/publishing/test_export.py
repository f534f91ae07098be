"""An exported file answers as the engine does, in every runtime and at every level of optimisation, thinned or not."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.onnx.to_onnx.halves import halves_of
from mcdrop_models.publishing import export as exporting
from mcdrop_models.publishing.export import export_onnx, thinned_bytes
from mcdrop_models.publishing.torch import publish
from tests.support.ensemble_answers import LEVELS, answers, assert_are, drawn, reference_answers


def convolved():
    """Has feature dropout, a fold, and dropout between layers that can be thinned."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 33), nn.GELU(), nn.Dropout(0.5), nn.Linear(33, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        publish(
            convolved(),
            drawn(4, 1, 6, 6),
            name="net",
            task="classification",
            root=root,
            branches=2,
        )
    return Predictor.load(Repository(root), "net", 1)


@pytest.fixture(scope="module")
def halves(predictor):
    """The halves of the network, exported from torch once because it takes seconds."""
    found = halves_of(predictor.program, predictor.probe)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporting, "halves_of", lambda *_: found)
        yield found


@pytest.fixture(scope="module")
def file(predictor, halves):
    return export_onnx(predictor, replace(predictor.manifest.pass_options, passes=20, seed=9), {})


@pytest.fixture(scope="module")
def thin_file(predictor, halves):
    return export_onnx(predictor, replace(predictor.manifest.pass_options, passes=20, seed=9), {}, thin=True)


@pytest.mark.parametrize("form", ["file", "thin_file"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_file_answers_as_the_engine_does_at_every_level(predictor, level, form, request):
    x = drawn(7, 1, 6, 6, seed=2)

    found = answers(request.getfixturevalue(form), x, level)

    assert_are(found, predictor.predict(x, replace(predictor.manifest.pass_options, passes=20, seed=9)))


@pytest.mark.parametrize("form", ["file", "thin_file"])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_file_answers_as_the_engine_does_in_the_reference(predictor, rows, form, request):
    x = drawn(rows, 1, 6, 6, seed=2)

    found = reference_answers(request.getfixturevalue(form), x)

    assert_are(found, predictor.predict(x, replace(predictor.manifest.pass_options, passes=20, seed=9)))


def test_a_thinned_file_declares_the_bytes_of_its_thinned_weights(file, thin_file):
    shapes = [list(one.dims) for one in thin_file.graph.initializer]
    most = [max(kept(one) for one in masks(thin_file, width)) for width in (64, 33)]

    assert sorted(shapes.count(shape) for shape in ([64, 16], [33, 64], [3, 33])) == [1, 1, 1]
    assert thin_file.ByteSize() < file.ByteSize() + 8000
    assert all(one < width * 0.7 for one, width in zip(most, (64, 33), strict=True))
    # int64 indices of the first layer's units; float32 weights of both layers and biases of the first
    assert thinned_bytes(thin_file) == 20 * (8 * most[0] + 4 * (most[1] * most[0] + most[1] + 3 * most[1]))
    assert thinned_bytes(file) == 0


def masks(file, width):
    """Return the stored masks of a site."""
    arrays = [numpy_helper.to_array(one) for one in file.graph.initializer if one.data_type == TensorProto.UINT8]
    return next(one for one in arrays if one.shape == (20, -(-width // 8)))


def kept(row):
    return int(np.unpackbits(row).sum())


def test_other_seeds_and_passes_give_other_answers(predictor, file):
    x = drawn(2, 1, 6, 6)
    plans = (
        replace(predictor.manifest.pass_options, passes=20, seed=10),
        replace(predictor.manifest.pass_options, passes=19, seed=9),
    )
    others = [export_onnx(predictor, plan, {}) for plan in plans]

    assert len({answers(model, x)["mean"].tobytes() for model in (file, *others)}) == 3


def test_a_file_describes_itself_and_is_reproducible(predictor, file):
    facts = {one.key: one.value for one in file.metadata_props}
    operators = {node.op_type for node in every_node(file.graph)}

    onnx.checker.check_model(file, full_check=True)
    assert (file.ir_version, [(one.domain, one.version) for one in file.opset_import]) == (8, [("", 18)])
    assert not operators & {"Dropout", "Bernoulli", "RandomUniformLike", "RandomNormalLike"}
    assert json.loads(facts["manifest"]) == json.loads(predictor.manifest.model_dump_json(by_alias=True))
    assert {name: facts[name] for name in ("passes", "seed", "sampling", "branches", "version")} == {
        "passes": "20", "seed": "9", "sampling": "balanced", "branches": "2", "version": "1",
    }  # fmt: skip
    again = export_onnx(predictor, replace(predictor.manifest.pass_options, passes=20, seed=9), {})
    assert again.SerializeToString(deterministic=True) == file.SerializeToString(deterministic=True)


def every_node(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from every_node(attribute.g)


def test_noise_takes_one_bit_per_unit(predictor, file):
    weights = sum(weight.nbytes for weight in predictor.program.weights.values())
    constants = [numpy_helper.to_array(one) for one in file.graph.initializer]

    bits = sorted(one.shape for one in constants if one.ndim == 2 and one.dtype == np.uint8)
    assert bits == [(20, 1), (20, 5), (20, 8)]
    assert sum(one.nbytes for one in constants if one.dtype == np.float32 and one.ndim) == weights
