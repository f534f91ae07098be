import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.layers import (
    AlphaDropout,
    ClassicDropout,
    Dropout,
    GaussianDropout,
    GroupDropout,
    SpatialDropout2d,
    StochasticDepth,
    fold_keep_rate,
)
from dropout_core.layers.classic import classic_dropout

NUMBERS = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(shape, generator=NUMBERS, dtype=torch.float64)


class Net(nn.Module):
    """Named modules, and a forward that is given."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def of_functions(net, x):
    x = F.dropout(F.leaky_relu(F.relu(net.drop(x)), 0.2), 0.5, training=net.training)
    x = F.avg_pool2d(F.max_pool2d(x, 2, stride=1), 2, stride=1)
    return net.fc(F.adaptive_avg_pool2d(x, (1, 2)).view(x.size(0), -1))


def of_methods(net, x):
    x = net.drop(x).relu().transpose(1, 2).contiguous().permute(0, 2, 1, 3).unsqueeze(0).squeeze(0)
    return net.fc(torch.flatten(x.mean((2, 3)).reshape(x.shape[0], -1), start_dim=1))


def of_branches(net, x):
    x = net.drop(x)
    return net.left(F.relu(x)) * torch.sigmoid(net.right(x))


def of_two_calls(net, x):
    return net.second(net.drop(torch.tanh(net.first(net.drop(x)))))


def of_weights_elsewhere(net, x):
    """The functional form and the weights that no dropout stands before are left as they are."""
    return F.linear(classic_dropout(x, 0.5, net.training), net.free.weight) + net.fc(net.drop(x))


def aliased():
    drop, fc = ClassicDropout(0.3), nn.Linear(4, 4)
    body = nn.Sequential(drop, nn.Linear(4, 4), nn.Tanh(), drop, fc)
    return Net(lambda net, x: net.body(x), body=body, last=fc)


def convolutions():
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3), ClassicDropout(0.2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 2, padding=1, padding_mode="reflect", bias=False), nn.BatchNorm2d(4)),
        *(ClassicDropout(0.3), nn.ConvTranspose2d(4, 2, 2), ClassicDropout(0.5), SpatialDropout2d(0.1)),
        *(nn.AdaptiveAvgPool2d(2), nn.PReLU(), nn.Flatten(), nn.Dropout(0.4), nn.Linear(8, 2)),
    )


FOLDED = {
    "mlp": (
        nn.Sequential(ClassicDropout(0.2), nn.Linear(6, 5), nn.ReLU(), ClassicDropout(0.5), nn.Linear(5, 2)),
        (6,),
    ),
    "convolutions": (convolutions(), (1, 9, 9)),
    "sequence": (nn.Sequential(ClassicDropout(0.2), nn.AvgPool1d(2), nn.Conv1d(3, 2, 2), nn.Flatten()), (3, 8)),
    "volume": (
        nn.Sequential(ClassicDropout(0.2), nn.LeakyReLU(0.1, inplace=True), nn.Conv3d(1, 2, 2), nn.Flatten()),
        (1, 3, 3, 3),
    ),
    "nested": (
        nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sequential(ClassicDropout(0.4))), nn.Linear(4, 2)),
        (4,),
    ),
    "two in a row": (nn.Sequential(ClassicDropout(0.2), nn.Identity(), ClassicDropout(0.5), nn.Linear(4, 2)), (4,)),
    "everything dropped": (nn.Sequential(ClassicDropout(1.0), nn.ReLU(), nn.Linear(4, 2)), (4,)),
    "functions": (Net(of_functions, drop=ClassicDropout(0.3), fc=nn.Linear(4, 2)), (2, 4, 5)),
    "methods": (Net(of_methods, drop=ClassicDropout(0.3), fc=nn.Linear(2, 2)), (2, 4, 5)),
    "branches": (Net(of_branches, drop=ClassicDropout(0.3), left=nn.Linear(4, 2), right=nn.Linear(4, 2)), (4,)),
    "two calls": (
        Net(of_two_calls, drop=ClassicDropout(0.3), first=nn.Linear(4, 4), second=nn.Linear(4, 2)),
        (4,),
    ),
    "elsewhere": (
        Net(of_weights_elsewhere, drop=ClassicDropout(0.3), free=nn.Linear(4, 2), fc=nn.Linear(4, 2)),
        (4,),
    ),
    "under two names": (aliased(), (4,)),
    "dropouts of ours": (
        nn.Sequential(
            *(ClassicDropout(0.3), Dropout(0.5), AlphaDropout(0.5), GaussianDropout(0.5)),
            *(GroupDropout([0, 1, 0, 1], 0.5), nn.Linear(4, 2)),
        ),
        (4,),
    ),
    "no dropout of the kind": (nn.Sequential(Dropout(0.3), nn.Linear(4, 2), nn.Softmax(1)), (4,)),
    "never called": (Net(lambda net, x: net.fc(x), drop=ClassicDropout(0.3), fc=nn.Linear(4, 2)), (4,)),
}


def trained(net):
    """In float64, with batch statistics that are not those of the start."""
    net = copy.deepcopy(net).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


@pytest.mark.parametrize(("net", "row"), FOLDED.values(), ids=FOLDED.keys())
@pytest.mark.parametrize("training", [True, False])
def test_folded_weights_answer_as_the_network_does_at_test(net, row, training):
    net, x = trained(net).train(training), randn(5, *row)
    before, given = {name: value.clone() for name, value in net.state_dict().items()}, x.clone()
    folded = fold_keep_rate(net)

    assert not any(isinstance(module, ClassicDropout) for module in folded.modules())
    assert not any(module.training for module in folded.modules())
    assert all(module.training == training for module in net.modules())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert torch.allclose(folded(x), net.eval()(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, given)


def test_weights_take_the_factor_and_biases_do_not():
    net, _ = FOLDED["two in a row"]
    folded = fold_keep_rate(net)
    assert torch.allclose(folded[3].weight, 0.8 * 0.5 * net[3].weight, rtol=1e-6)
    assert torch.equal(folded[3].bias, net[3].bias)


def test_folding_keeps_what_is_frozen_and_does_not_tie_the_copy_to_the_network():
    net = nn.Sequential(ClassicDropout(0.5), nn.Linear(3, 2))
    net[1].weight.requires_grad_(False)
    folded = fold_keep_rate(net)
    assert not folded[1].weight.requires_grad
    assert folded[1].bias.requires_grad
    nn.init.zeros_(folded[1].bias)
    assert net[1].bias.any()


def read_twice(net, x):
    return net.fc(net.drop(x)) + net.fc(x)


def read_beside(net, x):
    return net.fc(net.drop(x)) + F.linear(x, net.fc.weight)


def tied():
    net = Net(lambda net, x: net.second(net.first(net.drop(x))), drop=ClassicDropout(0.5), first=nn.Linear(4, 4))
    net.second = nn.Linear(4, 4)
    net.second.weight = net.first.weight
    return net


def inside_and_out():
    layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=4, batch_first=True)
    return Net(
        lambda net, x: net.fc(net.drop(x)) + net.layer(x), drop=ClassicDropout(0.5), layer=layer, fc=layer.linear1
    )


def hidden():
    layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=4, batch_first=True)
    layer.dropout = ClassicDropout(0.5)
    return nn.Sequential(layer, nn.Linear(4, 2))


def reading(run, **modules):
    return Net(run, drop=ClassicDropout(0.5), fc=nn.Linear(4, 4), **modules)


weight = r"the weight of fc \(Linear\) is used more than once"
REFUSED = {
    "output": (nn.Sequential(nn.Linear(4, 4), ClassicDropout(0.5)), "'1'", "its value is the network's output"),
    "alone": (ClassicDropout(0.5), "''", "its value is the network's output"),
    "output beside": (reading(lambda net, x: (net.fc(net.drop(x)), net.drop(x))), "'drop'", "is the network's output"),
    "residual": (reading(lambda net, x: x + net.drop(net.fc(x))), "'drop'", "add reads its value"),
    "residual, in place": (reading(lambda net, x: net.drop(x).add_(1)), "'drop'", "add_ reads its value"),
    "joined": (reading(lambda net, x: net.fc(torch.cat([net.drop(x), x]))), "'drop'", "cat reads its value"),
    "norm": (nn.Sequential(ClassicDropout(0.5), nn.LayerNorm(4)), "'0'", r"1 \(LayerNorm\) reads its value"),
    "nested": (nn.Sequential(nn.Sequential(ClassicDropout(0.5), nn.GELU())), r"'0\.0'", r"0\.1 \(GELU\) reads"),
    "behind a pool": (
        nn.Sequential(ClassicDropout(0.5), nn.ReLU(), nn.MaxPool1d(2, return_indices=True)), "'0'", "network's output"),
    "indices": (
        reading(lambda net, x: net.fc(net.pool(net.drop(x))[1].double()), pool=nn.MaxPool1d(1, return_indices=True)),
        "'drop'", "getitem reads its value"),
    "as weights": (reading(lambda net, x: F.linear(x, net.drop(x))), "'drop'", "linear reads its value"),
    "second operand": (reading(lambda net, x: F.leaky_relu(x, net.drop(x))), "'drop'", "leaky_relu reads its value"),
    "its bits": (reading(lambda net, x: net.drop(x).view(torch.int64)), "'drop'", "view reads its value"),
    "function in place": (
        reading(lambda net, x: net.fc(F.relu(net.drop(x), inplace=True))), "'drop'", "relu reads its value"),
    "branch of a block": (
        reading(lambda net, x: net.block(net.drop(x)), block=StochasticDepth(nn.Linear(4, 4), 0.5)),
        "'drop'", r"block \(StochasticDepth\) reads its value"),
    "recurrent": (nn.Sequential(ClassicDropout(0.5), nn.GRU(4, 4)), "'0'", r"1 \(GRU\) reads its value"),
    "called twice": (reading(read_twice), "'drop'", weight),
    "read beside": (reading(read_beside), "'drop'", weight),
    "tied": (tied(), "'drop'", r"the weight of first \(Linear\) is used more than once"),
    "used inside another": (inside_and_out(), "'drop'", "is used more than once"),
    "parametrized": (
        nn.Sequential(ClassicDropout(0.5), parametrizations.weight_norm(nn.Linear(4, 4))),
        "'0'", "the weight of 1 .* is computed from others"),
    "hidden": (hidden(), r"'0\.dropout'", r"0 \(TransformerEncoderLayer\) is not traced"),
    "hidden in ours": (
        nn.Sequential(StochasticDepth(nn.Sequential(ClassicDropout(0.5), nn.Linear(4, 4)), 0.5)),
        r"'0\.branch\.0'", r"0 \(StochasticDepth\) is not traced"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "path", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_folded_is_refused_with_the_dropout_and_what_stands_in_the_way(net, path, reason):
    with pytest.raises(InvalidInput, match=rf"the ClassicDropout at {path} cannot be folded: .*{reason}.*is wanted"):
        fold_keep_rate(net)


def test_a_network_that_cannot_be_traced_is_refused():
    net = Net(lambda net, x: net.fc(x) if x.sum() > 0 else x, fc=nn.Linear(4, 2))
    with pytest.raises(InvalidInput, match=r"torch\.fx cannot trace the network"):
        fold_keep_rate(net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_kept_is_itself_to_the_bit(dtype):
    torch.manual_seed(0)
    x = torch.rand(400).to(dtype) + 0.5
    y = classic_dropout(x, 0.3)
    assert set((y == 0).tolist()) == {True, False}
    assert torch.equal(torch.where(y == 0, x, y), x)


@torch.no_grad()
def test_what_a_pass_keeps_is_itself_to_the_bit():
    net, x = nn.Sequential(ClassicDropout(0.3), nn.Flatten()), torch.rand(4, 50) + 0.5
    program = capture(net, x)
    drawn = torch.cat(
        [chunk.outputs for chunk in Engine(program).run(program.weights, x, PassOptions(20, 0, sampling="iid"))]
    )
    assert set((drawn == 0).flatten().tolist()) == {True, False}
    assert torch.equal(torch.where(drawn == 0, x, drawn), x.expand_as(drawn))
