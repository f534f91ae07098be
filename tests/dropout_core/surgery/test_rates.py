import pytest
import torch
from torch import nn

from dropout_core import layers
from dropout_core.capture.capture import capture
from dropout_core.errors import InvalidInput
from dropout_core.surgery import add_dropout, set_rates
from tests.support.captured import made
from tests.support.surgery_nets import Functions, anatomy, entries, mlp, rows


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.maps = nn.Dropout(0.5), layers.SpatialDropout2d(0.4)
        self.connect, self.embed = layers.DropConnectLinear(2, 2, 0.3), layers.EmbeddingDropout(2, 2, 0.2)
        self.lstm = layers.VariationalLSTM(2, 2, p_input=0.1, p_recurrent=0.1)
        self.torch = nn.ModuleList([nn.LSTM(2, 2, 2, dropout=0.1), nn.LSTM(2, 2), nn.MultiheadAttention(2, 1)])
        self.learned, self.alias = layers.ConcreteDropout(0.2), self.drop

    def forward(self, x):
        return x


SINGLE = ["drop, alias", "maps", "connect", "embed"]


def test_a_number_sets_every_layer_with_one_rate():
    net = Many()
    before = anatomy(net)
    report = set_rates(net, 0.25)
    assert [entry.path for entry in report.changed] == SINGLE
    assert [net.drop.p, net.maps.p, net.connect.p, net.embed.p] == [0.25] * 4
    assert entries(report.left_alone) == {
        "lstm.p_input": "it is set by name only: {'lstm.p_input': …}",
        "lstm.p_recurrent": "it is set by name only: {'lstm.p_recurrent': …}",
        "lstm.p_output": "it is set by name only: {'lstm.p_output': …}",
        "torch.0.dropout": "it is set by name only: {'torch.0.dropout': …}",
        "torch.2.dropout": "it is set by name only: {'torch.2.dropout': …}",
        "learned": "it has no rate of its own, or learns it",
    }
    report.undo()
    assert anatomy(net) == before


def test_names_reach_every_rate_and_no_other():
    net = Many()
    before = anatomy(net)
    wanted = {"alias": 0.1, "lstm.p_recurrent": 0.2, "connect.p": 0.35, "torch.0.dropout": 0.4, "torch.2.dropout": 0.6}
    report = set_rates(net, wanted)
    assert (net.drop.p, net.connect.p, net.torch[0].dropout, net.torch[2].dropout) == (0.1, 0.35, 0.4, 0.6)
    assert (net.lstm.p_input, net.lstm.p_recurrent, net.lstm.p_output) == (0.1, 0.2, 0.0)
    assert (net.maps.p, net.embed.p) == (0.4, 0.2)
    assert entries(report.left_alone)["maps"] == "it is not named"
    report.undo()
    assert anatomy(net) == before


def test_a_function_is_asked_for_each_layer_with_one_rate():
    net, asked = Many(), {}

    def rate(path, layer):
        asked[path] = layer
        return layer.p / 2

    set_rates(net, rate)
    assert asked == {"drop": net.drop, "maps": net.maps, "connect": net.connect, "embed": net.embed}
    assert (net.drop.p, net.maps.p) == (0.25, 0.2)


def test_what_has_the_rate_is_left_alone():
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.2))
    report = set_rates(net, 0.5)
    assert entries(report.changed) == {"1": "p=0.5"}
    assert entries(report.left_alone) == {"0": "it is 0.5 already"}


def test_an_added_dropout_has_its_rate_set_and_drawn():
    net = mlp()
    add_dropout(net, 0.2)
    set_rates(net, {"2.dropout_before": 0.45})
    (site,) = capture(net, rows(net)).graph.sites
    assert site.rate == 0.45


def test_a_network_that_is_a_dropout_has_an_empty_path():
    net = nn.Dropout(0.1)
    for name, p in (("", 0.2), ("p", 0.3)):
        set_rates(net, {name: p})
        assert net.p == p


def test_functions_are_listed():
    assert [entry.was for entry in set_rates(made(Functions), 0.3).left_alone] == ["dropout"]


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (1.5, "drop, alias is 1.5; a drop probability"),
        ({"drop": 0.1, "maps": True}, "maps is True; a drop probability"),
        (lambda path, layer: None, "drop, alias is None"),
        ({"drop": 0.1, "head": 0.2}, r"the model has no rates \['head'\]; it has \['alias', 'alias.p', 'connect'"),
        ({"lstm": 0.1}, r"no rates \['lstm'\]"),
        ({"learned": 0.1}, r"no rates \['learned'\]"),
        ({"torch.1.dropout": 0.1}, r"no rates \['torch.1.dropout'\]"),
        ({"drop": 0.1, "alias": 0.2}, r"drop, alias is one layer, and the rates \[0.1, 0.2\] are given for it"),
    ],
)
def test_rates_and_names_that_cannot_be_change_nothing(rates, message):
    net = Many()
    before = anatomy(net)
    with pytest.raises(InvalidInput, match=message):
        set_rates(net, rates)
    assert anatomy(net) == before


def test_bounds_of_one_layer_hold_for_all():
    net = nn.Sequential(nn.Dropout(0.1), layers.GaussianDropout(0.2), nn.Dropout(0.3))
    with pytest.raises(InvalidInput, match="at least 0 and below 1"):
        set_rates(net, 1.0)
    assert [layer.p for layer in net] == [0.1, 0.2, 0.3]
    assert torch.equal(net.eval()(torch.ones(2, 2)), torch.ones(2, 2))
