import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core import layers
from dropout_core.capture.capture import capture
from dropout_core.errors import InvalidInput
from dropout_core.surgery import replace_dropout
from tests.support.captured import made
from tests.support.surgery_nets import Encoder, Functions, Untraceable, anatomy, entries, rows


def test_every_dropout_becomes_the_kind_at_its_own_rate():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.1), nn.Sequential(layers.SpatialDropout2d(0.2)), nn.ReLU())
    net.eval()
    before, x = anatomy(net), torch.randn(2, 1, 9, 9)
    wanted = net(x)
    report = replace_dropout(net, lambda p: layers.DropBlock2d(p, 7))
    assert [(type(layer), layer.p, layer.block_size, layer.training) for layer in (net[1], net[2][0])] == [
        (layers.DropBlock2d, 0.1, 7, False),
        (layers.DropBlock2d, 0.2, 7, False),
    ]
    assert torch.equal(net(x), wanted)
    assert entries(report.changed) == {
        "1": "DropBlock2d(p=0.1, block_size=7, count_normalized=False)",
        "2.0": "DropBlock2d(p=0.2, block_size=7, count_normalized=False)",
    }
    report.undo()
    assert anatomy(net) == before


def test_the_new_kind_is_drawn():
    net = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 2)))
    assert replace_dropout(net, layers.GaussianDropout).action == "replace_dropout(kind=GaussianDropout)"
    (site,) = capture(net, rows(net)).graph.sites
    assert site.kind == "normal"
    net = made(Encoder, 0.1)
    replace_dropout(net, nn.AlphaDropout)
    assert {type(block.dropout) for block in net.body.layers} == {nn.AlphaDropout}


def test_a_learned_kind_begins_at_the_rate():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 2))
    replace_dropout(net, layers.ConcreteDropout)
    assert net[1].p.item() == pytest.approx(0.3)
    report = replace_dropout(net, nn.Dropout)
    assert entries(report.left_alone) == {"1": "it has no rate of its own, or learns it"}


def test_a_layer_in_several_places_becomes_one_layer_in_all_of_them():
    drop, block = nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.2))
    net = nn.Sequential(drop, block, nn.Sequential(drop, block))
    before = anatomy(net)
    report = replace_dropout(net, layers.Dropout)
    assert [entry.path for entry in report.changed] == ["0, 2.0", "1.0, 2.1.0"]
    assert net[0] is net[2][0]
    assert net[1] is net[2][1]
    assert type(net[0]) is type(net[1][0]) is layers.Dropout
    report.undo()
    assert anatomy(net) == before


def test_where_chooses_layers_and_what_holds_them():
    net = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.3)), nn.Dropout(0.4))
    report = replace_dropout(net, layers.Dropout, where=["1", "2"])
    assert [entry.path for entry in report.found] == ["1.0", "1.1", "2"]
    assert type(net[0]) is nn.Dropout
    named = nn.ModuleDict({"a": nn.Dropout(0.1), "ab": nn.Dropout(0.2)})
    assert [entry.path for entry in replace_dropout(named, layers.Dropout, where=["a"]).found] == ["a"]
    assert [entry.path for entry in replace_dropout(named, layers.Dropout, where=[""]).found] == ["a", "ab"]
    with pytest.raises(InvalidInput, match="no module '4'"):
        replace_dropout(net, layers.Dropout, where=["4"])


