import pytest
import torch
from torch import nn
from torch.nn import functional

from dropout_core.capture.capture import capture
from dropout_core.engine import embedding
from dropout_core.engine.embedding import embeddings, last_hidden
from dropout_core.errors import InvalidInput


class Net(nn.Module):
    """Layers and a forward given by the test."""

    def __init__(self, forward, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict(layers)
        self._of = forward

    def forward(self, a_row):  # before the names of operators in the alphabet
        return self._of(self.layers, a_row)


def embedded(net, x):
    program = capture(net, x[:3])
    return embeddings(program.graph, program.weights, {program.graph.inputs[0].name: x})


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def hidden(layers, x):
    return torch.relu(layers["inner"](x))


def dropped(x):
    return functional.dropout(x, 0.5)


def layers(**more):
    return {"inner": nn.Linear(4, 6), "out": nn.Linear(6, 3), **more}


@pytest.mark.parametrize(
    "head",
    [
        lambda given, h: given["out"](dropped(h)),
        lambda given, h: dropped(given["out"](h)).softmax(-1),
        lambda given, h: dropped(h) @ given["out"].weight.T,
        lambda given, h: torch.addmm(given["out"].bias, dropped(h), given["out"].weight.T),
        lambda given, h: functional.linear(h, dropped(given["out"].weight)),
        lambda given, h: torch.cat([given["out"](dropped(h)), given["scale"](dropped(h))], -1),
        lambda given, h: given["out"](dropped(h)) / given["out"].bias.exp() + 2,
    ],
    ids=["dropout before", "dropout after", "matrix product", "addmm", "dropped weights", "two heads", "scaled"],
)
def test_the_last_linear_layers_input_with_the_noise_off(head):
    net = Net(lambda given, x: head(given, hidden(given, x)), **layers(scale=nn.Linear(6, 2)))
    x = rows(7, 4)

    found = embedded(net, x)

    assert found.dtype == torch.float32
    assert torch.allclose(found, hidden(net.layers, x).detach(), rtol=0, atol=1e-6)


def test_an_encoder_that_pools_its_positions():
    net = Net(
        lambda given, x: given["out"](given["encoder"](x).mean(1)),
        encoder=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
        out=nn.Linear(6, 3),
    )
    x = rows(5, 4, 6)

    expected = net.eval().layers["encoder"](x).mean(1).detach()
    assert torch.allclose(embedded(net.train(), x), expected, rtol=0, atol=1e-5)


def test_the_rows_themselves_where_there_is_one_layer():
    net = Net(lambda given, x: given["out"](dropped(x)), out=nn.Linear(4, 3))
    x = rows(5, 4).double()

    assert torch.equal(embedded(net.double(), x), x.float())


def test_chunks_change_nothing_and_no_rows_have_no_embeddings(monkeypatch):
    net, x = Net(lambda given, x: given["out"](dropped(hidden(given, x))), **layers()), rows(50, 4)
    whole = embedded(net, x)

    monkeypatch.setattr(embedding, "_CHUNK_BYTES", 1)

    assert torch.allclose(embedded(net, x), whole, rtol=0, atol=1e-6)
    program = capture(net, x)
    assert embeddings(program.graph, program.weights, {"a_row": x[:0]}).shape == (0, 6)
    assert embeddings(program.graph, program.weights, {"a_row": x[:1]}).shape == (1, 6)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda given, x: dropped(x).softmax(-1), "no linear layer"),
        (lambda given, x: given["out"](dropped(hidden(given, x))) + x[:, :3], "by a way around"),
        (lambda given, x: given["out"](dropped(hidden(given, x))) * given["gate"](x), "by a way around"),
        (lambda given, x: (dropped(x)[:, None] @ x[:, :, None]).flatten(1), "no linear layer"),
    ],
    ids=["none", "skip", "gate", "product of rows"],
)
def test_networks_that_no_one_vector_stands_for_are_refused(forward, message):
    program = capture(Net(forward, **layers(gate=nn.Linear(4, 3))), rows(3, 4))

    with pytest.raises(InvalidInput, match=message):
        last_hidden(program.graph)


def test_a_vector_for_each_position_is_refused():
    net = Net(lambda given, x: given["out"](dropped(hidden(given, x))).mean(1), **layers())

    with pytest.raises(InvalidInput, match=r"takes \[2, 5, 6\] for 2 rows; .* one vector"):
        embedded(net, rows(3, 5, 4))
