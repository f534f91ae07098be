import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.errors import InvalidInput
from dropout_core.layers import AlphaDropout, DropBlock2d, Dropout, SpatialDropout2d
from dropout_core.predict import predict
from dropout_core.surgery import add_dropout
from tests.support.captured import made
from tests.support.surgery_nets import Cnn, Encoder, Functions, Residual, anatomy, entries, mlp, rows


def after(net):
    """The type of the dropout after each activation that has one."""
    return {
        path: type(module.dropout_after) for path, module in net.named_modules() if hasattr(module, "dropout_after")
    }


@pytest.mark.parametrize("example", [False, True])
def test_maps_lose_channels_units_lose_units_and_selu_keeps_its_law(example):
    net = made(Cnn)
    report = add_dropout(net, 0.3, "activations", example=rows(net) if example else None)
    assert after(net) == {"1": nn.FeatureAlphaDropout, "4": SpatialDropout2d, "7": AlphaDropout}
    assert entries(report.left_alone) == {"9": "it makes the output: no layer with weights comes after it"}
    assert [entry.path for entry in report.found] == ["1", "4", "7", "9"]


@pytest.mark.parametrize("example", [False, True])
def test_an_activation_that_runs_twice_drops_twice(example):
    net = made(Residual).eval()
    add_dropout(net, 0.3, "activations", example=rows(net) if example else None)
    assert after(net) == {"maps": SpatialDropout2d, "units": Dropout}
    sites = capture(net, rows(net)).graph.sites
    assert [(site.module, site.kind) for site in sites] == [
        ("maps.dropout_after", "feature_dropout"),
        ("maps.dropout_after", "feature_dropout"),
        ("units.dropout_after", "dropout"),
    ]


def test_dropout_after_activations_is_predicted():
    net = made(Cnn)
    add_dropout(net, 0.3, "activations")
    assert (predict(net, rows(net), passes=8, output="mean").variance > 0).all()


def test_in_training_what_follows_reads_dropped_units():
    net, x = mlp(), rows(mlp())
    add_dropout(net, 0.3, "activations")
    torch.manual_seed(0)
    found = net(x)
    torch.manual_seed(0)
    assert torch.equal(found, net[2](F.dropout(net[0](x).tanh(), 0.3)))


class OneForAll(nn.Module):
    """One activation for maps and for units."""

    row = (1, 6, 6)

    def __init__(self, last=False):
        super().__init__()
        self.act, self.last = nn.ReLU(), last
        self.maps, self.units, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.head(self.act(self.units(self.act(self.maps(x)).mean((2, 3)))))
        return self.act(y) if self.last else y


def test_one_activation_for_maps_and_units_needs_a_kind():
    net = made(OneForAll)
    why = "whether units or maps reach it cannot be told; give a kind or an example"
    for example in (None, rows(net)):
        report = add_dropout(net, 0.3, "activations", example=example)
        assert entries(report.left_alone) == {"act": why}
    add_dropout(net, 0.3, "activations", kind=nn.Dropout)
    assert after(net) == {"act": nn.Dropout}


def test_an_activation_that_makes_the_output_too_is_left_alone_with_any_kind():
    report = add_dropout(made(OneForAll, True), 0.3, "activations", kind=nn.Dropout)
    assert entries(report.left_alone) == {"act": "it makes the output: no layer with weights comes after it"}


def test_what_is_no_map_any_more_is_seen_by_running():
    net = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(64, 2)))
    report = add_dropout(net, 0.3, "activations")
    assert entries(report.left_alone) == {
        "2": "whether units or maps reach it cannot be told; give a kind or an example"
    }
    add_dropout(net, 0.3, "activations", example=torch.randn(2, 1, 6, 6))
    assert after(net) == {"2": Dropout}


class Gated(nn.Module):
    """Maps, and their mean as units beside them."""

    row = (1, 6, 6)

    def __init__(self):
        super().__init__()
        self.maps, self.act, self.head = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        h = self.maps(x)
        return self.head(self.act(h.mean((2, 3), keepdim=True) + h))


def test_maps_that_were_reshaped_on_one_way_are_seen_by_running():
    net = made(Gated)
    assert add_dropout(net, 0.3, "activations").changed == ()
    add_dropout(net, 0.3, "activations", example=rows(net))
    assert after(net) == {"act": SpatialDropout2d}


