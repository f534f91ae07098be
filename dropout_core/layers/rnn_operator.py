"""The operator `mcdrop::rnn`: a recurrent layer whose masks differ between runs of rows, each run one fused kernel.

A mask m on the hidden state is a mask on the columns of W_hh: W_hh (m ⊙ h) = (W_hh diag(m)) h. The rows of a Monte
Carlo pass are neighbours and share their mask, so a pass is one call of torch's kernel on its masked weights. If a
pass has few rows, all passes take each step together. A row's input decides its output, whatever the runs.

A captured network holds this operator instead of torch's own, for which an export would fix the length of the
sequences. It has no gradient: it serves passes, not training.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dropout_core.errors import InvalidInput
from dropout_core.layers.rnn_steps import RecurrentOutput, stepped

# How many gates a cell has: its weights have as many times H rows.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_KERNELS: dict[str, Callable[..., Any]] = {cell: getattr(torch._VF, cell) for cell in GATES}
# Runs of at most so many rows are faster side by side, step by step (measured for 32 to 256 units).
_FEW_ROWS = {"lstm": 1, "gru": 4, "rnn_tanh": 4, "rnn_relu": 4}


def fused(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    bidirectional: bool,
    training: bool = False,
) -> RecurrentOutput:
    """Compute layers without masks by torch's kernel.

    Args:
        x: Sequences [B, L, F].
        lengths: int64 [B], each 0 … L; None for all L.
        weights: Weights in the order of nn.LSTM.
        h0: State before the first step, [layers · D, B, H]; None for zeros.
        c0: Cell state before the first step, likewise.
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        bidirectional: Whether there are two directions.
        training: Whether a gradient may be needed.

    Returns:
        The output [B, L, D · H], which is 0 beyond a row's length, and h_n and c_n after the last step of each row.
        c_n is empty for a cell that has none.
    """
    directions, biased = 1 + bidirectional, len(weights) > 2 and weights[2].dim() == 1
    layers = len(weights) // (directions * (2 + 2 * biased))
    zeros = x.new_zeros((layers * directions, x.shape[0], weights[1].shape[1]))
    # cuDNN takes no states with gaps between them.
    states = [zeros if state is None else state.contiguous() for state in (h0, c0)[: 1 + (cell == "lstm")]]
    options = (list(weights), biased, layers, 0.0, training, bidirectional)
    if lengths is None or x.shape[0] == 0:
        output, *ends = _KERNELS[cell](x, _joined(states), *options, True)
    else:
        # torch packs no row of length 0: it takes one step here, of zeros, which is undone below.
        some = (lengths > 0).to(x.device).unsqueeze(-1)
        x = torch.where(some.unsqueeze(-1), x, 0.0)
        packed: Any = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        ordered = [state.index_select(1, packed.sorted_indices) for state in states]
        data, *ends = _KERNELS[cell](packed.data, packed.batch_sizes, _joined(ordered), *options)
        output, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=x.shape[1])
        output = torch.where(some.unsqueeze(-1), output, 0.0)
        ends = [end.index_select(1, packed.unsorted_indices) for end in ends]
        ends = [torch.where(some, end, state) for end, state in zip(ends, states, strict=True)]
    return output, ends[0], ends[1] if len(ends) > 1 else zeros[..., :0]


def _joined(states: list[Tensor]) -> Tensor | list[Tensor]:
    """Return states as torch's kernels take them: a list for an LSTM, otherwise one tensor."""
    return states if len(states) > 1 else states[0]


def _run(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    bidirectional: bool,
) -> RecurrentOutput:
    """Compute one layer whose hidden state enters W_hh times the mask [B, D, H] at every step; None masks nothing."""
    _check(x, lengths, weights, mask, h0, c0, cell, bidirectional)
    runs = list(_runs(x, mask))
    if mask is not None and _side_by_side(x, cell, len(runs)):
        return stepped(x, lengths, weights, mask, h0, c0, cell, bidirectional)
    outcomes = [
        fused(
            x[rows],
            None if lengths is None else lengths[rows],
            weights if mask is None or rows.stop == 0 else _masked(weights, mask[rows.start]),
            None if h0 is None else h0[:, rows],
            None if c0 is None else c0[:, rows],
            cell,
            bidirectional,
        )
        for rows in runs
    ]
    output, h_n, c_n = zip(*outcomes, strict=True)
    return torch.cat(output), torch.cat(h_n, 1), torch.cat(c_n, 1)


