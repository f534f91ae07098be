"""Free dimensions: one capture for inputs of every length, and padding that no answer feels."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CaptureError, CoupledRows, InvalidInput, NotTheModel
from dropout_core.estimate.estimate import fold_passes
from dropout_core.graph.program import FreeDimension, Input
from dropout_core.graph.split import split
from dropout_core.verify import is_the_model, verify
from tests.support.inputs import FREE, Attention, Steps, network, tokens

each_net = pytest.mark.parametrize("kind", [Attention, Steps], ids=lambda kind: kind.__name__)
LENGTH = 6


@cache
def captured(kind):
    net, example = network(kind), kind.inputs(4, LENGTH)
    program = capture(net, example, dynamic=FREE[kind])
    engine = Engine(program)
    is_the_model(program, net, example)
    verify(program, engine, example, "logits")
    return net, program, engine


def outputs(kind, inputs, passes=4, seed=3):
    _, program, engine = captured(kind)
    return torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, inputs, PassOptions(passes, seed, sampling="iid"))]
    )


@each_net
@pytest.mark.parametrize("length", [1, 2, 3, 11])
def test_one_capture_is_the_network_captured_at_each_length(kind, length):
    """Torch fixes sizes of 1 as it captures, so that length's own capture stands for the model."""
    inputs = kind.inputs(3, length)
    program = capture(network(kind), inputs)
    wanted = torch.cat(
        [chunk.outputs for chunk in Engine(program).run(program.weights, inputs, PassOptions(4, 3, sampling="iid"))]
    )
    torch.testing.assert_close(outputs(kind, inputs), wanted, rtol=0, atol=1e-5)


@each_net
def test_a_row_does_not_feel_its_padding(kind):
    """The promise: 1e-5 of the scale, mean and variance. The noise of a place does not depend on how many there are."""
    inputs = kind.inputs(4, 5)
    short, long = outputs(kind, inputs, 32), outputs(kind, kind.padded(inputs, 4), 32)
    assert float(short.var(0).min()) > 0
    for passes_of in (lambda passes: passes, lambda passes: estimate_of_passes(passes).variance):
        torch.testing.assert_close(passes_of(long), passes_of(short), rtol=0, atol=1e-5 * float(short.abs().max()))


def estimate_of_passes(passes):
    class OneChunk:
        index, outputs = 0, passes

    return fold_passes([OneChunk()], "mean", len(passes), 3, "captured")


@each_net
def test_rows_of_other_lengths_change_no_answer(kind):
    """Sizes are of a call: an engine that ran longer rows before is the same."""
    inputs = kind.inputs(2, 4)
    before = outputs(kind, inputs)
    for length in range(2, 9):
        outputs(kind, kind.inputs(1, length), passes=1)
    assert torch.equal(outputs(kind, inputs), before)


def test_a_graph_names_what_is_free():
    graph = captured(Attention)[1].graph
    assert graph.inputs == tuple(Input(name, ("length",), torch.int64) for name in ("input_ids", "attention_mask"))
    assert graph.free == (FreeDimension("length", 1, None),)


def test_one_name_is_one_size():
    inputs = {"input_ids": tokens(2, 5), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    with pytest.raises(InvalidInput, match=r"attention_mask has shape \[2, 7\]; \[2, 5\] is wanted"):
        outputs(Attention, inputs)


class Pooled(nn.Module):
    """The largest of all steps. `before`: what is done to them first."""

    def __init__(self, before=nn.Identity()):  # noqa: B008 - it has no state
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.before = before

    def forward(self, x):
        return self.head(F.dropout(self.before(x), 0.5, self.training).amax(2))


def three_steps(x):
    return F.conv1d(x, torch.ones(2, 1, 3), groups=2)


def no_single(x):
    if x.shape[2] < 2:
        raise ValueError("two steps, please")
    return x


X = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(0))


def checked(net, x, dynamic):
    program = capture(net, x, dynamic=dynamic)
    is_the_model(program, net, x)
    return program


