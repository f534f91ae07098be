"""Selecting layers of a network, and reading their drop probabilities."""

from collections.abc import Iterable, Iterator
from inspect import getattr_static

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

Layers = nn.Module | Iterable[nn.Module]


def named_layers(layers: Layers) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once, by the first of its names, such as "blocks.1"; the network itself is "".

    Args:
        layers: A network, a layer, or a list of either. In a list the position comes first, as in "0.blocks.1".

    Yields:
        Names and modules.
    """
    if isinstance(layers, nn.Module):
        yield from layers.named_modules()
        return
    known: set[nn.Module] = set()
    for place, root in enumerate(layers):
        yield from root.named_modules(known, str(place))


def rates_of(layer: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's own attributes that are drop probabilities and can be set.

    Args:
        layer: The layer; modules inside it do not count.

    Returns:
        Attribute names.
    """
    if isinstance(layer, _DropoutNd):
        return ("p",)
    if is_ours(layer):
        return tuple(name for name in ("p", "p_input", "p_recurrent", "p_output") if _settable(layer, name))
    between_layers = isinstance(layer, nn.RNNBase) and layer.num_layers > 1
    return ("dropout",) if between_layers or isinstance(layer, nn.MultiheadAttention) else ()


def is_ours(layer: nn.Module) -> bool:
    """Return whether a layer belongs to this library, or inherits from one that does.

    Args:
        layer: The layer.

    Returns:
        Whether it does.
    """
    return any(base.__module__.startswith("dropout_core.layers.") for base in type(layer).__mro__)


def _settable(layer: nn.Module, name: str) -> bool:
    attribute = getattr_static(type(layer), name, None)
    return attribute.fset is not None if isinstance(attribute, property) else hasattr(attribute, "__set__")