def _shapes(x: Tensor, weights: Sequence[Tensor], cell: str, bidirectional: bool) -> RecurrentOutput:
    directions, hidden = 1 + bidirectional, weights[1].shape[1]
    state = (directions, x.shape[0], hidden)
    c_n = x.new_empty(state if cell == "lstm" else (*state[:2], 0))
    return x.new_empty((*x.shape[:2], directions * hidden)), x.new_empty(state), c_n


def _no_gradient(*_: Any) -> None:
    raise InvalidInput("a captured recurrent layer has no gradient; train the network itself.")


# Not torch.library.custom_op, which loads torch's compiler at the first call: 0.7 s and 70 MB for each server.
torch.library.define("mcdrop::rnn", torch.library.infer_schema(_run, mutates_args=()))
torch.library.impl("mcdrop::rnn", "CompositeExplicitAutograd", _run)
torch.library.register_fake(
    "mcdrop::rnn", lambda x, _lengths, weights, _mask, _h0, _c0, *options: _shapes(x, weights, *options)
)
torch.library.register_autograd("mcdrop::rnn", _no_gradient)
rnn: Any = torch.ops.mcdrop.rnn.default


def _side_by_side(x: Tensor, cell: str, num_runs: int) -> bool:
    """Return whether few rows share a mask, for dtypes fine enough that the way a batch is computed does not show."""
    return num_runs > 1 and x.shape[0] <= _FEW_ROWS[cell] * num_runs and x.dtype in (torch.float32, torch.float64)


def _runs(x: Tensor, mask: Tensor | None) -> Iterator[slice]:
    """Yield the runs of neighbouring rows with equal masks; one empty run if there are no rows."""
    rows = x.shape[0]
    starts = [0]
    if mask is not None and rows > 1:
        changed = (mask[1:] != mask[:-1]).flatten(1).any(1)
        starts += (changed.nonzero().flatten() + 1).tolist()
    for start, stop in zip(starts, [*starts[1:], rows], strict=True):
        yield slice(start, stop)


def _masked(weights: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Return the weights of a layer with the columns of each W_hh times the mask [D, H] of its direction."""
    each = len(weights) // len(mask)
    return [weight * mask[index // each] if index % each == 1 else weight for index, weight in enumerate(weights)]


def _check(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    bidirectional: bool,
) -> None:
    """Refuse arguments that the kernels would trust."""
    if cell not in GATES or (c0 is not None and cell != "lstm"):
        with_c0 = " with a c0" if c0 is not None else ""
        raise InvalidInput(f"the cell is {cell!r}{with_c0}; one of {', '.join(GATES)} is wanted, a c0 for lstm only.")
    if x.dim() != 3 or 0 in x.shape[1:] or not x.is_floating_point():
        raise InvalidInput(f"x has shape {list(x.shape)} and type {x.dtype}; floats [B, L, F] are wanted.")
    directions = 1 + bidirectional
    if len(weights) not in (2 * directions, 4 * directions) or weights[1].dim() != 2 or not weights[1].shape[1]:
        shapes = [list(weight.shape) for weight in weights]
        raise InvalidInput(
            f"the weights have shapes {shapes}; those of one layer of {directions} x H units are wanted."
        )
    rows, length, features = x.shape
    hidden = weights[1].shape[1]
    gates, state = GATES[cell] * hidden, (directions, rows, hidden)
    layer = [(gates, features), (gates, hidden)] + [(gates,)] * (len(weights) // directions - 2)
    fitting = [*zip(weights, layer * directions, strict=True), (mask, (rows, directions, hidden)), (h0, state)]
    for tensor, shape in [*fitting, (c0, state)]:
        if tensor is not None and (tensor.shape, tensor.dtype, tensor.device) != (shape, x.dtype, x.device):
            raise InvalidInput(
                f"a tensor has shape {list(tensor.shape)}, type {tensor.dtype} and device {tensor.device}; "
                f"{list(shape)}, {x.dtype} and {x.device} are wanted."
            )
    if lengths is not None:
        check_lengths(lengths, rows, length)


def check_lengths(lengths: Tensor, rows: int, longest: int | None) -> None:
    """Check that lengths are int64 [B], each 0 … L.

    Args:
        lengths: The lengths.
        rows: Number of rows B.
        longest: L, or None to leave the values unread.

    Raises:
        InvalidInput: They are not.
    """
    if lengths.dtype != torch.int64 or lengths.shape != (rows,):
        raise InvalidInput(
            f"the lengths have shape {list(lengths.shape)} and type {lengths.dtype}; int64 [{rows}] is wanted."
        )
    if longest is not None and bool(((lengths < 0) | (lengths > longest)).any()):
        low, high = int(lengths.min()), int(lengths.max())
        raise InvalidInput(f"the lengths run from {low} to {high}; 0 … {longest} is wanted.")
