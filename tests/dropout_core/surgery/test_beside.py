"""How a layer that is put beside a module acts: in training, in copies, in files, when captured."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.errors import InvalidInput
from dropout_core.layers import ConcreteDropout, GaussianDropout, LockedDropout
from dropout_core.surgery import add_dropout
from tests.support.surgery_nets import mlp, rows


def test_in_training_the_head_reads_dropped_units_and_in_eval_mode_all_of_them():
    net, x = mlp(), rows(mlp())
    add_dropout(net, 0.3)
    torch.manual_seed(0)
    found = net(x)
    torch.manual_seed(0)
    hidden = F.dropout(net[1](net[0](x)), 0.3)
    assert torch.equal(found, F.linear(hidden, net[2].weight, net[2].bias))
    assert not net.eval()[2].dropout_before.training


def test_a_layer_put_in_a_network_in_eval_mode_is_in_eval_mode():
    net = mlp().eval()
    add_dropout(net, 0.3)
    assert not net[2].dropout_before.training


def test_a_copy_calls_its_own_dropout():
    net, x = mlp(), rows(mlp())
    add_dropout(net, 0.3)
    copied = copy.deepcopy(net)
    copied[2].dropout_before.p = 1.0
    assert torch.equal(copied(x), copied[2].bias.expand(4, 2))
    assert not torch.equal(net(x), net[2].bias.expand(4, 2))
    net.eval()
    assert copied[2].dropout_before.training


def test_a_saved_network_drops_and_a_saved_state_fits_a_network_without_dropout():
    net, file = mlp(), io.BytesIO()
    add_dropout(net, 0.3)
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    loaded[2].dropout_before.p = 1.0
    assert torch.equal(loaded(rows(net)), loaded[2].bias.expand(4, 2))
    mlp().load_state_dict(net.state_dict())


def test_the_site_is_found_at_its_path():
    net = mlp()
    add_dropout(net, 0.3)
    (site,) = capture(net, rows(net)).graph.sites
    assert (site.kind, site.rate, site.module) == ("dropout", 0.3, "2.dropout_before")


def test_any_module_can_be_named_given_a_kind():
    net = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    with pytest.raises(InvalidInput, match="'0' is a LSTM, beside which no kind is usual"):
        add_dropout(net, 0.3, names=["0"])
    add_dropout(net, 0.3, names=["0"], kind=LockedDropout)
    add_dropout(net, 0.4, "activations", names=["0"], kind=GaussianDropout)
    x = torch.randn(2, 5, 4)
    torch.manual_seed(0)
    y, (h, _) = net(x)
    torch.manual_seed(0)
    read = net[0].dropout_before(x)
    with torch.no_grad():
        wanted, (last, _) = nn.LSTM.forward(net[0], read)
    assert torch.equal(y, net[0].dropout_after(wanted))
    assert torch.equal(h, last)


def test_a_kind_with_parameters_adds_them_behind_the_others():
    net = mlp()
    names = list(net.state_dict())
    add_dropout(net, 0.3, kind=ConcreteDropout)
    assert list(net.state_dict()) == [*names, "2.dropout_before.logit"]
    assert math.isclose(net[2].dropout_before.p.item(), 0.3, rel_tol=1e-6)


def test_new_layers_are_where_the_weights_are():
    net = mlp().to("meta")
    add_dropout(net, 0.3, kind=ConcreteDropout)
    assert net[2].dropout_before.logit.is_meta
