"""What of a live model decides its graph, and not its weights: compared at every prediction."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Followed otherwise, or of no effect on a forward.
_ELSEWHERE = frozenset(
    {
        "training",
        "_parameters",
        "_buffers",
        "_modules",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    }
)
_PLAIN = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, OrderedDict, set})


@dataclass(frozen=True)
class Live:
    """A model as it is now.

    structure: modules, their plain attributes, and the shapes, dtypes, devices and ties of their tensors: equal while
    those stay. tensors: its parameters and buffers by every name they have.
    """

    structure: tuple[Any, ...]
    tensors: Mapping[str, Tensor]


def look(model: nn.Module) -> Live:
    """Look at a model. Hot: once for every prediction."""
    modules: list[tuple[str, nn.Module]] = []
    _collect(model, "", modules)
    tensors: dict[str, Tensor] = {}
    for prefix, module in modules:
        for held in (module._parameters, module._buffers):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in held.items() if tensor is not None}
    first: dict[int, str] = {}
    shapes = [
        (name, first.setdefault(id(tensor), name), tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in tensors.items()
    ]
    kinds = [(prefix, type(module), *_attributes(module, first)) for prefix, module in modules]
    return Live((kinds, shapes), tensors)


def _collect(module: nn.Module, prefix: str, found: list[tuple[str, nn.Module]]) -> None:
    """A module and all below it, each under every name it has, names ending in a dot."""
    found.append((prefix, module))
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", found)


def _attributes(module: nn.Module, weights: Collection[int]) -> tuple[Any, ...]:
    found: list[Any] = []
    for name, value in vars(module).items():  # some twenty
        kind = type(value)
        if name in _ELSEWHERE or (kind in _CONTAINERS and not value):
            continue
        found.append((name, value if kind in _PLAIN else _frozen(value, weights)))
    return tuple(found)


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


def _frozen(value: Any, weights: Collection[int]) -> Any:
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