def test_the_bounds_of_a_dim_are_those_of_a_length():
    net = network(lambda: Pooled(three_steps))
    program = checked(net, X, {"x": {2: Dim("steps", min=4, max=8)}})
    engine = Engine(program)
    for length in (4, 8):
        x = torch.randn(2, 2, length, generator=torch.Generator().manual_seed(1))
        is_the_model(program, net, x)
        assert next(engine.run(program.weights, x, PassOptions(1, 0, sampling="iid"))).outputs.shape == (1, 2, 2)
    for length in (3, 9):
        with pytest.raises(InvalidInput, match=f"the steps is {length}; 4 … 8 is allowed"):
            next(engine.run(program.weights, X.new_zeros(2, 2, length), PassOptions(1, 0, sampling="iid")))


def test_a_length_that_the_model_has_no_answer_to_is_found():
    with pytest.raises(CaptureError, match=r"no answer at a steps of 1: .* torch.export.Dim\(name, min=…\)"):
        checked(network(lambda: Pooled(no_single)), X, {"x": {2: "steps"}})


def test_a_length_that_is_another_network_is_found():
    """Torch takes it that no size is 1, so the branch is lost; the model itself has it."""
    net = network(lambda: Pooled(lambda x: x * 2 if x.shape[2] == 1 else x))
    with pytest.raises(NotTheModel, match="at a steps of 1 the captured network answers otherwise"):
        checked(net, X, {"x": {2: "steps"}})
    checked(net, X, {"x": {2: Dim("steps", min=2)}})


def test_rows_that_are_coupled_at_other_lengths_alone_are_found():
    """At the example's own length nothing of the mean row is left."""
    net = network(lambda: Pooled(lambda x: x + (x.shape[2] - 6) * x.mean(0)))
    program = captured_free(net, X)
    with pytest.raises(CoupledRows, match="rows must be independent"):
        verify(program, Engine(program), X, "mean")


def captured_free(net, x):
    return capture(net, x, dynamic={"x": {2: "steps"}})


def test_what_depends_on_a_length_alone_is_computed_once_for_all_passes():
    class Placed(Pooled):
        def forward(self, x):
            places = torch.arange(x.shape[2], dtype=x.dtype).sin()
            return self.head((F.dropout(x, 0.5, self.training) + places).amax(2))

    parts = split(captured_free(network(Placed), X).graph)
    assert "sin" in {node.name for node in parts.prefix}
    assert "sin" in parts.crossing


def six_steps(x):
    return x.reshape(-1, 12).reshape(-1, 2, 6)


def one_of_eight(x):
    return x + torch.arange(8.0)[: x.shape[2]]


def a_root(x):
    return x / x.shape[2] ** 0.5


def folded(x):
    return (F.dropout(x.mT.reshape(-1, 2), 0.5) * 2).reshape(-1, x.shape[2], 2).mT


REFUSED = {
    "a fixed length": (six_steps, None, "The forward fixes the steps"),
    "a bound of its own": (one_of_eight, None, "torch suggests steps = Dim('steps', max=8)"),
    "a size between the bounds": (three_steps, None, "torch suggests steps = Dim('steps', min="),
    "a root of the length": (a_root, None, "computes a fraction or a condition of a size"),
    "a length among the rows": (folded, None, "folds a free length into its rows; keep an axis for it"),
    "an input there is not": (None, {"y": {2: "steps"}}, "dynamic names the input 'y'; there are x"),
    "an axis there is not": (None, {"x": {3: "steps"}}, "names the axis 3 of x, which has the axes 0 … 2"),
    "the rows": (None, {"x": {0: "steps"}}, "rows, axis 0, are free by themselves"),
    "a name that is taken": (None, {"x": {2: "rows"}}, "names a size 'rows'; give a word other than 'rows'"),
    "a number": (None, {"x": {2: 6}}, "names a size 6"),
    "two ranges": (None, {"x": {1: "steps", 2: Dim("steps", max=9)}}, "gives steps two ranges"),
    "a bound below the example": (None, {"x": {2: Dim("steps", max=5)}}, "the steps of x is 6 in the example"),
    "an example of length 1": (None, {"x": {2: "steps"}}, "the steps of x is 1 in the example"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "dynamic", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(before, dynamic, says):
    x = X[..., :1] if "is 1 in the example" in says else X
    net = network(lambda: Pooled(before) if before else Pooled())
    with pytest.raises((CaptureError, InvalidInput)) as refusal:
        capture(net, x, dynamic=dynamic or {"x": {2: "steps"}})
    assert says in str(refusal.value)
