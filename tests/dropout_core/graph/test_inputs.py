"""Several inputs and outputs, against the enumeration of all masks."""

from functools import cache

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import select_rows
from dropout_core.graph.program import Input
from dropout_core.measures.moments import Moments
from dropout_core.verify import is_the_model, verify
from tests.support import references
from tests.support.inputs import SEVERAL, Attention, Shifted, TokensAndMask, TwoInputs, drawn, network, tokens

each_net = pytest.mark.parametrize("kind", SEVERAL, ids=lambda kind: kind.__name__)
PASSES = 2000


@cache
def captured(kind):
    net, example = network(kind), kind.inputs(4)
    result = getattr(kind, "result", None)
    program = capture(net, example, result=result)
    engine = Engine(program)
    is_the_model(program, net, example, result)
    verify(program, engine, example, "mean")
    return net, program, engine


def outputs(engine, program, inputs, passes, seed=0):
    return torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, inputs, PassOptions(passes, seed, sampling="iid"))]
    )


@each_net
def test_mean_and_variance_agree_with_the_enumeration_of_all_masks(kind):
    """5 standard errors, as in test_engine."""
    net, program, engine = captured(kind)
    inputs = kind.inputs(2)
    mean, variance, fourth = references.enumerated(net, inputs)
    found = Moments.of(outputs(engine, program, inputs, PASSES))
    assert ((found.mean - mean).abs() <= 5 * (variance / PASSES).sqrt()).all()
    error = 5 * ((fourth - variance**2).clamp_min(0) / PASSES).sqrt() + 25 * variance / PASSES
    assert ((found.variance - variance).abs() <= error).all()


@each_net
def test_inputs_are_named_as_forward_names_them(kind):
    _, program, _ = captured(kind)
    wanted = kind.inputs(1)
    assert program.graph.inputs == tuple(Input(name, tuple(x.shape[1:]), x.dtype) for name, x in wanted.items())


@each_net
def test_a_row_is_itself_among_others(kind):
    _, program, engine = captured(kind)
    inputs = kind.inputs(9)
    whole = outputs(engine, program, inputs, 8)
    alone = outputs(engine, program, select_rows(inputs, slice(4, 5)), 8)
    torch.testing.assert_close(alone, whole[:, 4:5], rtol=0, atol=1e-12)


def test_a_tuple_a_mapping_and_its_order_are_one_network():
    net, program, _ = captured(TwoInputs)
    inputs = TwoInputs.inputs(4)
    for given in (tuple(inputs.values()), dict(reversed(inputs.items()))):
        assert capture(net, given).graph == program.graph


def test_what_is_not_given_keeps_its_default():
    net, inputs = network(Shifted), Shifted.inputs(3)
    with_shift, without = (Engine(p).run(p.weights, x, PassOptions(4, 0, sampling="iid")) for p, x in (
        (captured(Shifted)[1], inputs), (captured(TwoInputs)[1], TwoInputs.inputs(3)),
    ))  # fmt: skip
    assert torch.equal(net.head.weight, network(TwoInputs).head.weight)
    torch.testing.assert_close(next(with_shift).outputs, next(without).outputs + inputs["shift"], rtol=0, atol=1e-12)


def test_one_tensor_for_two_inputs_stays_two_inputs():
    """torch.export would take them for one, and read the second nowhere."""
    net = network(TwoSides)
    x = drawn(3, 2)
    program = capture(net, (x, x))
    is_the_model(program, net, {"a": x, "b": drawn(3, 2, seed=5)})


class TwoSides(nn.Module):
    dtype = torch.float64

    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(2, 2, 3)

    def forward(self, a, b):
        return nn.functional.dropout(self.layer(a, b), 0.5, self.training)


def test_a_mask_that_hides_nothing_still_shows_whose_rows_it_has():
    """Folded into heads, its rows are seen only where it changes."""
    net = network(FoldedMask)
    inputs = Attention.inputs(4, 5)
    program = capture(net, inputs)
    folded = [rows for rows in program.graph.boundary.values() if rows is not None and rows.after == 2]
    assert folded
    is_the_model(program, net, inputs)


class FoldedMask(Attention):
    def forward(self, input_ids, attention_mask):
        h = nn.functional.dropout(self.table(input_ids), 0.5, self.training).unflatten(-1, (2, 4)).transpose(1, 2)
        scores = (h @ h.mT).flatten(0, 1) - 9.0 * (1 - attention_mask.repeat_interleave(2, 0)[:, None, :])
        return self.head((scores.softmax(-1) @ h.flatten(0, 1)).view(-1, 2, 5, 4).transpose(1, 2).flatten(2).mean(1))


X, WEIGHT = drawn(4, 2), drawn(4, 1)
MISFITS = {
    "another number of rows": ({"x": X, "weight": WEIGHT[:3]}, "4 of x, 3 of weight"),
    "an unknown name": (
        {"x": X, "wait": WEIGHT},
        "'wait' came; the arguments of TwoInputs.forward are x, weight",
    ),
    "one too few": ((X,), "TwoInputs.forward takes weight as well"),
    "one too many": ((X, WEIGHT, X), "3 inputs came; the arguments of TwoInputs.forward are x, weight."),
    "a number": ({"x": X, "weight": 3}, "the input weight is a int"),
    "a tensor without rows": ({"x": X, "weight": torch.tensor(3.0)}, "the input weight is 3.0, without rows"),
    "nothing": ({}, "the input is a dict; give a tensor, rows first, a tuple of some, or a mapping by name"),
    "a list": ([X, WEIGHT], "the input is a list"),
}


@pytest.mark.parametrize(("given", "says"), MISFITS.values(), ids=MISFITS.keys())
def test_inputs_that_do_not_fit_are_refused(given, says):
    with pytest.raises(InvalidInput) as refusal:
        capture(network(TwoInputs), given)
    assert says in str(refusal.value)


def test_an_engine_says_what_inputs_it_takes():
    _, program, engine = captured(TokensAndMask)
    inputs = TokensAndMask.inputs(2)
    for given, says in (
        (inputs["input_ids"], "the inputs that came are 1 without names; the network takes input_ids, attention_mask"),
        ({"input_ids": inputs["input_ids"]}, "the inputs that came are input_ids; the network takes"),
        ({**inputs, "attention_mask": torch.ones(3, 5)}, "attention_mask has shape [3, 5]; [2, 5] is wanted"),
        ({**inputs, "input_ids": tokens(2, 6)}, "input_ids has shape [2, 6]; [2, 5] is wanted"),
        ({**inputs, "input_ids": tokens(2)}, "input_ids has shape [2]; [rows, 5] is wanted"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            next(engine.run(program.weights, given, PassOptions(1, 0, sampling="iid")))
        assert says in str(refusal.value)
