import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.training.max_norm import MaxNorm
from tests.support.cases import FLOATS


def rows(weight):
    """The places of each row's vector: the weights of a linear layer, a convolution or a gate."""
    return [[(row, *rest) for rest in places(weight.shape[1:])] for row in range(weight.shape[0])]


def places(shape):
    return [()] if not shape else [(first, *rest) for first in range(shape[0]) for rest in places(shape[1:])]


def transposed(groups):
    """By the definition of torch's transposed convolution: weight [I, O / groups, *]."""

    def vectors(weight):
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        return [
            [(group * inputs + i, output, *rest) for i in range(inputs) for rest in places(weight.shape[2:])]
            for group in range(groups)
            for output in range(outputs)
        ]

    return vectors


LAYERS = [
    (nn.Linear(5, 4), {"weight": rows}),
    (nn.Bilinear(2, 3, 4), {"weight": rows}),
    (nn.Conv1d(4, 6, 3, groups=2), {"weight": rows}),
    (nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last), {"weight": rows}),
    (nn.Conv3d(2, 3, 2), {"weight": rows}),
    (nn.ConvTranspose1d(4, 6, 3), {"weight": transposed(1)}),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), {"weight": transposed(2)}),
    (nn.ConvTranspose3d(2, 3, 2), {"weight": transposed(1)}),
    *(
        (kind(3, 4, num_layers=2, bidirectional=True), dict.fromkeys(two_layers, rows))
        for two_layers in [
            [f"weight_{of}_l{n}{side}" for of in ("ih", "hh") for n in (0, 1) for side in ("", "_reverse")]
        ]
        for kind in (nn.LSTM, nn.GRU, nn.RNN, layers.VariationalLSTM, layers.VariationalGRU, layers.VariationalRNN)
    ),
    (nn.LSTM(3, 4, proj_size=2), dict.fromkeys(["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"], rows)),
    *((cell(3, 4), {"weight_ih": rows, "weight_hh": rows}) for cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)),
    (nn.MultiheadAttention(4, 2), {"in_proj_weight": rows, "out_proj.weight": rows}),
    (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        dict.fromkeys(["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"], rows),
    ),
    (layers.DropConnectLinear(5, 4, 0.5), {"weight": rows}),
    (layers.VariationalConv2d(3, 4, 2, p=0.5), {"weight": rows}),
]


def by_hand(weight, vectors, c):
    """The weight with each vector at most c long, in float64, and how many were longer."""
    clipped, count = weight.detach().double().clone(), 0
    for vector in vectors(weight):
        length = math.sqrt(sum(float(clipped[place]) ** 2 for place in vector))
        if length > c:
            count += 1
            for place in vector:
                clipped[place] *= c / length
    return clipped, count