def test_no_second_dropout_follows():
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)]
    net = made(lambda: nn.Sequential(*layers))
    add_dropout(net, 0.2)
    for example in (None, rows(net)):
        report = add_dropout(net, 0.3, "activations", example=example)
        assert entries(report.left_alone) == {
            "1": "a dropout follows it already, 2; set_rates sets its rate",
            "4": "a dropout follows it already, 5.dropout_before; set_rates sets its rate",
        }
    assert after(net) == {}


def test_a_dropout_after_the_last_activation_is_one_before_the_head():
    net = mlp()
    add_dropout(net, 0.2, "activations")
    report = add_dropout(net, 0.3)
    assert entries(report.left_alone) == {
        "2": "a dropout stands before it already, 1.dropout_after; set_rates sets its rate"
    }


class Branch(nn.Module):
    """The dropout is on one of two ways from the activation."""

    row = (4,)

    def __init__(self):
        super().__init__()
        self.act, self.drop, self.head = nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        h = self.act(self.body(x))
        return self.head(h + self.drop(h))


@pytest.mark.parametrize("where", ["head", "activations"])
@pytest.mark.parametrize("example", [False, True])
def test_a_dropout_on_one_of_two_ways_is_none_on_the_other(where, example):
    net = made(Branch)
    assert len(add_dropout(net, 0.3, where, example=rows(net) if example else None).changed) == 1


@pytest.mark.parametrize("example", [False, True])
def test_functions_are_named_with_their_lines(example):
    net = made(Functions)
    with pytest.raises(InvalidInput, match=r"was found; relu at .*nets.py:\d+ can hold none. Name modules"):
        add_dropout(net, 0.3, "activations", example=rows(net) if example else None)
    both = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Functions()))
    report = add_dropout(both, 0.3, "activations", example=rows(net) if example else None)
    assert after(both) == {"1": Dropout}
    (entry,) = report.left_alone
    assert (entry.was, entry.note) == ("relu", "a function inside a forward: only modules can be followed by one")


def test_activations_inside_torch_s_transformer_are_seen_by_running():
    net = made(Encoder)
    report = add_dropout(net, 0.3, "activations")
    why = "it is not seen to run; an example shows what runs inside torch's own"
    assert set(entries(report.left_alone).values()) == {why}
    seen = add_dropout(net, 0.3, "activations", example=rows(net))
    assert entries(seen.left_alone)["body.layers.0.activation"].startswith("a dropout follows it already")


def test_names_choose_among_activations_or_any_modules_given_a_kind():
    net = made(Residual)
    add_dropout(net, 0.3, "activations", names=["units"])
    assert after(net) == {"units": Dropout}
    with pytest.raises(InvalidInput, match="'norm' is no activation that is seen to run; give a kind"):
        add_dropout(net, 0.3, "activations", names=["norm"])
    add_dropout(net, 0.3, "activations", names=["second"], kind=lambda p: DropBlock2d(p, 3))
    assert after(net) == {"units": Dropout, "second": DropBlock2d}
    (first, *_) = capture(net.eval(), rows(net)).graph.sites
    assert first.module == "second.dropout_after"


def test_batch_norm_holds_no_dropout_for_a_capture_has_it_in_eval_mode():
    net = made(Residual)
    with pytest.raises(InvalidInput, match="'norm' is a BatchNorm2d, which often is in eval mode by itself"):
        add_dropout(net, 0.3, "activations", names=["norm"], kind=nn.Dropout)


def test_after_a_sequential_is_after_its_last_module():
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU())), nn.Linear(4, 2))
    add_dropout(net, 0.3, "activations", names=["0"], kind=Dropout)
    assert after(net) == {"0.1.0": Dropout}


def test_a_kind_that_fails_at_the_second_place_leaves_the_first_alone():
    net = made(Cnn)
    before, made_layers = anatomy(net), []

    def kind(p):
        made_layers.append(p)
        return Dropout(p if len(made_layers) < 2 else 2.0)

    with pytest.raises(InvalidInput, match=r"p is 2\.0"):
        add_dropout(net, 0.3, "activations", kind=kind)
    assert anatomy(net) == before
