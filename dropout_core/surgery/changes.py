"""The three things a surgery does: put a layer beside a module, put a layer in another one's place, set a rate.

A layer that is put beside a module is its child and is called by a hook of it. So the names of all weights stay, the
mode of the layer is that of the model, and copies of the model have copies of the layer. The hooks are functions of
this module and find the layer through the module they are called with: a copied or unpickled hook would otherwise call
the layer of the first model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from dropout_core.errors import InvalidInput

Side = Literal["before", "after"]
Kind = Callable[[float], nn.Module]


def _drop_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The first argument, however it is given, through the layer."""
    layer: Any = module.dropout_before
    if args:
        return (layer(args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: layer(kwargs[first])}


def _drop_output(module: nn.Module, _: Any, output: Any) -> Any:
    """The output, or its first part, through the layer."""
    layer: Any = module.dropout_after
    return (layer(output[0]), *output[1:]) if isinstance(output, tuple) else layer(output)


def beside(module: nn.Module, side: Side) -> nn.Module | None:
    """The layer that a surgery put before or after a module, if one did."""
    hooks = module._forward_pre_hooks if side == "before" else module._forward_hooks
    ours = any(hook in (_drop_input, _drop_output) for hook in hooks.values())
    return module._modules.get(f"dropout_{side}") if ours else None


@dataclass
class Beside:
    """A layer before or after a module. Raises InvalidInput for a module whose child or attribute has the name."""

    path: str
    module: nn.Module
    side: Side
    layer: nn.Module

    def __post_init__(self) -> None:
        if hasattr(self.module, self.name):
            raise InvalidInput(f"{self.path!r} has an attribute {self.name} of its own; name a module in or around it.")

    @property
    def name(self) -> str:
        """That of the child."""
        return f"dropout_{self.side}"

    @property
    def touched(self) -> tuple[nn.Module, ...]:
        """The module and the layer."""
        return self.module, self.layer

    def apply(self) -> None:
        """Register the child and the hook."""
        self.layer.train(self.module.training)
        self.module.add_module(self.name, self.layer)
        self._handle: RemovableHandle = (
            self.module.register_forward_pre_hook(_drop_input, with_kwargs=True)
            if self.side == "before"
            else self.module.register_forward_hook(_drop_output)
        )

    def in_place(self) -> bool:
        """Whether the layer is called still."""
        return beside(self.module, self.side) is self.layer

    def revert(self) -> None:
        """Remove both."""
        self._handle.remove()
        del self.module._modules[self.name]


@dataclass
class Instead:
    """A layer in the place of another one, wherever that is registered: (parent, name of the child)."""

    path: str
    slots: Sequence[tuple[nn.Module, str]]
    old: nn.Module
    new: nn.Module

    @property
    def touched(self) -> tuple[nn.Module, ...]:
        """Both layers."""
        return self.old, self.new

    def apply(self) -> None:
        """Put the new one everywhere, in the mode of the old one."""
        self.new.train(self.old.training)
        for parent, name in self.slots:
            parent._modules[name] = self.new

    def in_place(self) -> bool:
        """Whether the new one is everywhere still, with the weights that it took over."""
        weights = dict(self.new.named_parameters())
        return all(parent._modules.get(name) is self.new for parent, name in self.slots) and all(
            weights.get(name) is weight for name, weight in self.old.named_parameters()
        )

    def revert(self) -> None:
        """Put the old one back, in the mode that the model is in by now."""
        self.old.train(self.new.training)
        for parent, name in self.slots:
            parent._modules[name] = self.old


@dataclass
class RateChange:
    """A drop probability of a layer."""

    path: str
    layer: nn.Module
    attribute: str
    value: float

    @property
    def touched(self) -> tuple[nn.Module, ...]:
        """The layer."""
        return (self.layer,)

    def apply(self) -> None:
        """Set it."""
        self._before = getattr(self.layer, self.attribute)
        setattr(self.layer, self.attribute, self.value)

    def in_place(self) -> bool:
        """Always: what a schedule has set since is no surgery."""
        return True

    def revert(self) -> None:
        """Set what was there."""
        setattr(self.layer, self.attribute, self._before)


def paths_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module, and all paths that lead to it."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return paths


def slots_of(model: nn.Module, wanted: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where a module is registered as a child."""
    return [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is wanted]


def built(kind: Kind, p: float) -> nn.Module:
    """A layer of this kind. Raises InvalidInput for a kind that makes none."""
    layer = None if isinstance(kind, nn.Module) else kind(p)
    if not isinstance(layer, nn.Module):
        raise InvalidInput(f"kind is {kind!r}; a class of layers, or a function that makes a layer of p, is wanted.")
    return layer


def move(layer: nn.Module, beside: nn.Module, model: nn.Module) -> None:
    """Put a new layer on the device of the weights nearest to it."""
    near = next(chain(beside.parameters(), beside.buffers(), model.parameters(), model.buffers()), torch.empty(0))
    layer.to(near.device)


def child_path(path: str, name: str) -> str:
    """The path of what a module has by this name."""
    return f"{path}.{name}" if path else name


def within(path: str, names: Sequence[str]) -> bool:
    """Whether a path is one of these, or below one."""
    return any(path == name or path.startswith(f"{name}.") or not name for name in names)


def named(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these paths. Raises InvalidInput for one that leads nowhere."""
    if isinstance(names, str):
        raise InvalidInput(f"the names are the string {names!r}; give a list of paths, such as [{names!r}].")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in modules:
            raise InvalidInput(f"the model has no module {name!r}; its paths are those of model.named_modules().")
    return [modules[name] for name in names]
