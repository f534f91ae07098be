import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core import layers
from dropout_core.errors import CoupledRows
from dropout_core.lint import lint

BODY = (nn.Linear(8, 8), nn.ReLU())


def images(*modules):
    """A network from [B, 8, 6] to [B, 2] whose maps go through these modules."""
    return nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(2))


class Functional(nn.Module):
    """The same units, dropped by a function; registered in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(F.dropout(self.body(x), 0.7, self.training))


VECTORS = {
    "a dropout in a hidden layer": (nn.Sequential(*BODY, nn.Dropout(0.5), nn.Linear(8, 2)), {}),
    "no dropout": (nn.Sequential(*BODY), {"no-dropout": ""}),
    "dropout that is off": (nn.Sequential(nn.Dropout(0), *BODY), {"no-dropout": ""}),
    "the output dropped": (nn.Sequential(*BODY, nn.Linear(8, 2), nn.Dropout(0.3)), {"after-the-last-layer": "3"}),
    "the output dropped before softmax": (
        nn.Sequential(*BODY, nn.Linear(8, 2), nn.Dropout(0.3), nn.Softmax(1)),
        {"after-the-last-layer": "3"},
    ),
    "a high rate on the input": (nn.Sequential(nn.Dropout(0.3), *BODY), {"unusual-rate": "0"}),
    "a low rate on the input": (nn.Sequential(nn.Dropout(0.2), *BODY), {}),
    "a low hidden rate": (nn.Sequential(*BODY, nn.Dropout(0.05), nn.Linear(8, 2)), {"unusual-rate": "2"}),
    "a high hidden rate, functional": (Functional(), {"unusual-rate": ""}),
    "a low rate of a path": (nn.Sequential(*BODY, layers.DropPath(0.01), nn.Linear(8, 2)), {}),
    "a low rate of gaussian noise": (nn.Sequential(*BODY, layers.GaussianDropout(0.01), nn.Linear(8, 2)), {}),
    "dropout directly before batch norm": (
        nn.Sequential(*BODY, nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        {"before-batch-norm": "2"},
    ),
    "one layer between dropout and batch norm": (
        nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        {"before-batch-norm": "0"},
    ),
    "two layers between dropout and batch norm": (
        nn.Sequential(nn.Dropout(0.1), *BODY, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        {},
    ),
    "dropout after the last batch norm": (
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)),
        {},
    ),
}
MAPS = {
    "units of maps": (images(nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Dropout(0.3)), {"units-of-maps": "2"}),
    "units of pooled maps": (
        images(nn.Conv1d(8, 4, 3), nn.MaxPool1d(2), nn.Dropout(0.3)),
        {"units-of-maps": "2"},
    ),
    "whole maps": (images(nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Dropout1d(0.3)), {}),
    "regions of maps": (images(nn.Conv1d(8, 4, 3), nn.ReLU(), layers.DropBlock1d(0.3, 2)), {}),
    "a branch of maps": (images(nn.Conv1d(8, 4, 3), layers.DropPath(0.3)), {}),
    "units of flattened maps": (
        nn.Sequential(nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 2)),
        {},
    ),
}


@pytest.mark.parametrize(("net", "wanted"), VECTORS.values(), ids=VECTORS.keys())
def test_what_is_found_in_a_network_of_vectors(net, wanted):
    assert_found(net.eval(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), wanted)


@pytest.mark.parametrize(("net", "wanted"), MAPS.values(), ids=MAPS.keys())
def test_what_is_found_in_a_network_of_maps(net, wanted):
    x = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0))
    net(x)
    assert_found(net.eval(), x, wanted)


def assert_found(net, x, wanted):
    found = lint(net, x)
    assert {finding.rule for finding in found} == set(wanted)
    for finding in found:
        assert finding.where.startswith(wanted[finding.rule])
        assert all((finding.why, finding.instead, finding.source))
    assert len(found) == len(wanted)


def test_a_functional_dropout_is_named_by_its_line():
    (finding,) = lint(Functional(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    assert finding.where.startswith(f"{__file__}:")


def test_batch_norm_in_training_mode_is_found_and_left_so():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)).train()
    (finding,) = lint(net, torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    assert (finding.rule, finding.where) == ("batch-norm-in-training", "1")
    assert net[1].training
    assert int(net[1].num_batches_tracked) == 0


def test_batch_norm_without_running_statistics_is_found_though_it_cannot_be_captured():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Dropout(0.3), nn.Linear(8, 2))
    (finding,) = lint(net.eval(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    assert (finding.rule, finding.where) == ("batch-norm-in-training", "1")
    assert "depends on its batch" in finding.why


def test_rows_that_are_coupled_otherwise_are_refused():
    class Centred(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training) - x.mean(0)

    with pytest.raises(CoupledRows):
        lint(Centred(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