def branch():
    return nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.ConcreteDropout(0.2), "it has no rate of its own, or learns it"),
        (layers.AdaptiveDropout(nn.ReLU()), "it has no rate of its own, or learns it"),
        (layers.VariationalLinear(2, 2, 0.1), "it has no rate of its own, or learns it"),
        (layers.VariationalLSTM(2, 2), "it has several rates"),
        (layers.DropConnectLinear(2, 2, 0.1), "it has weights, or a branch, of its own"),
        (layers.EmbeddingDropout(2, 2, 0.1), "it has weights, or a branch, of its own"),
        (layers.StochasticDepth(branch(), 0.1), "it has weights, or a branch, of its own"),
        (layers.StochasticDepth(nn.ReLU(), 0.1), "it has weights, or a branch, of its own"),
        (layers.WordDropout(0.1, 0), "it drops tokens"),
        (layers.DropEdge(0.1), "it drops edges"),
        (layers.ClassicDropout(0.1), "its eval mode multiplies by 1 − p"),
        (layers.DropPath(0.1, classic=True), "its eval mode multiplies by 1 − p"),
    ],
)
def test_what_another_layer_cannot_stand_for_is_left_alone(layer, reason):
    net = nn.ModuleList([layer])
    report = replace_dropout(net, nn.Dropout)
    assert net[0] is layer
    assert entries(report.left_alone) == {"0": reason}


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Dropout(0.1), nn.Dropout1d(0.1), nn.Dropout3d(0.1), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1)),
        *(layers.AlphaDropout(0.1), layers.GaussianDropout(0.1), layers.DropPath(0.1), layers.LockedDropout(0.1)),
        *(layers.GroupDropout([0, 1], 0.1), layers.DropNode(0.1), layers.AttentionDropout(0.1)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_that_drops_values_at_one_rate_is_replaced(layer):
    net = nn.Sequential(layer)
    replace_dropout(net, layers.Dropout)
    assert (type(net[0]), net[0].p) == (layers.Dropout, 0.1)


def test_dropout_inside_torch_s_own_layers_is_named_where_there_is_any():
    net = nn.ModuleList([
        *(nn.LSTM(2, 2, 2, dropout=0.1), nn.LSTM(2, 2, 2), nn.MultiheadAttention(2, 1, 0.1)),
        nn.MultiheadAttention(2, 1),
    ])  # fmt: skip
    why = "it drops inside torch's own code; add_dropout(where='attention') or a Variational layer replaces it"
    assert entries(replace_dropout(net, nn.Dropout).found) == {"0": why, "2": why}


def test_what_is_of_that_kind_is_left_alone():
    net = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1, inplace=True))
    report = replace_dropout(net, nn.Dropout)
    assert entries(report.left_alone) == {"0": "it is so already"}
    assert entries(report.changed) == {"1": "Dropout(p=0.1, inplace=False)"}


def test_a_network_that_is_a_dropout_has_no_place_for_another():
    assert entries(replace_dropout(nn.Dropout(0.1), layers.Dropout).left_alone) == {"": "it is the network itself"}


def test_functions_are_listed_with_their_lines_and_not_where_the_network_cannot_be_traced():
    report = replace_dropout(made(Functions).eval(), nn.Dropout)
    (entry,) = report.left_alone
    assert (entry.was, entry.note) == ("dropout", "a function inside a forward: its rate is in the code there")
    with open(entry.path.rpartition(":")[0]) as file:  # noqa: PTH123
        assert "F.dropout(" in file.read().splitlines()[int(entry.path.rpartition(":")[2]) - 1]
    assert report.remark == ""
    assert replace_dropout(made(Functions), nn.Dropout, where=["first"]).found == ()
    report = replace_dropout(made(Untraceable), nn.Dropout)
    assert report.left_alone == ()
    assert "Dropout functions inside a forward, such as F.dropout, are not listed: torch.fx" in str(report)


class OnlyInTraining(nn.Module):
    """Two functions that a trace in eval mode would not meet, and one without a rate."""

    def forward(self, x):
        if self.training:
            x = F.dropout1d(x, 0.2)
            F.scaled_dot_product_attention(x, x, x)
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)
        return x


def test_functions_that_run_in_training_only_are_listed_too():
    net = OnlyInTraining().eval()
    report = replace_dropout(net, nn.Dropout)
    assert [entry.was for entry in report.left_alone] == ["dropout1d", "scaled_dot_product_attention"]
    assert not net.training


@pytest.mark.parametrize(
    ("kind", "message"), [(layers.ConcreteDropout, "p is 0.0"), (nn.Dropout(0.1), "a class of layers"), (float, "kind")]
)
def test_a_kind_that_refuses_one_rate_changes_none(kind, message):
    net = nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.0))
    before = anatomy(net)
    with pytest.raises(InvalidInput, match=message):
        replace_dropout(net, kind)
    assert anatomy(net) == before
