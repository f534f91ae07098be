"""Checks of sizes that kernels trust: where they do not fit, torch reads and writes out of bounds.

oneDNN's LSTM and the functional batch norm never check them. nn.LSTM and F.batch_norm do, but they are gone once a
network is captured.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.operators import arguments_by_name

_aten = torch.ops.aten
_GATES = {_aten.lstm.input: 4, _aten.gru.input: 3, _aten.rnn_tanh.input: 1, _aten.rnn_relu.input: 1}


def check_kernel_sizes(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check that the tensors of a call fit together, for the operators that do not check it themselves.

    Args:
        target: The operator.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        InvalidInput: They do not fit.
    """
    check = _CHECKS.get(target)
    if check is not None and not check(target, arguments_by_name(target, args, kwargs)):
        raise InvalidInput(f"{target} is given tensors whose sizes do not fit together.")


def _batch_norm_fits(_: Any, given: Mapping[str, Any]) -> bool:
    channels = given["input"].shape[1]
    names = ("weight", "bias", "running_mean", "running_var")
    return all(given[name] is None or given[name].shape == (channels,) for name in names)


def _recurrent_fits(target: Any, given: Mapping[str, Any]) -> bool:
    states: list[Tensor] = given["hx"] if isinstance(given["hx"], list) else [given["hx"]]
    hidden = states[0].shape[-1]
    if states[-1].shape[-1] != hidden:
        return True  # projections: a kernel that checks
    x, directions, biases = given["input"], 1 + bool(given["bidirectional"]), bool(given["has_biases"])
    layers = [x.shape[-1]] + [hidden * directions] * (len(given["params"]) // (directions * (2 + 2 * biases)) - 1)
    gates = _GATES[target] * hidden
    wanted = [
        shape
        for features in layers
        for shape in ([(gates, features), (gates, hidden)] + [(gates,)] * 2 * biases) * directions
    ]
    rows = x.shape[0 if given["batch_first"] else 1]
    state = (given["num_layers"] * directions, rows, hidden)
    return (
        x.dim() == 3
        and len(layers) == given["num_layers"]
        and [tuple(weight.shape) for weight in given["params"]] == wanted
        and all(tuple(value.shape) == state for value in states)
    )


_CHECKS: dict[Any, Callable[[Any, Mapping[str, Any]], bool]] = {
    _aten._native_batch_norm_legit_no_training.default: _batch_norm_fits,
    **dict.fromkeys(_GATES, _recurrent_fits),
}
