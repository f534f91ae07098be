import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import ConcreteDropout, Dropout, VariationalConv2d, VariationalLinear
from dropout_core.training.penalties import regularization
from tests.support.penalties import Net, divergence, kl, squares


def mixed():
    """Both kinds of penalty; only layers behind a ConcreteDropout have weights in it."""
    return nn.Sequential(
        nn.Linear(6, 3),
        ConcreteDropout(0.2),
        nn.Linear(3, 4),
        nn.ReLU(),
        VariationalLinear(4, 5, 0.1, share="unit"),
        nn.Dropout(0.5),
        ConcreteDropout(0.3, limit=0.5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 2),
    ).double()


@pytest.mark.parametrize(("options", "l", "scale"), [
    ({}, 1e-2, 1 / 200),
    ({"lengthscale": 3.0}, 3.0, 1 / 200),
    ({"tau": 5.0}, 1e-2, 2 / (5 * 200)),
    ({"tau": 5.0, "lengthscale": 3.0}, 3.0, 2 / (5 * 200)),
])  # fmt: skip
def test_it_is_the_sum_by_hand(options, l, scale):  # noqa: E741
    net = mixed()
    found = regularization(net, num_examples=200, **options)
    by_hand = divergence(0.2, l, squares(net[2]), 3) + divergence(0.3, l, squares(net[8]), 5) + kl(net[4])
    assert found.shape == ()
    assert float(found.detach()) == pytest.approx(scale * by_hand, rel=1e-6)


def test_gradients_reach_what_is_learned_and_are_those_of_differences():
    net = mixed()
    regularization(net, 10, lengthscale=2.0).backward()
    learned = {"1.logit", "2.weight", "4.log_alpha", "6.logit", "8.weight"}
    assert {name for name, value in net.named_parameters() if value.grad is not None} == learned
    for name in learned:
        value = net.get_parameter(name)
        ends = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(net)
            with torch.no_grad():
                moved.get_parameter(name).flatten()[0] += step
                ends.append(float(regularization(moved, 10, lengthscale=2.0)))
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(slope) > 1e-6
        assert float(value.grad.flatten()[0]) == pytest.approx(slope, rel=1e-5)


def test_a_step_with_it_trains_the_network():
    torch.manual_seed(0)
    model, x, y = mixed(), torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % 2
    line = next(line for line in regularization.__doc__.splitlines() if line.strip().startswith("loss = "))
    values = {"F": F, "model": model, "regularization": regularization, "x": x, "y": y}
    exec(line.strip(), values)
    values["loss"].backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_a_network_of_variational_layers_alone_need_not_be_traced():
    def forward(net, x):
        return net.linear(x) if x.sum() > 0 else x

    conv = VariationalConv2d(2, 3, 2, p=0.1)
    net = Net(forward, linear=VariationalLinear(3, 4, 0.1), again=nn.Sequential(conv, conv))
    assert float(regularization(net, 10).detach()) == pytest.approx((kl(net.linear) + kl(conv)) / 10, rel=1e-5)
    assert net.runs == 0
    assert float(regularization(conv, 10).detach()) == pytest.approx(kl(conv) / 10, rel=1e-5)


def test_what_is_left_to_the_hand_is_left_out():
    net = mixed()
    rest = divergence(0.3, 1e-2, squares(net[8]), 5) + kl(net[4])
    for by_hand in ([net[1]], net[:2], net[1]):
        assert float(regularization(net, 10, by_hand=by_hand).detach()) == pytest.approx(rest / 10, rel=1e-6)
    first = net[1].regularization([net[2].weight], features=3, num_examples=10)
    both = regularization(net, 10, by_hand=[net[1]]) + first
    torch.testing.assert_close(both, regularization(net, 10))
    everything = [net[1], net[4], net[6]]
    with pytest.raises(InvalidInput, match="nothing has a penalty"):
        regularization(net, 10, by_hand=everything)


def test_a_network_is_traced_once_and_again_when_it_changes():
    net = Net(lambda net, x: net.cell(net.drop(x)), drop=ConcreteDropout(0.2), cell=nn.Linear(3, 3))
    for _ in range(3):
        regularization(net, 10)
    assert net.runs == 1
    with torch.no_grad():
        net.cell.weight.fill_(2.0)
    by_hand = divergence(0.2, 1, 36.0, 3)
    assert float(regularization(net, 1, lengthscale=1.0).detach()) == pytest.approx(by_hand, rel=1e-5)
    assert net.runs == 1
    net.cell = nn.Sequential(nn.ReLU(), nn.Linear(3, 5))
    by_hand = divergence(0.2, 1, squares(net.cell[1]), 3)
    assert float(regularization(net, 1, lengthscale=1.0).detach()) == pytest.approx(by_hand, rel=1e-5)
    assert net.runs == 2


def test_a_network_with_another_way_in_eval_mode_is_traced_in_both():
    net = Net(
        lambda net, x: (net.one if net.training else net.two)(net.drop(x)),
        drop=ConcreteDropout(0.2), one=nn.Linear(3, 3), two=nn.Linear(3, 3),
    )  # fmt: skip
    for mode, reader in ((True, net.one), (False, net.two), (True, net.one)):
        by_hand = divergence(0.2, 1, squares(reader), 3)
        net.train(mode)
        assert float(regularization(net, 1, lengthscale=1.0).detach()) == pytest.approx(by_hand, rel=1e-5)


def test_the_network_and_the_random_numbers_stay_as_they_are():
    def forward(net, x):
        return net.cell(net.relu(net.drop(x))) * torch.rand(1)

    net = Net(forward, drop=ConcreteDropout(), relu=nn.ReLU(inplace=True), cell=nn.Linear(3, 3), more=Dropout(0.1))
    net.more.eval()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    regularization(net, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert (net.relu.inplace, net.training, net.more.training) == (True, True, False)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_wrapped_network_has_the_penalty_of_the_network():
    net = mixed()
    wanted, compiled = regularization(net, 10), torch.compile(net, backend="eager")
    for wrapped in (compiled, nn.DataParallel(net), nn.DataParallel(compiled)):
        assert torch.equal(regularization(wrapped, 10), wanted)


@pytest.mark.parametrize("net", [nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), Dropout(0.5))])
def test_a_network_without_a_penalty_is_refused(net):
    with pytest.raises(InvalidInput, match="nothing has a penalty; a network with a variational layer or"):
        regularization(net, 10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_examples": 0}, "num_examples is 0; a number above 0"),
        ({"num_examples": -3}, "num_examples is -3"),
        ({"num_examples": 10, "lengthscale": 0.0}, "lengthscale is 0.0"),
        ({"num_examples": 10, "tau": 0.0}, "tau is 0.0"),
        ({"num_examples": 10, "tau": math.nan}, "tau is nan"),
    ],
)
def test_numbers_without_a_meaning_are_refused(options, reason):
    with pytest.raises(InvalidInput, match=reason):
        regularization(mixed(), **options)
