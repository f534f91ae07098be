"""Running a section of a graph."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dropout_core.graph.kernel_checks import check_kernel_sizes
from dropout_core.graph.program import GETITEM, Device, Node, Operation, Ref, Site, references
from dropout_core.graph.sizes import Size

NodeObserver = Callable[[str, Any], None]


class Stage:
    """A sequence of nodes, compiled: it knows which values can be freed after which node.

    Args:
        nodes: The nodes, in order.
        keep: Names of the values to return.
    """

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
        observe: NodeObserver | None = None,
    ) -> dict[str, Any]:
        """Run the nodes and return the values to keep.

        Args:
            values: Inputs and weights by name; consumed.
            sizes: Number of rows, by the name ROWS, and size of every free dimension.
            device: Device that computes.
            noise: Returns the value of a site for its input.
            observe: Called with the name and value of each node.

        Returns:
            The kept values by name.
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
    check_kernel_sizes(node.target, args, kwargs)
    return node.target(*args, **kwargs)


def _resolve(arg: Any, values: Mapping[str, Any], sizes: Mapping[str, int], device: torch.device) -> Any:
    if isinstance(arg, Ref):
        return values[arg.name]
    if isinstance(arg, Size):
        return arg(sizes)
    if isinstance(arg, tuple):
        return [_resolve(item, values, sizes, device) for item in arg]
    return device if isinstance(arg, Device) else arg
