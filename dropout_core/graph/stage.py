"""A Program: a network as a list of pure operations in which every source of noise is a named site.

A Graph is structure only (frozen, comparable); a Program is a Graph with its weights. Sizes that depend on the
number of rows, or on a free dimension, are expressions of it, evaluated anew in each stage: in the suffix the rows are
t·B, not B.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dropout_core.graph.kernel_checks import check_sizes
from dropout_core.graph.program import GETITEM, Device, Node, Operation, Ref, Site, references
from dropout_core.graph.sizes import Size

Observer = Callable[[str, Any], None]


class Stage:
    """A run of nodes, compiled: which values are freed after which node."""

    def __init__(self, nodes: Iterable[Node], keep: Iterable[str]) -> None:
        self.nodes = tuple(nodes)
        last: dict[str, int] = {}
        for step, node in enumerate(self.nodes):
            last.update(dict.fromkeys([node.name, *references(node)], step))
        kept = set(keep)
        self._frees: list[list[str]] = [[] for _ in self.nodes]
        for name, step in last.items():
            if name not in kept:
                self._frees[step].append(name)

    def run(
        self,
        values: dict[str, Any],
        sizes: Mapping[str, int],
        device: torch.device,
        noise: Callable[[Site, Any], Tensor],
        observe: Observer | None = None,
    ) -> dict[str, Any]:
        """Run the nodes on `values`, which is consumed, and return what was to be kept.

        sizes: the number of rows, by the name ROWS, and of every free dimension. noise: the value of a site given its
        input. observe: called with each node's name and value.
        """
        for node, frees in zip(self.nodes, self._frees, strict=True):
            value = (
                _call(node, values, sizes, device)
                if isinstance(node, Operation)
                else noise(node, values[node.input.name])
            )
            values[node.name] = value
            if observe is not None:
                observe(node.name, value)
            for name in frees:
                del values[name]
        return values


def _call(node: Operation, values: Mapping[str, Any], sizes: Mapping[str, int], device: torch.device) -> Any:
    args = [_resolve(arg, values, sizes, device) for arg in node.args]
    if node.target == GETITEM:
        return args[0][args[1]]
    kwargs = {key: _resolve(arg, values, sizes, device) for key, arg in node.kwargs.items()}
    check_sizes(node.target, args, kwargs)
    return node.target(*args, **kwargs)


def _resolve(arg: Any, values: Mapping[str, Any], sizes: Mapping[str, int], device: torch.device) -> Any:
    if isinstance(arg, Ref):
        return values[arg.name]
    if isinstance(arg, Size):
        return arg(sizes)
    if isinstance(arg, tuple):
        return [_resolve(item, values, sizes, device) for item in arg]
    return device if isinstance(arg, Device) else arg
