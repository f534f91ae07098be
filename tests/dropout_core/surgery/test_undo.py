import gc
import weakref

import pytest
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.surgery import add_dropout, replace_dropout, set_rates
from tests.support.surgery_nets import anatomy, mlp

SURGERIES = {
    "add": lambda net: add_dropout(net, 0.3),
    "replace": lambda net: replace_dropout(net, layers.GaussianDropout),
    "rates": lambda net: set_rates(net, 0.25),
}


def with_head():
    net = mlp()
    add_dropout(net, 0.2)
    return net


@pytest.mark.parametrize("name", SURGERIES)
def test_undo_is_exact_and_works_once(name):
    net = mlp() if name == "add" else with_head()
    before = anatomy(net)
    report = SURGERIES[name](net)
    assert anatomy(net) != before
    report.undo()
    assert anatomy(net) == before
    with pytest.raises(InvalidInput, match="undone already"):
        report.undo()
    assert anatomy(net) == before


@pytest.mark.parametrize("second", ["replace", "rates"])
def test_an_earlier_surgery_on_the_same_place_is_undone_after_a_later_one(second):
    net = mlp()
    start, first = anatomy(net), add_dropout(net, 0.2)
    between, later = anatomy(net), SURGERIES[second](net)
    after = anatomy(net)
    with pytest.raises(InvalidInput, match="'2' was operated on again; undo the later surgery first"):
        first.undo()
    assert anatomy(net) == after
    later.undo()
    assert anatomy(net) == between
    first.undo()
    assert anatomy(net) == start


def test_surgeries_on_other_places_are_undone_in_any_order():
    net = mlp()
    before, head, activation = anatomy(net), add_dropout(net, 0.2), None
    activation = add_dropout(net, 0.3, "activations", names=["0"], kind=nn.Dropout)
    head.undo()
    assert net[0].dropout_after.p == 0.3
    activation.undo()
    assert anatomy(net) == before


def test_a_surgery_that_finds_its_layers_gone_says_so():
    net = with_head()
    report = replace_dropout(net, layers.GaussianDropout)
    net[2].dropout_before = nn.Dropout(0.1)
    with pytest.raises(InvalidInput, match=r"'2\.dropout_before' was changed by other means"):
        report.undo()
    net = mlp()
    report = add_dropout(net, 0.2)
    net[2].dropout_before = nn.Dropout(0.1)
    with pytest.raises(InvalidInput, match="'2' was changed by other means"):
        report.undo()


def test_a_rate_set_by_hand_since_goes_back_too():
    net = nn.Sequential(nn.Dropout(0))
    report = set_rates(net, 0.3)
    net[0].p = 0.4
    report.undo()
    assert net[0].p == 0
    assert type(net[0].p) is int


def test_what_comes_back_is_in_the_mode_of_the_model():
    net = nn.Sequential(nn.Dropout(0.3)).eval()
    report = replace_dropout(net, layers.Dropout)
    net.train()
    report.undo()
    assert net[0].training


def test_a_surgery_keeps_no_model_alive():
    net = mlp()
    add_dropout(net, 0.2)
    gone = weakref.ref(net[2])
    del net
    gc.collect()
    assert gone() is None


def test_a_layer_that_holds_a_dropout_is_not_replaced():
    net = nn.Sequential(nn.Dropout(0.1))
    add_dropout(net, 0.3, "activations", names=["0"], kind=nn.Dropout)
    (left,) = [entry for entry in replace_dropout(net, layers.Dropout).left_alone if entry.path == "0"]
    assert left.note == "it has weights, or a branch, of its own"
