import math
from itertools import product

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.errors import InvalidInput
from dropout_core.layers import AttentionDropout, MultiheadAttention
from dropout_core.verify import is_the_model, verify
from tests.support import moments

ROWS = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1.0)), min_size=1, max_size=12).filter(any)
RATES = st.floats(0.001, 0.999)


def pair(guided=False, p=0.0, bias=True):
    """Torch's layer and ours with the same weights, biases that are not 0, in float64 and eval mode."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
    ours = MultiheadAttention(8, 2, p, guided, bias)
    for name, value in theirs.named_parameters():
        if "bias" in name:
            nn.init.normal_(value)
    ours.load_state_dict(theirs.state_dict())
    return theirs.double().eval(), ours.double().eval()


def test_weights_and_their_start_are_those_of_torch():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2).state_dict()
    torch.manual_seed(0)
    ours = MultiheadAttention(8, 2, 0.1).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


B, H, Q, K, E = 3, 2, 4, 5, 8
PADDING = torch.tensor([[False] * 5, [False, False, True, False, True], [True, True, True, True, False]])
SCORES = torch.randn(Q, K, generator=torch.Generator().manual_seed(1)).double()
FUTURE = torch.ones(Q, K, dtype=torch.bool).triu(1)
PADDINGS = {"none": None, "bool": PADDING, "float": PADDING.double().masked_fill(PADDING, -torch.inf)}
MASKS = {
    "none": None,
    "bool": FUTURE,
    "float": SCORES.masked_fill(FUTURE, -torch.inf),
    "each head": SCORES + torch.arange(B * H).reshape(B, H, 1, 1),
    "each head, bool": FUTURE & (torch.arange(B * H).reshape(B, H, 1, 1) > 1),
}


def folded(mask):
    return mask.flatten(0, 1) if mask is not None and mask.dim() == 4 else mask


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("padding", "mask"), list(product(PADDINGS, MASKS)))
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")  # torch's, of bool beside float
@torch.no_grad()
def test_without_dropout_it_is_torchs(padding, mask, need_weights, bias):
    theirs, ours = pair(bias=bias)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(B, length, E, generator=generator).double() for length in (Q, K, K))
    # The third row has one key, its last, which no query may see: the attention of torch is NaN there.
    hidden = torch.zeros(B, Q, dtype=torch.bool)
    if padding != "none" and mask in ("bool", "float", "each head, bool"):
        hidden[2] = True
    for average in (True, False):
        options = {"need_weights": need_weights, "average_attn_weights": average}
        wanted, weights = theirs(query, key, value, PADDINGS[padding], attn_mask=folded(MASKS[mask]), **options)
        found, own = ours(query, key, value, PADDINGS[padding], attn_mask=MASKS[mask], **options)
        assert torch.allclose(found[~hidden], wanted[~hidden], rtol=0, atol=1e-12)
        assert found.isfinite().all()
        assert (own is None) == (weights is None) == (not need_weights)
        if need_weights:
            places = ~hidden if average else (~hidden).unsqueeze(1).expand(B, H, Q)
            assert own.shape == weights.shape
            assert torch.allclose(own[places], weights[places], rtol=0, atol=1e-12)


@torch.no_grad()
def test_keys_and_values_are_the_query_where_none_are_given():
    theirs, ours = pair()
    x, other = torch.randn(2, B, Q, E, dtype=torch.float64)
    assert torch.allclose(ours(x)[0], theirs(x, x, x)[0], rtol=0, atol=1e-12)
    assert torch.allclose(ours(x, other)[0], theirs(x, other, other)[0], rtol=0, atol=1e-12)
    causal = ours(x, is_causal=True, attn_mask=torch.zeros(Q, Q))[0]
    assert torch.allclose(causal, theirs(x, x, x, attn_mask=FUTURE[:, :Q])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("training", "need_weights"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_without_keys_attends_to_nothing(guided, training, need_weights, kind):
    _, ours = pair(guided, 0.5)
    ours.train(training)
    x = torch.randn(2, Q, E, dtype=torch.float64, requires_grad=True)
    padding = torch.tensor([[False] * Q, [True] * Q])
    if kind == "float":
        padding = torch.zeros(2, Q).masked_fill(padding, -torch.inf)
    output, weights = ours(x, key_padding_mask=padding, need_weights=need_weights)
    output.square().sum().backward()
    assert torch.equal(output[1], ours.out_proj.bias.expand(Q, E))
    assert weights is None or not weights[1].any()
    assert not x.grad[1].any()
    for gradient in (x.grad, ours.in_proj_weight.grad, ours.out_proj.weight.grad):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_the_weights_returned_are_those_used(guided):
    _, ours = pair(guided, 0.4)
    x = torch.randn(B, K, E, dtype=torch.float64)
    full = ours(x, key_padding_mask=PADDING, need_weights=True, average_attn_weights=False)[1]
    torch.manual_seed(1)
    output, weights = ours.train()(x, key_padding_mask=PADDING, need_weights=True, average_attn_weights=False)
    torch.manual_seed(1)
    _, averaged = ours(x, key_padding_mask=PADDING, need_weights=True)
    assert torch.equal(averaged, weights.mean(1))

    values = x @ ours.in_proj_weight[2 * E :].T + ours.in_proj_bias[2 * E :]
    by_head = [weights[:, h] @ values[..., h * 4 : h * 4 + 4] for h in range(H)]
    wanted = torch.cat(by_head, -1) @ ours.out_proj.weight.T + ours.out_proj.bias
    assert torch.allclose(output, wanted, rtol=0, atol=1e-12)

    odds = moments.guided_odds(full, 0.4) if guided else 0.4 / 0.6
    scaled = full * (1 + odds)  # over keep
    assert torch.allclose(torch.where(weights == 0, scaled, weights), scaled, rtol=1e-9, atol=0)
    assert ((weights == 0) & (full > 0)).any()


@torch.no_grad()
def test_float16_does_not_hide_keys():
    """Scores 18 apart: weights that float16 rounds to 0 still count as keys, so that the heavy one is not alone."""
    torch.manual_seed(0)
    ours = MultiheadAttention(2, 1, 0.3, guided=True, bias=False).half()
    ours.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
    keys = torch.tensor([[18 * math.sqrt(2), 0.0], [0, 0], [0, 0]]).half().expand(4000, 3, 2)
    query = torch.tensor([1.0, 0.0]).half().expand(4000, 1, 2)
    assert ours.eval()(query, keys, need_weights=True)[1][0, 0].tolist() == [1, 0, 0]
    weights = ours.train()(query, keys, need_weights=True)[1]
    assert weights.dtype == torch.float16
    assert abs((weights[..., 0] == 0).double().mean() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 4000)


class Encoder(nn.Module):
    """A transformer layer of torch over [B, 5, 8], causal and with padding that is read from the input."""

    def __init__(self, guided):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layer.self_attn = MultiheadAttention(8, 2, 0.3, guided)
        self.register_buffer("future", torch.ones(5, 5, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x):
        padding = x[..., 0] > 0.8
        return self.layer(x, self.future, padding, is_causal=True).mean(1)


@pytest.mark.parametrize("guided", [False, True])
def test_in_a_transformer_layer_of_torch_it_can_be_captured(guided):
    torch.manual_seed(0)
    net = Encoder(guided)
    x = torch.rand(4, 5, 8)
    assert (x[..., 0] > 0.8).any()
    program = capture(net, x)
    engine = Engine(program)
    is_the_model(program, net, x)
    verify(program, engine, x, "mean")
    assert [site.kind for site in program.graph.sites] == ["bernoulli" if guided else "dropout"]
    assert engine.looped == ""


@pytest.mark.parametrize("guided", [False, True])
def test_masks_for_each_row_and_head_are_captured(guided):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = MultiheadAttention(4, 2, 0.3, guided)

        def forward(self, x):
            scores = torch.stack([x @ x.transpose(1, 2), -x @ x.transpose(1, 2)], dim=1)
            return self.attention(x, attn_mask=scores)[0].flatten(1)

    torch.manual_seed(0)
    net, x = Net(), torch.randn(3, 5, 4)
    program = capture(net, x)
    is_the_model(program, net, x)
    verify(program, Engine(program), x, "mean")


def test_its_rate_is_that_of_torchs_layer():
    attention = MultiheadAttention(4, 2, 0.1)
    attention.p = 0.4
    assert attention.dropout == 0.4
    with pytest.raises(InvalidInput, match=r"p is 1\.5"):
        attention.p = 1.5
    assert "embed_dim=4, num_heads=2, p=0.4, guided=False\n" in repr(attention)
    assert "p=0.2, guided=True" in repr(AttentionDropout(0.2, guided=True))


@pytest.mark.parametrize("heads", [0, 3, -2])
def test_heads_that_do_not_share_evenly_are_refused(heads):
    with pytest.raises(InvalidInput, match="a divisor of it is wanted"):
        MultiheadAttention(8, heads, 0.1)


X = torch.zeros(B, Q, E)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((X, torch.zeros(B, K, 7)), r"\[3, 5, 7\]; \[B, L, 8\] is wanted"),
        ((X, torch.zeros(B, K, E), X), r"\[3, 4, 8\], \[3, 5, 8\] and \[3, 4, 8\]; .* is wanted"),
        ((X, torch.zeros(1, K, E)), r"\[3, 4, 8\], \[1, 5, 8\] and \[1, 5, 8\]; .* is wanted"),
        ((X, X, X, torch.zeros(B, K, dtype=torch.bool)), r"key_padding_mask has shape \[3, 5\]; \[B, 4\] is wanted"),
        ((X, X, X, None, False, torch.zeros(B * H, Q, Q)), r"\[6, 4, 4\]; \[4, 4\] or \[B, 2, 4, 4\] is wanted"),
        ((X, X, X, None, False, torch.zeros(Q, K)), r"attn_mask has shape \[4, 5\]"),
        ((X, X, X, None, False, torch.zeros(2, H, Q, Q)), r"attn_mask has shape \[2, 2, 4, 4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, reason):
    for attention in (MultiheadAttention(E, H, 0.1), MultiheadAttention(E, H, 0.1).eval()):
        with pytest.raises(InvalidInput, match=reason):
            attention(*arguments)
