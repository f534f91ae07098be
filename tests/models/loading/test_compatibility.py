"""Bundles that an earlier version published load and give the answers that it gave.

tests/data/bundles was written by commit bda9d12: a classifier, a regressor whose answers are scaled, a recurrent
network over sequences of any length whose masks are drawn for each row, and a network imported from ONNX.
answers.safetensors holds rows, and the measures that the same commit computed for them.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mcdrop_models.bundle.program_json import graph_to_json, program_from_json
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor

BUNDLES = Path(__file__).parents[2] / "data" / "bundles"
NAMES = ("classifier", "regressor", "tagger", "imported")
PASSES, SEED = 40, 123_456_789
# Masks are equal bit for bit. The kernels of another processor may sum float32 in another order, which moves values of
# order 1 by about 1e-7; a change of the noise, of the weights or of a measure moves them by far more than 1e-6.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_published_earlier_gives_the_answers_it_gave_then(name):
    answers = load_file(BUNDLES / "answers.safetensors")
    expected = {key.removeprefix(f"{name}/"): value for key, value in answers.items() if key.startswith(f"{name}/")}
    rows = expected.pop("rows")
    predictor = Predictor.load(Repository(BUNDLES), name, 1)
    estimate = predictor.predict(rows, replace(predictor.manifest.pass_options, passes=PASSES, seed=SEED))
    assert set(expected) <= set(estimate.measures)
    for measure, values in expected.items():
        torch.testing.assert_close(estimate.measure(measure), values, rtol=0, atol=TOLERANCE, msg=measure)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_published_earlier_is_written_as_it_was(name):
    files = Repository(BUNDLES).read(name, 1)
    weights = load_file(BUNDLES / name / "1" / "weights.safetensors")
    assert graph_to_json(program_from_json(files.program, weights).graph) == files.program
