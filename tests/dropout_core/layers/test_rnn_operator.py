"""mcdrop::rnn: each row by its own mask, each run of equal masks in one call; and nothing taken on trust."""

import pytest
import torch

from dropout_core.errors import InvalidInput
from dropout_core.layers import rnn_operator
from dropout_core.layers.rnn_operator import rnn
from dropout_core.layers.rnn_steps import stepped
from tests.support.recurrent import F64, LENGTHS, assert_same, drawn_masks, each_cell, either_way, numbers, pair, states

_PER_ROW = {"x": 0, "lengths": 0, "mask": 0, "h0": 1, "c0": 1}


def call(cell="lstm", bidirectional=False, bias=True, dtype=F64, **changes):
    """The arguments of a call with every tensor there is: five rows, each with a mask of its own, five steps."""
    layer, _ = pair(cell, bidirectional=bidirectional, bias=bias)
    h0, c0 = states(cell, layer)[1]
    tensors = {"x": numbers(5, 5, 3), "mask": drawn_masks(layer).recurrent[0], "h0": h0, "c0": c0}
    weights = [weight.detach().to(dtype) for weight in layer._flat_weights]
    found = {name: value if value is None else value.to(dtype) for name, value in tensors.items()}
    return {**found, "lengths": LENGTHS, "weights": weights, "cell": cell, "bidirectional": bidirectional, **changes}


def rows_of(given, rows):
    """The same call for some rows."""
    own = {name: given[name].index_select(axis, rows) for name, axis in _PER_ROW.items() if given[name] is not None}
    return {**given, **own}


def by_steps(given):
    return stepped(
        given["x"], given["lengths"], given["weights"], given["mask"], given["h0"], given["c0"], given["cell"],
        given["bidirectional"],
    )  # fmt: skip


@each_cell
@either_way
@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all of L", "lengths"])
def test_rows_with_masks_of_their_own_are_answered_as_step_by_step(cell, bidirectional, bias, lengths):
    given = call(cell, bidirectional, bias, lengths=lengths)
    assert_same(rnn(**given), by_steps(given))
    given = call(cell, bidirectional, bias, lengths=lengths, h0=None, c0=None)
    assert_same(rnn(**given), by_steps(given))


@each_cell
@either_way
def test_no_mask_is_a_mask_of_ones(cell, bidirectional):
    given = call(cell, bidirectional)
    assert_same(rnn(**{**given, "mask": None}), rnn(**{**given, "mask": torch.ones_like(given["mask"])}))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("masks", "sizes"),
    [
        ([0, 0, 1, 0, 0], [2, 1, 2]),
        ([0, 0, 0, 0, 0], [5]),
        ([0, 1, 2, 3, 4], []),  # all steps side by side
        ([0, 1, 2, 3, 3], [1, 1, 1, 2]),
        ([3, 3, 3, 3, 1], [4, 1]),
        ([2], [1]),
    ],
)
def test_neighbours_of_equal_masks_are_one_call_of_the_kernel(monkeypatch, bidirectional, masks, sizes):
    kernel, seen = rnn_operator._KERNELS["lstm"], []

    def counting(x, *args):
        seen.append(len(x))
        return kernel(x, *args)

    monkeypatch.setitem(rnn_operator._KERNELS, "lstm", counting)
    given = rows_of(call("lstm", bidirectional, lengths=None), torch.arange(len(masks)))
    given["mask"] = torch.tensor(masks, dtype=F64).reshape(-1, 1, 1).expand_as(given["mask"]) / 2
    outcome = rnn(**given)
    assert seen == sizes
    assert_same(outcome, by_steps(given))


def test_masks_that_differ_in_one_direction_alone_are_no_run():
    given = call("lstm", True)
    given["mask"] = given["mask"][:1].repeat(5, 1, 1)
    given["mask"][2, 1, 3] = 1.5
    assert_same(rnn(**given), by_steps(given))


