"""Bundles that answer at positions, such as pixels or tokens, declare them and answer as the live network does."""

import json

import pytest
import torch
from torch import nn

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput, NonFiniteOutput
from dropout_core.predict import predict
from mcdrop_models.bundle.manifest import Manifest, manifest_digest
from mcdrop_models.bundle.repository import MANIFEST_FILE, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.tamper import Bundle

PLAN = PassOptions(32, 0)


class Images(nn.Sequential):
    """[B, 1, H, W] → the logits of three classes of each pixel, [B, 3, H, W]."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 3, 1))


class Forces(nn.Module):
    """Atoms [B, N, 2] → a force for each, [B, N, 2]; NaN where a coordinate is negative. Pairs [B, N // 2, 2]."""

    def __init__(self, pairs=False):
        super().__init__()
        self.pairs = pairs
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        forces = self.layers(x.sqrt())
        return forces.unfold(1, 2, 2).sum(-1) if self.pairs else forces


def seeded(kind, *args):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args).eval()


IMAGES, FORCES = seeded(Images), seeded(Forces)
PIXELS = torch.randn(5, 1, 4, 6, generator=torch.Generator().manual_seed(0))
ATOMS = torch.rand(5, 4, 2, generator=torch.Generator().manual_seed(0))
LABELS = ("sky", "sea", "land")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("positions")
    publish(IMAGES, PIXELS, name="net", task="classification", class_axis=1, labels=LABELS, root=folder)
    atoms, even = ({"x": {1: torch.export.Dim("atoms", min=least)}} for least in (2, 4))
    publish(FORCES, ATOMS, name="forces", task="regression", dynamic=atoms, output_scaling=((2.0, 3.0), (0.0, 1.0)),
            root=folder)  # fmt: skip
    publish(seeded(Forces, True), ATOMS, name="pairs", task="regression", dynamic=even, root=folder)
    return folder


def loaded(root, name):
    return Predictor.load(Repository(root), name, 1)


@pytest.mark.parametrize(
    ("name", "positions", "num_outputs"),
    [("net", (4, 6), 3), ("forces", ("atoms",), 2), ("pairs", ("atoms // 2",), 2)],
)
def test_a_manifest_says_its_positions(root, name, positions, num_outputs):
    manifest = loaded(root, name).manifest
    assert (manifest.positions, manifest.num_outputs) == (positions, num_outputs)
    stored = json.loads((root / name / "1" / MANIFEST_FILE).read_bytes())
    assert stored["positions"] == list(positions)
    assert manifest_digest({**stored, "positions": None}) != manifest.digest


def test_a_published_segmentation_is_the_live_one(root):
    found, live = loaded(root, "net").predict(PIXELS, PLAN), predict(IMAGES, PIXELS, class_axis=1)
    assert found.mean.shape == (5, 4, 6, 3)
    assert found.mutual_information.shape == (5, 4, 6)
    for name in found.measures:
        torch.testing.assert_close(found.measure(name), live.measure(name), rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("atoms", [2, 4, 7])
def test_forces_of_any_number_of_atoms_are_in_the_callers_unit(root, atoms):
    x = torch.rand(3, atoms, 2, generator=torch.Generator().manual_seed(1))
    found, live = loaded(root, "forces").predict(x, PLAN, keep_draws=True), predict(FORCES, x, output="mean")
    scale, shift = torch.tensor([2.0, 3.0]).double(), torch.tensor([0.0, 1.0]).double()
    assert found.mean.shape == (3, atoms, 2)
    torch.testing.assert_close(found.mean, live.mean * scale + shift, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.variance, live.variance * scale**2, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.standard_error, live.standard_error * scale, rtol=0, atol=1e-5)
    assert found.samples.shape == (32, 3, atoms, 2)
    assert found.quantiles([0.1, 0.5, 0.9]).shape == (3, 3, atoms, 2)


def test_a_row_is_refused_where_one_of_its_positions_is_not_finite(root):
    x = ATOMS.clone()
    x[3, 1, 0] = -1
    with pytest.raises(NonFiniteOutput, match="answers row 3 with NaN"):
        loaded(root, "forces").predict(x, PLAN)


def test_positions_of_a_formula_follow_the_length(root):
    assert loaded(root, "pairs").predict(torch.rand(2, 9, 2), PLAN).mean.shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("in_program", "in_manifest", "reason"),
    [
        ([4, 6], [4, 5], r"the positions of the program .*: \(4, 6\), but the manifest says \(4, 5\)"),
        ([4, 6], None, "the manifest says None"),
        ([6, 4], [6, 4], r"the network answers positions \[4, 6\]; it says \[6, 4\]"),
        ([], None, r"the network answers positions \[4, 6\]; it says \[\]"),
        ([4, "6"], [4, "6"], "program.json is malformed"),
        ([4, {"size": "rows"}], [4, "rows"], r"sizes of \['rows'\]"),
        ([4, {"size": ["add", "length", 1]}], [4, "length + 1"], r"sizes of \['length'\]"),
        ([4, {"size": ["floordiv", 6, 0]}], [4, "6 // 0"], "does not run: ZeroDivisionError"),
        (5, None, "program.json is malformed"),
    ],
)
def test_positions_of_another_network_are_refused(root, tmp_path, in_program, in_manifest, reason):
    bundle = Bundle.of(root / "net" / "1")
    bundle.program["positions"], bundle.manifest["positions"] = in_program, in_manifest
    bundle.write(tmp_path)
    with pytest.raises(InvalidBundle, match=reason):
        Predictor.load(Repository(tmp_path), "net", 1)


def test_a_bundle_without_positions_keeps_its_digest(honest):
    """The field is absent from the digest where there are no positions."""
    assert "positions" not in honest.program
    older = {name: value for name, value in honest.manifest.items() if name != "positions"}
    assert honest.manifest["positions"] is None
    assert manifest_digest(older) == Manifest.model_validate(older).digest == honest.manifest["digest"]


def test_labels_name_classes_not_positions():
    with pytest.raises(InvalidInput, match="6 labels and 3 outputs"):
        publish(IMAGES, PIXELS, name="net", task="classification", class_axis=1, labels=list("abcdef"))
