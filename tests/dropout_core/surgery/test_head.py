import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.errors import InvalidInput, NoSite
from dropout_core.layers import Dropout, SpatialDropout1d, SpatialDropout2d
from dropout_core.predict import predict
from dropout_core.surgery import add_dropout
from tests.support import references
from tests.support.captured import made
from tests.support.surgery_nets import (
    Cnn,
    Encoder,
    Functions,
    Residual,
    TwoHeads,
    Untraceable,
    anatomy,
    entries,
    mlp,
    rows,
)


def places(report):
    return [entry.path for entry in report.changed]


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_head_with_dropout_has_its_closed_form_covariance_and_none_after_undo(rate):
    net, num_passes = mlp().eval(), 4000
    x = rows(net, 3)
    with pytest.raises(NoSite):
        predict(net, x, output="mean")
    report = add_dropout(net, rate)
    samples = predict(net, x, passes=num_passes, output="mean", keep_draws=True).samples
    with torch.no_grad():
        factors = (net[:2](x)[:, None, :] * net[2].weight).double().flatten(0, 1)
        central = samples.double().flatten(1) - net(x).double().flatten()
    covariance, of_products = references.last_layer_dropout(factors, rate)
    assert (central.mean(0).abs() <= 5 * (covariance.diagonal() / num_passes).sqrt()).all()
    assert ((central.T @ central / num_passes - covariance).abs() <= 5 * (of_products / num_passes).sqrt()).all()
    report.undo()
    with pytest.raises(NoSite):
        predict(net, x, output="mean")


@pytest.mark.parametrize("where", ["head", "activations"])
@pytest.mark.parametrize("kind", [Residual, Cnn, Encoder])
def test_weights_keep_their_names_and_answers_and_all_is_as_before_after_undo(kind, where):
    net = made(kind).eval()
    before, wanted = anatomy(net), net(rows(net))
    report = add_dropout(net, 0.3, where)
    after = anatomy(net)
    assert after[2:] == before[2:]
    assert after[:2] != before[:2] or not report.changed
    assert torch.equal(net(rows(net)), wanted)
    report.undo()
    assert anatomy(net) == before


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize(
    ("kind", "heads"),
    [(mlp, ["2"]), (Residual, ["head"]), (Cnn, ["8"]), (Encoder, ["head"]), (TwoHeads, ["mean.2", "variance"])],
)
def test_heads_are_what_runs_last_not_what_is_registered_last(kind, heads, example):
    net = made(kind)
    assert places(add_dropout(net, 0.3, example=rows(net) if example else None)) == heads


class SkipToTheEnd(nn.Module):
    """The first layer reaches the output too, by a sum; the last two run side by side."""

    row = (4,)

    def __init__(self):
        super().__init__()
        self.left, self.right, self.first = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.first(x)
        return h + self.left(h.relu()) + self.right(h)


@pytest.mark.parametrize("example", [False, True])
def test_layers_before_the_last_ones_are_no_heads_though_a_sum_leads_from_them_to_the_output(example):
    net = made(SkipToTheEnd)
    assert places(add_dropout(net, 0.3, example=rows(net) if example else None)) == ["left", "right"]


class Sized(nn.Module):
    """The output has the size of a value that it does not come from."""

    row = (4,)

    def __init__(self):
        super().__init__()
        self.head, self.drop, self.other = nn.Linear(4, 1), Maps(0.5), nn.Linear(4, 3)

    def forward(self, x):
        other = self.other(self.drop(x.unsqueeze(-1)).squeeze(-1))
        return self.head(x).expand(other.size(0), -1) * torch.ones(other.shape)


class Maps(SpatialDropout1d):
    """Its check of the rank cannot be traced, and need not be: it is one of ours."""


@pytest.mark.parametrize("example", [False, True])
def test_what_gives_its_size_only_is_no_head(example):
    net = made(Sized)
    report = add_dropout(net, 0.3, example=rows(net) if example else None)
    assert [entry.path for entry in report.found] == ["head"]