@each_cell
def test_no_rows_have_an_empty_answer(cell):
    given = rows_of(call(cell, True), torch.tensor([], dtype=torch.int64))
    cells = 4 if cell == "lstm" else 0
    for mask in (given["mask"], None):
        assert [part.shape for part in rnn(**{**given, "mask": mask})] == [(0, 5, 8), (2, 0, 4), (2, 0, cells)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_answered_in_their_own(dtype):
    given, wanted = call(dtype=dtype), rnn(**call())
    for part, exact in zip(rnn(**given), wanted, strict=True):
        assert part.dtype == dtype
        assert (part.double() - exact).abs().max() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all of L", "lengths"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_memory_layout_does_not_matter(dtype, lengths):
    """Strides of 0, too: a program may expand one number to a tensor."""
    given = call("lstm", True, dtype=dtype, lengths=lengths)
    x, weights, h0, c0 = (given[name] for name in ("x", "weights", "h0", "c0"))
    spread = {"x": x[:1].expand(5, 5, 3), "h0": h0[..., :1].expand(2, 5, 4), "c0": torch.stack([c0, c0], -1)[..., 0]}
    spread["weights"] = [weight[:1].expand_as(weight) for weight in weights]
    dense = {name: value.contiguous() for name, value in spread.items() if name != "weights"}
    dense["weights"] = [weight.contiguous() for weight in spread["weights"]]
    for a, b in zip(rnn(**{**given, **spread}), rnn(**{**given, **dense}), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_torch_finds_the_operator_in_order(cell):
    """Schema, shapes without data, strides, no aliases."""
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for given in (call(cell, True, dtype=torch.float32), call(cell, mask=None, lengths=None)):
        torch.library.opcheck(rnn, (), given, test_utils=checks)


def test_it_has_no_gradient():
    given = call()
    given["x"].requires_grad_()
    with pytest.raises(InvalidInput, match="train the network itself"):
        rnn(**given)[0].sum().backward()


def shorter(place):
    """One weight with a row less: the kernel would read beyond its end."""
    return lambda given: {"weights": [w[:-1] if i == place else w for i, w in enumerate(given["weights"])]}


def narrower(place):
    return lambda given: {"weights": [w[..., :1] if i == place else w for i, w in enumerate(given["weights"])]}


def halved(place):
    return lambda given: {"weights": [w.half() if i == place else w for i, w in enumerate(given["weights"])]}


def cut(name, *keys):
    return lambda given: {name: given[name][keys]}


def cast(name, dtype):
    return lambda given: {name: given[name].to(dtype)}


_ROW, _ALL = slice(0, 1), slice(None)
_LIES = {
    **{f"weight {place} with a row less": shorter(place) for place in range(8)},
    **{f"weight {place} with one column": narrower(place) for place in (0, 1, 4, 5)},
    **{f"weight {place} of another type": halved(place) for place in range(8)},
    "no weights": lambda _: {"weights": []},
    "a weight less": lambda given: {"weights": given["weights"][:-1]},
    "a weight more": lambda given: {"weights": [*given["weights"], given["weights"][0]]},
    "weights of one direction": lambda given: {"weights": given["weights"][:4]},
    "weights of two layers": lambda given: {"weights": given["weights"] * 2},
    "weights in another order": lambda given: {"weights": given["weights"][::-1]},
    "no units": lambda given: {
        **{name: given[name][..., :0] for name in ("mask", "h0", "c0")},
        "weights": [w[:0, :0] if place % 4 == 1 else w[:0] for place, w in enumerate(given["weights"])],
    },
    "whole numbers": lambda given: {
        **{name: given[name].long() for name in ("x", "mask", "h0", "c0")},
        "weights": [w.long() for w in given["weights"]],
    },
    "biases of two axes": lambda given: {"weights": [w if w.dim() > 1 else w[:, None] for w in given["weights"]]},
    "another cell": lambda _: {"cell": "gru", "c0": None},
    "no cell": lambda _: {"cell": "LSTM"},
    "a cell that is code": lambda _: {"cell": "__import__('os')"},
    "a c0 of a cell without": lambda given: {**call("gru", True), "c0": given["c0"]},
    "a mask of one row": cut("mask", _ROW),
    "a mask of one direction": cut("mask", _ALL, _ROW),
    "a mask of one unit": cut("mask", _ALL, _ALL, _ROW),
    "a mask of two axes": cut("mask", _ALL, 0),
    "a mask of another type": cast("mask", torch.float32),
    "an h0 of one row": cut("h0", _ALL, _ROW),
    "an h0 of one direction": cut("h0", _ROW),
    "an h0 of one unit": cut("h0", _ALL, _ALL, _ROW),
    "an h0 of two axes": cut("h0", 0),
    "an h0 of another type": cast("h0", torch.float16),
    "a c0 of one row": cut("c0", _ALL, _ROW),
    "a c0 of one unit": cut("c0", _ALL, _ALL, _ROW),
    "a c0 of another type": cast("c0", torch.float16),
    "an x of one feature": cut("x", _ALL, _ALL, _ROW),
    "an x of no feature": cut("x", _ALL, _ALL, slice(0, 0)),
    "an x of no step": lambda given: {"x": given["x"][:, :0], "lengths": None},
    "an x of two axes": cut("x", 0),
    "an x of one row": cut("x", _ROW),
    "an x of another type": cast("x", torch.float32),
    "an x of whole numbers": cast("x", torch.int64),
    "an x of complex numbers": cast("x", torch.complex128),
    "lengths of another type": cast("lengths", torch.float64),
    "lengths of one row": cut("lengths", _ROW),
    "lengths of two axes": cut("lengths", _ALL, None),
    "a length beyond L": lambda given: {"lengths": given["lengths"] + 1},
    "a length below 0": lambda given: {"lengths": given["lengths"] - 1},
    "a length far away": lambda given: {"lengths": given["lengths"] * 2**60},
}


@pytest.mark.parametrize("lie", _LIES.values(), ids=_LIES)
def test_what_does_not_fit_is_refused_before_the_kernel(monkeypatch, lie):
    def never(*_):
        raise AssertionError("the kernel was called")

    for cell in rnn_operator.GATES:
        monkeypatch.setitem(rnn_operator._KERNELS, cell, never)
    given = call("lstm", True)
    with pytest.raises(InvalidInput, match=r"(is|are) wanted"):
        rnn(**{**given, **lie(given)})


def test_tensors_on_two_devices_are_refused():
    """By the kernel itself: torch asks it for shapes alone where a tensor has no values."""
    given = call("lstm", True)
    for name in ("mask", "h0", "c0"):
        with pytest.raises(InvalidInput, match=r"device meta; .* and cpu are wanted"):
            rnn_operator._run(**{**given, name: given[name].to("meta")})


def test_the_honest_call_reaches_the_kernel():
    """So that the refusals above say something."""
    assert rnn(**call("lstm", True))[0].shape == (5, 5, 8)
