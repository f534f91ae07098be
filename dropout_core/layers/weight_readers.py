"""Which weights read the value of a layer: a network's torch.fx graph, and a value followed through it.

A value is followed through everything that commutes with a positive factor, f(a · x) = a · f(x), in eval mode: ReLU,
LeakyReLU and PReLU, max and mean pooling, sums and means, changes of shape, other dropouts.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.gaussian import GaussianDropout
from dropout_core.layers.spatial import SpatialDropout1d
from dropout_core.layers.standard import AlphaDropout, Dropout
from dropout_core.layers.structured import GroupDropout

_COMMUTING_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.LeakyReLU, nn.PReLU),
    *(_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd, _DropoutNd),
    *(Dropout, AlphaDropout, SpatialDropout1d, GaussianDropout, GroupDropout),
)
_COMMUTING_FUNCTIONS = {
    *(F.relu, torch.relu, F.leaky_relu, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.transpose, torch.permute),
    *(torch.mean, torch.sum, torch.amax),
}
_COMMUTING_METHODS = {
    *("relu", "flatten", "view", "reshape", "squeeze", "unsqueeze", "transpose", "permute", "contiguous"),
    *("mean", "sum", "amax"),
}
_SHAPE_METHODS = {"size", "dim", "numel"}
_SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device"}


class _Tracer(fx.Tracer):
    """Traces a network down to torch's modules, this library's modules, and those of one more kind."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self._kind = kind

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, self._kind) or type(m).__module__.startswith("dropout_core.layers.")
        return ours or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class TracedNetwork:
    """A network and its graph down to torch's modules and this library's.

    Attributes:
        root: The network.
        graph: Its torch.fx graph.
    """

    root: nn.Module
    graph: fx.Graph

    def called(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if it calls one.

        Args:
            node: A node of the graph.

        Returns:
            The module or None.
        """
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def name(self, node: fx.Node) -> str:
        """Return the name of what a node calls, for messages.

        Args:
            node: A node of the graph.

        Returns:
            The name.
        """
        module = self.called(node)
        if module is not None:
            return f"{node.target} ({type(module).__name__})"
        return getattr(node.target, "__name__", str(node.target))

    def calls(self, kind: type[nn.Module]) -> Iterator[fx.Node]:
        """Yield the nodes that call a module of one kind.

        Args:
            kind: A module class.

        Returns:
            The nodes, in order.
        """
        return (node for node in self.graph.nodes if isinstance(self.called(node), kind))

    def untraced(self, kind: type[nn.Module]) -> Iterator[tuple[str, str]]:
        """Yield the modules of one kind inside modules that the trace does not enter.

        Args:
            kind: A module class.

        Yields:
            The path of the module, and the name of the module that contains it.
        """
        for node in self.graph.nodes:
            outer = self.called(node)
            for path, inner in outer.named_modules() if outer is not None else ():
                if isinstance(inner, kind) and inner is not outer:
                    yield f"{node.target}.{path}", self.name(node)

    def reached(self, node: fx.Node, through: tuple[type[nn.Module], ...] = ()) -> Iterator[fx.Node]:
        """Yield every call that the value of a node reaches; it ends at nn.Linear and convolutions.

        Args:
            node: The node.
            through: Module classes that the value passes, in addition to those of torch.

        Yields:
            Nodes.

        Raises:
            InvalidInput: Something else reads the value, or it is the network's output. The message holds the reason
                only.
        """
        front = [node]
        while front:
            value = front.pop()
            for user in value.users:
                if _reads_shape(user):
                    continue
                if user.op == "output":
                    raise InvalidInput("its value is the network's output")
                if _operand(user) is not value or not (
                    self._passes(user, through) or has_readable_weight(self.called(user))
                ):
                    raise InvalidInput(f"{self.name(user)} reads its value")
                yield user
                if not has_readable_weight(self.called(user)):
                    front.append(user)

    def _passes(self, node: fx.Node, through: tuple[type[nn.Module], ...]) -> bool:
        module = self.called(node)
        if module is not None:
            return isinstance(module, (*_COMMUTING_MODULES, *through))
        # x.view(dtype) reads the bits anew; what is in place writes into a value that others may read.
        given = (*node.args, *node.kwargs.values())
        if node.kwargs.get("inplace") or any(isinstance(argument, torch.dtype) for argument in given):
            return False
        known: Any = _COMMUTING_FUNCTIONS if node.op == "call_function" else _COMMUTING_METHODS
        return node.target in known


def trace_network(model: nn.Module, kind: type[nn.Module]) -> TracedNetwork:
    """Return a network and its graph, in the network's current mode.

    Args:
        model: The network.
        kind: A module class that the trace does not enter.

    Returns:
        The traced network.

    Raises:
        InvalidInput: torch.fx cannot trace it.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    # As they are when the network is called with its input alone.
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    try:
        return TracedNetwork(model, _Tracer(kind).trace(model, defaults or None))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"torch.fx cannot trace the network: {error}") from error


def has_readable_weight(module: nn.Module | None) -> TypeGuard[nn.Linear | _ConvNd]:
    """Return whether a value ends at this module, which multiplies it by its weight.

    Args:
        module: A module or None.

    Returns:
        Whether it is nn.Linear or a convolution.
    """
    return isinstance(module, nn.Linear | _ConvNd)


def _operand(node: fx.Node) -> Any:
    """Return what a node works on: its first argument."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _reads_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES
