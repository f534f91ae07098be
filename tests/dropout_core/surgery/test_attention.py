import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.errors import InvalidInput
from dropout_core.layers import AttentionDropout, Dropout, MultiheadAttention
from dropout_core.predict import predict
from dropout_core.surgery import add_dropout
from tests.support.captured import made
from tests.support.surgery_nets import Encoder, anatomy, entries, mlp, rows

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def attention(**options):
    return made(lambda: nn.MultiheadAttention(8, 2, **{"batch_first": True, **options}))


def test_a_transformer_gets_attention_that_can_be_captured_with_its_own_weights():
    net = made(Encoder).eval()
    before, wanted = anatomy(net), net(rows(net))
    report = add_dropout(net, 0.3, "attention")
    assert [entry.path for entry in report.changed] == ["body.layers.0.self_attn", "body.layers.1.self_attn"]
    assert all(isinstance(block.self_attn, MultiheadAttention) for block in net.body.layers)
    assert anatomy(net)[2:] == before[2:]
    torch.testing.assert_close(net(rows(net)), wanted, rtol=0, atol=1e-6)
    assert [site.rate for site in capture(net, rows(net)).graph.sites] == [0.3, 0.3]
    report.undo()
    assert anatomy(net) == before


@pytest.mark.parametrize("masks", [{}, {"need_weights": False}, {"average_attn_weights": False}, {"attn_mask": 3}])
def test_the_new_attention_is_called_as_the_old_one(masks):
    net = nn.ModuleList([attention(dropout=0.5)]).eval()
    if "attn_mask" in masks:
        masks = {"attn_mask": torch.arange(5) > torch.arange(5)[:, None] + torch.arange(4)[:, None, None]}
    wanted = net[0](X, X, X, **masks)
    add_dropout(net, 0.3, "attention")
    found = net[0](X, X, X, **masks)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert net[0].p == 0.3
    assert net.train()[0].training


def test_a_copy_of_attention_that_is_used_twice_is_one_layer_in_both_places():
    shared = attention()
    net = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared])})
    report = add_dropout(net, 0.3, "attention")
    assert net["a"] is net["b"][0]
    assert [entry.path for entry in report.changed] == ["a, b.0"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_first": False}, "its rows are not first (batch_first=False)"),
        ({"kdim": 4}, "its keys or values have sizes of their own"),
        ({"add_bias_kv": True}, "it adds keys (add_bias_kv, add_zero_attn)"),
        ({"add_zero_attn": True}, "it adds keys (add_bias_kv, add_zero_attn)"),
    ],
)
def test_where_ours_cannot_stand_in_torch_drops_itself(options, reason):
    net = nn.ModuleList([attention(**options)])
    report = add_dropout(net, 0.3, "attention")
    assert type(net[0]) is nn.MultiheadAttention
    assert net[0].dropout == 0.3
    assert entries(report.changed) == {"0": f"dropout=0.3, in torch's own code, as {reason}"}
    guided = add_dropout(net, 0.4, "attention", kind=lambda p: AttentionDropout(p, guided=True))
    assert entries(guided.left_alone) == {"0": f"{reason}: torch's own dropout is not guided"}
    report.undo()
    assert net[0].dropout == 0.0


def test_attention_with_hooks_a_kind_of_its_own_or_no_place_stays_itself():
    class Own(nn.MultiheadAttention):
        pass

    hooked, own, root = attention(), Own(8, 2, batch_first=True), attention()
    hooked.register_forward_hook(lambda module, inputs, output: None)
    add_dropout(nn.ModuleList([hooked, own]), 0.3, "attention")
    add_dropout(root, 0.3, "attention")
    assert hooked.dropout == own.dropout == root.dropout == 0.3


@pytest.mark.parametrize(("need_weights", "method"), [(False, "loop"), (False, "captured"), (True, "captured")])
def test_dropout_in_torch_s_own_attention_is_predicted(need_weights, method):
    net = made(lambda: nn.Sequential(nn.Linear(3, 8), SequenceFirst(need_weights), nn.Linear(8, 2)))
    add_dropout(net, 0.3, "attention")
    x = torch.randn(2, 5, 3)
    assert (predict(net, x, passes=8, output="mean", method=method).variance > 0).all()


class SequenceFirst(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(8, 2), need_weights

    def forward(self, x):
        steps = x.transpose(0, 1)
        return self.attention(steps, steps, steps, need_weights=self.need_weights)[0].mean(0)


def test_our_own_attention_gets_the_rate():
    net = nn.ModuleList([made(MultiheadAttention, 8, 2, 0.1), made(MultiheadAttention, 8, 2, 0.1, True)])
    before = list(net)
    report = add_dropout(net, 0.3, "attention")
    assert list(net) == before
    assert [layer.p for layer in net] == [0.3, 0.3]
    guided = add_dropout(net, 0.4, "attention", kind=lambda p: AttentionDropout(p, guided=True))
    assert [layer.p for layer in net] == [0.3, 0.4]
    assert entries(guided.left_alone) == {"0": "its guided is False; set it beside p"}
    guided.undo()
    report.undo()
    assert [layer.p for layer in net] == [0.1, 0.1]


def test_a_kind_says_whether_it_is_guided():
    net = nn.ModuleList([attention()])
    add_dropout(net, 0.3, "attention", kind=lambda p: AttentionDropout(p, guided=True))
    assert net[0].guided
    assert net[0].p == 0.3
    with pytest.raises(InvalidInput, match="kind made a Dropout; for attention an AttentionDropout is wanted"):
        add_dropout(net, 0.3, "attention", kind=Dropout)


def test_names_are_paths_of_attention_or_of_what_holds_it():
    net = made(Encoder)
    report = add_dropout(net, 0.3, "attention", names=["body.layers.1"])
    assert [entry.path for entry in report.found] == ["body.layers.1.self_attn"]
    with pytest.raises(InvalidInput, match=r"no module 'body\.layers\.2'"):
        add_dropout(net, 0.3, "attention", names=["body.layers.2"])
    for model, names in ((mlp(), None), (net, ["head"])):
        with pytest.raises(InvalidInput, match=r"no nn\.MultiheadAttention was found"):
            add_dropout(model, 0.3, "attention", names=names)


def test_weights_that_were_replaced_since_are_not_undone():
    net = nn.ModuleList([attention()])
    report = add_dropout(net, 0.3, "attention")
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)
    with pytest.raises(InvalidInput, match="'0' was changed by other means"):
        report.undo()
