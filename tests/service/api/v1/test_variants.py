"""Every variant of tests/support/cases.py, published as a bundle, loaded and asked over HTTP."""

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.estimate.estimate import run_passes
from mcdrop.settings import Settings
from mcdrop_models.publishing.torch import publish
from tests.support.asgi import Served
from tests.support.captured import captured_layer
from tests.support.cases import CASES

PASSES = 20
SEED = 3


def network(case):
    return nn.Sequential(case.layer(dtype=torch.float32), nn.Flatten())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Served(Settings(bundles=tmp_path_factory.mktemp("variants"))) as served:
        yield served


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_variant_is_served_with_the_numbers_of_the_library(server, case):
    name, net, x = f"variant-{CASES.index(case)}", network(case), case.rows(5, torch.float32)
    publish(net, x, name=name, task="regression", output="mean", root=server.state.settings.bundles)

    outputs = server.predict(name, x.tolist(), passes=PASSES, seed=SEED)["outputs"]

    _, program = captured_layer(case)
    exact = x.double() if x.is_floating_point() else x
    estimate = run_passes(Engine(program), program.weights, exact, PassOptions(PASSES, SEED), "mean")
    for measure in ("mean", "epistemic_variance"):
        wanted = estimate.measure(measure).numpy()
        assert np.abs(outputs[measure] - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.max(outputs["epistemic_variance"]) > 0