@pytest.mark.parametrize(("layer", "weights"), LAYERS, ids=lambda value: type(value).__name__)
def test_every_unit_has_incoming_weights_of_at_most_c(layer, weights):
    """Against a loop over single numbers. What has another name stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = copy.deepcopy(layer).double()
        with torch.no_grad():
            for weight in layer.parameters():
                weight.normal_()
    before = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    lengths = sorted(
        math.sqrt(sum(float(before[name][place]) ** 2 for place in vector))
        for name, vectors in weights.items()
        for vector in vectors(before[name])
    )
    middle = len(lengths) // 2
    c = (lengths[middle - 1] + lengths[middle]) / 2
    count = MaxNorm(c)(layer)
    expected = 0
    for name, weight in layer.named_parameters():
        if name not in weights:
            assert torch.equal(weight, before[name]), name
            continue
        clipped, longer = by_hand(before[name], weights[name], c)
        torch.testing.assert_close(weight.detach(), clipped, rtol=1e-12, atol=0)
        for vector in weights[name](weight):
            if math.sqrt(sum(float(before[name][place]) ** 2 for place in vector)) < c:
                assert all(weight[place] == before[name][place] for place in vector)
        expected += longer
    assert count == expected == len(lengths) - middle
    assert MaxNorm(c)(layer) == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("inputs", [1, 3, 4096, 100_000])
def test_the_norm_is_c_to_the_rounding_of_the_type_and_stays(dtype, inputs):
    """In half types a sum of squares would be far off, or infinite: 4096 numbers near 30 sum up to 3.7e6."""
    layer = nn.Linear(inputs, 3, dtype=dtype)
    with torch.no_grad():
        layer.weight.uniform_(20, 40)
        layer.weight[1] /= 1000 * inputs
    before = layer.weight.detach().clone()
    assert MaxNorm(2.0)(layer) == 2
    after = layer.weight.detach()
    assert torch.equal(after[1], before[1])
    lengths = after[[0, 2]].double().norm(dim=1)
    # Each weight is rounded once, by eps / 2 of itself at most; then there are the roundings of the sum of the squares.
    rounding = torch.finfo(dtype).eps / 2 + 64 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert (lengths - 2.0).abs().max() <= 2 * rounding
    cosines = torch.nn.functional.cosine_similarity(before[[0, 2]].double(), after[[0, 2]].double())
    assert cosines.min() > 1 - 1e-4
    assert MaxNorm(2.0)(layer) == 0
    assert torch.equal(layer.weight, after)


@given(
    scale=st.floats(1e-3, 1e3),
    c=st.floats(1e-2, 1e2),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 1), (4, 3), (7, 40)]),
)
@settings(deadline=None, max_examples=50)
def test_a_vector_within_c_keeps_every_bit_and_a_longer_one_its_direction(scale, c, seed, shape):
    layer = nn.Linear(shape[1], shape[0])
    before = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    with torch.no_grad():
        layer.weight.copy_(before)
    count = MaxNorm(c)(layer)
    lengths = before.double().norm(dim=1)
    factors = layer.weight.detach().double() / before.double()
    for length, factor, row, was in zip(lengths, factors, layer.weight.detach(), before, strict=True):
        if length <= c:
            assert torch.equal(row, was)
        elif length > c * (1 + 1e-5):
            torch.testing.assert_close(factor, torch.full_like(factor, c / length), rtol=1e-5, atol=0)
    assert (lengths > c * (1 + 1e-5)).sum() <= count <= (lengths > c).sum()


def test_zeros_and_what_is_not_finite_are_left_alone():
    layer = nn.Linear(2, 4)
    rows = [[0.0, -0.0], [math.nan, 5.0], [math.inf, 1.0], [3.0, 4.0]]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    assert MaxNorm(1.0)(layer) == 1
    torch.testing.assert_close(
        layer.weight.detach(), torch.tensor([*rows[:3], [0.6, 0.8]]), equal_nan=True, rtol=1e-6, atol=0
    )
    assert layer.weight[0].signbit().tolist() == [False, True]


def long_weights(*layers):
    with torch.no_grad():
        for layer in layers:
            for weight in layer.parameters():
                weight.fill_(10.0)
    return layers[0] if len(layers) == 1 else layers


def test_embeddings_norms_and_weights_that_are_not_trained_stay():
    frozen = nn.Linear(3, 3).requires_grad_(False)
    net = long_weights(nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.PReLU(), frozen, nn.Linear(3, 2)))
    assert MaxNorm(1.0)(net) == 2
    changed = [name for name, weight in net.named_parameters() if not (weight == 10).all()]
    assert changed == ["4.weight"]


def test_a_weight_in_several_places_is_clipped_and_counted_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    net = long_weights(nn.Sequential(first, nn.ReLU(), first, second))
    assert MaxNorm(1.0)(net) == 3


def test_some_layers_are_clipped_by_naming_them():
    first, second, third = long_weights(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    assert MaxNorm(1.0)([first, nn.Sequential(third)]) == 6
    assert [bool((layer.weight == 10).all()) for layer in (first, second, third)] == [False, True, False]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_hook_clips_after_each_step_until_it_is_removed(kind):
    """The same as a call after each step, and the step itself is not disturbed."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    other = copy.deepcopy(one)
    pair = [kind(net.parameters(), lr=0.1) for net in (one, other)]
    max_norm = MaxNorm(0.4)
    handle = max_norm.attach(pair[0], one)
    x = torch.randn(16, 4)
    for _ in range(4):
        for net, optimizer in zip((one, other), pair, strict=True):
            optimizer.zero_grad()
            (-net(x).square().mean()).backward()
            optimizer.step()
        assert max_norm(other) > 0
        assert all(torch.equal(*both) for both in zip(one.parameters(), other.parameters(), strict=True))
        assert max_norm(one) == 0
    handle.remove()
    long_weights(one)
    pair[0].zero_grad()
    pair[0].step()
    assert max_norm(one) == 10


def test_the_hook_takes_a_list_that_is_read_once():
    layer = long_weights(nn.Linear(3, 3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    MaxNorm(1.0).attach(optimizer, iter([layer]))
    for _ in range(2):
        long_weights(layer)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.ones(3))


def test_weights_that_are_computed_from_others_are_refused():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    net = nn.Sequential(long_weights(nn.Linear(3, 3)), normed)
    with pytest.raises(InvalidInput, match=r"weight of '1' \(ParametrizedLinear\) is computed from others; .* to clip"):
        MaxNorm(1.0)(net)
    assert (net[0].weight == 10).all()
    with pytest.raises(InvalidInput, match="is computed from others"):
        MaxNorm(1.0).attach(torch.optim.SGD(net.parameters(), lr=0.1), net)
    pruned = nn.Linear(3, 3)
    prune.random_unstructured(pruned, "weight", amount=0.5)
    with pytest.raises(InvalidInput, match=r"weight of '' \(Linear\) is computed from others"):
        MaxNorm(1.0)(pruned)
    recurrent = nn.LSTM(3, 3)
    nn.utils.parametrizations.weight_norm(recurrent, "weight_hh_l0")
    with pytest.raises(InvalidInput, match=r"weight_hh_l0 of '1' .* is computed from others"):
        MaxNorm(1.0)([nn.Linear(3, 3), recurrent])
    assert MaxNorm(1.0)(net[0]) == 3


@pytest.mark.parametrize("c", [0, -1.0, math.inf, math.nan])
def test_a_c_that_is_no_length_is_refused(c):
    with pytest.raises(InvalidInput, match=f"c is {c}; a finite number above 0"):
        MaxNorm(c)


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Embedding(3, 3), nn.Linear(3, 3).requires_grad_(False), []])
def test_nothing_to_clip_is_refused(net):
    with pytest.raises(InvalidInput, match="there is no weight to clip"):
        MaxNorm(1.0)(net)
