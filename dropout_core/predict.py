"""The library in one line: `estimate = predict(model, x)`."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.mc.capture import capture, clone, preserved_randomness, stochastic, weights_of
from dropout_core.mc.engine import Chunk, Engine
from dropout_core.mc.estimate import Estimate, estimate_of
from dropout_core.mc.measures import OutputKind, kind_of
from dropout_core.mc.program import Program
from dropout_core.mc.verify import is_the_model, verify
from dropout_core.noise import MAX_SEED

Method = Literal["captured", "loop"]
_EXAMPLE_ROWS = 4


@dataclass(frozen=True)
class _Captured:
    fingerprint: tuple[Any, ...]
    program: Program
    engine: Engine


_captured: weakref.WeakKeyDictionary[nn.Module, _Captured] = weakref.WeakKeyDictionary()
_captured_lock = threading.Lock()


def predict(
    model: nn.Module,
    x: Tensor,
    *,
    passes: int = 32,
    seed: int = 0,
    output: OutputKind = "logits",
    method: Method = "captured",
    keep_draws: bool = False,
) -> Estimate:
    """Predictive mean, variance and entropies of a live network, by T passes with its dropout on.

    model: takes and returns one tensor, rows first; it and its modes are left as they are. x: [B, *F].
    output: what the network's numbers are (see dropout_core.mc.measures). keep_draws: hold all T · B · C numbers, for
    `samples` and `quantiles`. The first call captures and verifies the network; later calls reuse that for as long
    as its structure stays, with its weights as they are at the call.

    method: "captured" runs one sampled network for each pass, shared by all rows, so that (model, seed, row) decides
    an answer. "loop" calls the model itself T times in torch's own randomness, each row with noise of its own: slower,
    but right for networks that cannot be captured. `estimate.method` says which it was.

    Raises CaptureError or VerificationError when the network cannot be captured, InvalidInput for wrong arguments.
    """
    kind_of(output)
    if passes < 1:
        raise InvalidInput(f"passes is {passes}; at least 1 is needed.")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"the seed is {seed}; it must lie between 0 and 2^63 - 1.")
    if method not in ("captured", "loop"):
        raise InvalidInput(f"the method is {method!r}; choose 'captured' or 'loop'.")
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise InvalidInput(f"x is a {type(x).__name__} without rows; give one tensor, rows first.")
    if method == "loop":
        return estimate_of(_loop(model, x, passes, seed), output, passes, seed, method, keep_draws)
    captured = _capture_once(model, x, output)
    constants = captured.program.weights
    weights = weights_of(model, captured.program.graph.weights, constants)
    return estimate_of(captured.engine.run(weights, x, passes, seed), output, passes, seed, method, keep_draws)


def _loop(model: nn.Module, x: Tensor, passes: int, seed: int) -> Iterator[Chunk]:
    copied = stochastic(clone(model))
    with preserved_randomness(seed), torch.no_grad():
        outputs = [copied(x) for _ in range(passes)]
    yield Chunk(0, torch.stack(outputs))


def _capture_once(model: nn.Module, x: Tensor, output: str) -> _Captured:
    fingerprint = (output, tuple(x.shape[1:]), x.dtype, *_structure(model))
    with _captured_lock:
        known = _captured.get(model)
        if known is not None and known.fingerprint == fingerprint:
            return known
    example = x[:_EXAMPLE_ROWS] if len(x) else x.new_zeros((2, *x.shape[1:]))
    example = torch.nan_to_num(example) if x.is_floating_point() else example
    program = capture(model, example)
    engine = Engine(program)
    is_the_model(program, model, example)
    verify(program, engine, example, output)
    captured = _Captured(fingerprint, program, engine)
    with _captured_lock:
        _captured[model] = captured
    return captured


def _structure(model: nn.Module) -> tuple[Any, ...]:
    """All that decides the graph and not the weights: modules, their plain attributes, shapes, dtypes and devices."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    weights = {id(tensor) for _, tensor in tensors}
    modules = tuple((name, type(module), _attributes(module, weights)) for name, module in model.named_modules())
    return modules, tuple((name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors)


def _attributes(module: nn.Module, weights: set[int]) -> tuple[Any, ...]:
    hidden = ("training", "_parameters", "_buffers", "_modules")
    return tuple((name, _frozen(value, weights)) for name, value in vars(module).items() if name not in hidden)


class _Identity:
    """Compares by identity, alive objects only: an id alone may be taken over by a later object."""

    def __init__(self, value: Any) -> None:
        try:
            self._object: Callable[[], Any] = weakref.ref(value)
        except TypeError:  # a builtin, such as a set
            self._object = lambda: value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._object() is not None and self._object() is other._object()

    def __hash__(self) -> int:
        return id(self._object())


def _frozen(value: Any, weights: set[int]) -> Any:
    """A value to compare later: plain values by value, tensors by identity and version, the rest by identity.

    weights: the ids of the tensors that are followed anyway; recurrent layers keep a list of theirs.
    """
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return type(value).__name__, *(_frozen(item, weights) for item in value)
    if isinstance(value, dict):
        return tuple((key, _frozen(item, weights)) for key, item in value.items())
    if isinstance(value, Tensor) and not value.is_inference():
        return _Identity(value), None if id(value) in weights else value._version
    return _Identity(value)