class Options(nn.Module):
    """Arguments that may be left out, and that a trace would not decide on."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, mask=None, scale=2.0, early=False):
        h = self.first(x) if mask is None else self.first(x * mask)
        return h if early else self.head(h * scale)


def test_arguments_that_may_be_left_out_are_left_out_in_a_trace():
    assert places(add_dropout(made(Options), 0.3)) == ["head"]


def test_a_network_that_cannot_be_traced_is_run_on_an_example():
    net = made(Untraceable)
    before = anatomy(net)
    with pytest.raises(InvalidInput, match=r"torch\.fx cannot trace the network: .* Give an example"):
        add_dropout(net, 0.3)
    assert anatomy(net) == before
    report = add_dropout(net, 0.3, example=rows(net))
    assert places(report) == ["head"]
    x = rows(net)
    torch.manual_seed(0)
    found = net(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, net.head._modules["dropout_before"](net.body(x).tanh()) @ net.head.weight.T
                               + net.head.bias)  # fmt: skip
    report.undo()
    assert anatomy(net) == before


def test_a_run_changes_neither_the_model_nor_its_example_nor_torch_s_randomness():
    net = made(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    net.append(made(_Restless))
    x = rows(net)
    kept, random, weights = x.clone(), torch.get_rng_state(), copy.deepcopy(net.state_dict())
    before = anatomy(net)
    add_dropout(net, 0.3, example=x).undo()
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert anatomy(net) == before
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    with torch.inference_mode():
        assert places(add_dropout(net, 0.3, example=x * 1)) == ["3"]


class _Restless(nn.Module):
    def forward(self, x):
        return x + torch.rand(()) * 0 + F.dropout(x, 0.5) * 0


@pytest.mark.parametrize("example", [False, True])
def test_weights_that_a_function_uses_are_no_module_to_drop_before(example):
    net = made(Functions)
    before = anatomy(net)
    with pytest.raises(InvalidInput, match=r"the output comes from matmul at '.*nets.py:\d+'"):
        add_dropout(net, 0.3, example=rows(net) if example else None)
    assert anatomy(net) == before


def test_a_trace_does_not_look_into_torch_s_transformer_and_a_run_does():
    body = made(Encoder, 0.1).body
    net = nn.Sequential(nn.Linear(3, 8), body)
    with pytest.raises(InvalidInput, match="comes from TransformerEncoder at '1'"):
        add_dropout(net, 0.3)
    report = add_dropout(net, 0.3, example=torch.randn(2, 5, 3))
    assert entries(report.left_alone) == {
        "1.layers.1.linear2": "a dropout stands before it already, 1.layers.1.dropout; set_rates sets its rate"
    }


def test_a_norm_has_weights_and_is_no_layer_of_them():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 4, 4]))
    for example in (None, torch.randn(2, 1, 6, 6)):
        report = add_dropout(net, 0.3, example=example)
        assert places(report) == ["0"]
        report.undo()


class EndsInAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        h = self.first(x)
        return self.last(h, h, h)[0]


@pytest.mark.parametrize("example", [None, torch.randn(2, 5, 3)])
def test_attention_at_the_end_is_no_head(example):
    with pytest.raises(InvalidInput, match="comes from MultiheadAttention at 'last'"):
        add_dropout(EndsInAttention(), 0.3, example=example)


@pytest.mark.parametrize("example", [False, True])
def test_a_head_that_reads_a_dropout_is_left_alone(example):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    report = add_dropout(net, 0.3, example=rows(net) if example else None)
    assert report.changed == ()
    assert [entry.path for entry in report.left_alone] == ["2"]
    assert "a dropout stands before it already, 1;" in report.left_alone[0].note


def test_a_second_dropout_is_not_put_where_the_first_one_stands():
    net = mlp()
    add_dropout(net, 0.3)
    for again in ({}, {"names": ["2"]}, {"example": rows(net)}):
        report = add_dropout(net, 0.4, **again)
        assert report.changed == ()
        assert "2.dropout_before" in report.left_alone[0].note
    assert net[2].dropout_before.p == 0.3


def test_before_a_convolution_channels_are_dropped():
    net = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1)))
    add_dropout(net, 0.3)
    assert type(net[2].dropout_before) is SpatialDropout2d


def test_names_say_before_which_modules():
    net = made(TwoHeads)
    assert places(add_dropout(net, 0.3, names=["variance"])) == ["variance"]
    assert places(add_dropout(net, 0.3, names=["mean", "mean", "body"])) == ["mean.0", "body"]
    assert isinstance(net.mean[0].dropout_before, Dropout)


def test_a_network_that_is_one_layer_is_named_by_an_empty_path():
    net = nn.Linear(4, 2)
    assert entries(add_dropout(net, 0.3, names=[""]).changed) == {"": "Dropout(p=0.3) before it, dropout_before"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, "p is 1.5"),
        ({"where": "tail"}, "where is 'tail'; it is one of 'head', 'activations', 'attention'"),
        ({"names": ["3"]}, "no module '3'"),
        ({"names": "2"}, r"the string '2'; give a list of paths, such as \['2'\]"),
        ({"names": ["list"]}, "'list' is a ModuleList and runs nothing itself"),
        ({"names": ["empty"]}, "'empty' is a Sequential and runs nothing itself"),
        ({"names": ["taken"]}, "'taken' has an attribute dropout_before of its own"),
        ({"kind": Dropout(0.5)}, r"kind is Dropout\(p=0.5\); a class of layers"),
        ({"kind": float}, "kind is <class 'float'>; a class of layers"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(arguments, message):
    net = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    spare = nn.Module()
    spare.list, spare.empty, spare.taken = nn.ModuleList([nn.Linear(2, 2)]), nn.Sequential(), nn.Linear(2, 2)
    spare.taken.dropout_before = nn.Identity()
    model = spare if "names" in arguments and arguments["names"][0] in ("list", "empty", "taken") else net
    before = anatomy(model)
    with pytest.raises(InvalidInput, match=message):
        add_dropout(model, **{"p": 0.3, **arguments})
    assert anatomy(model) == before


def test_a_network_without_weights_has_no_head():
    with pytest.raises(InvalidInput, match="no head that dropout could be put before was found"):
        add_dropout(nn.Sequential(nn.Tanh()), 0.3)


def test_the_report_says_what_stands_where():
    net = mlp()
    report = add_dropout(net, 0.3)
    assert report.found == report.changed
    assert str(report) == (
        "add_dropout(p=0.3, where='head'): 1 changed, 0 left alone\n"
        "changed\n"
        "  2  Linear(in_features=16, out_features=2, bias=True)  Dropout(p=0.3) before it, 2.dropout_before"
    )
    with pytest.raises(AttributeError):
        report.changed = ()
