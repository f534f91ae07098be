"""A bundle says how its passes draw their noise."""

from dataclasses import asdict

import pytest
import torch

from dropout_core.engine.plan import Plan
from dropout_core.engine.scheme import DEFAULT, Scheme
from dropout_core.predict import predict
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import Mlp, rows_for, seeded

_SCHEMES = [DEFAULT, Scheme("iid"), Scheme("balanced", "independent", 4)]


@pytest.mark.parametrize("scheme", _SCHEMES, ids=str)
def test_a_scheme_is_recorded_and_read_back(tmp_path, scheme):
    said = {} if scheme is DEFAULT else asdict(scheme)
    publish(seeded(Mlp), rows_for(Mlp(), (4,), 8), name="net", task="classification", root=tmp_path, **said)
    manifest = Predictor.load(Repository(tmp_path), "net", 1).manifest
    assert manifest.scheme == scheme
    assert (manifest.sampling, manifest.masks, manifest.branches) == (scheme.sampling, scheme.masks, scheme.branches)


@pytest.mark.parametrize("scheme", [Scheme("iid"), Scheme("balanced", "independent")], ids=str)
def test_a_published_network_draws_as_the_live_one(published, scheme):
    """Bit for bit; and each scheme says something of its own."""
    predictor, rows = Predictor.load(Repository(published), "net", 1), rows_for(Mlp(), (4,), 6)
    said = {"sampling": scheme.sampling, "masks": scheme.masks, "branches": scheme.branches}
    ours = predictor.predict(rows, Plan(20, 3, scheme)).mean
    assert torch.equal(ours, predict(seeded(Mlp), rows, passes=20, seed=3, **said).mean)
    assert not torch.equal(ours, predictor.predict(rows, Plan(20, 3, DEFAULT)).mean)


def test_independent_masks_are_those_of_a_rows_place(published):
    predictor, rows = Predictor.load(Repository(published), "net", 1), rows_for(Mlp(), (4,), 3)
    plan = Plan(20, 3, Scheme("balanced", "independent"))
    together = predictor.predict(rows, plan).mean
    among_others = predictor.predict(torch.cat([rows[2:] * 9, rows[1:2], rows[:1] * 9, rows]), plan).mean
    for at_its_place, wanted in (
        (predictor.predict(rows[:1], plan).mean[0], together[0]),
        (among_others[1], together[1]),
    ):
        assert torch.allclose(at_its_place, wanted, rtol=0.0, atol=1e-5)
    same = predictor.predict(rows[:1].repeat(3, 1), plan).mean
    assert len({tuple(row.tolist()) for row in same}) == 3
    shared = predictor.predict(rows[:1].repeat(3, 1), Plan(20, 3, DEFAULT)).mean
    assert torch.allclose(shared, shared[:1], rtol=0.0, atol=1e-5)
