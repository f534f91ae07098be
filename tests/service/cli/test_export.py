import re
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mcdrop_models.publishing.torch import publish
from tests.support import service_nets as nets

X = nets.images(5, seed=4)


def answers(file, rows):
    session = onnxruntime.InferenceSession(file)
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: rows.numpy()}), strict=True))


def test_export_writes_a_file_that_answers_as_the_bundle_does(mcdrop, here, bundles, digits):
    code, out, err = mcdrop("export", "digits", "--onnx", "digits.onnx", "--seed", "3", "--bundles", bundles)

    estimate = digits.predict(X, replace(digits.manifest.pass_options, passes=digits.manifest.passes, seed=3))
    found = answers(here / "digits.onnx", X)
    assert code == 0, err
    assert out == (
        f"wrote digits.onnx: digits/{digits.version}, {digits.manifest.passes} passes of seed 3, "
        f"{(here / 'digits.onnx').stat().st_size} bytes\n"
    )
    assert set(found) == {"mean", "variance", "predictive_entropy", "expected_entropy", "mutual_information"}
    for name, values in found.items():
        np.testing.assert_allclose(values, estimate.measure(name), rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_thinned_file_answers_the_same_and_its_weights_are_reported(mcdrop, here, bundles, digits):
    code, out, err = mcdrop("export", "digits", "--onnx", "thin.onnx", "--thinned", "--bundles", bundles)

    plan = replace(digits.manifest.pass_options, passes=digits.manifest.passes, seed=digits.manifest.seed)
    assert code == 0, err
    assert re.search(r", \d+ bytes, and \d+ more for thinned weights once it is loaded\n$", out), out
    np.testing.assert_allclose(
        answers(here / "thin.onnx", X)["mean"], digits.predict(X, plan).measure("mean"), rtol=1e-5, atol=1e-5
    )


class Reader(nn.Module):
    """Tokens [B, length] → logits [B, 2]."""

    def __init__(self):
        super().__init__()
        self.table, self.drop, self.head = nn.Embedding(9, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.drop(self.table(ids)).mean(1))


@pytest.fixture
def texts(tmp_path):
    root, ids = tmp_path / "texts", torch.arange(24).reshape(4, 6) % 9
    publish(nets.seeded(Reader, 1), ids, name="texts", task="classification", root=root, dynamic={"ids": {1: "length"}})
    return root


def test_a_free_dimension_needs_a_size(mcdrop, here, texts):
    command = ("export", "texts", "--onnx", "texts.onnx", "--bundles", texts)

    code, _, err = mcdrop(*command)
    assert (code, "give length=64" in err) == (1, True), err
    for sizes in (["length="], ["length=-1"], ["length=8", "length=9"]):
        code, _, err = mcdrop(*command, *(word for size in sizes for word in ("--size", size)))
        refused = f"the size is {sizes[-1]!r}; give each free dimension once, as in --size length=64." in err
        assert (code, refused) == (1, True), err
    assert not (here / "texts.onnx").exists()
