"""Dropout in its first scale, unscaled in training and × (1 − p) at test, and weights that take that factor up."""

import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing
from dropout_core.layers.gaussian import GaussianDropout
from dropout_core.layers.spatial import SpatialDropout1d
from dropout_core.layers.standard import AlphaDropout, Dropout
from dropout_core.layers.structured import GroupDropout


def unscaled_mask(x: Tensor, shape: Sequence[int], keep: float) -> Tensor:
    """0 where dropped, 1 where kept, on x's device; with the noise off, keep. Booleans; float64 while capturing."""
    if capturing():
        return torch.bernoulli(torch.full(shape, keep, dtype=torch.float64, device=x.device))
    return torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(keep)


def classic_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · m with m ~ Bernoulli(1 − p) for each unit, or x · (1 − p) when not training. Any shape."""
    if p == 0:
        return x
    if not training:
        return x * (1.0 - p)
    return x * unscaled_mask(x, x.shape, 1.0 - p).to(x.dtype)


class ClassicDropout(RateLayer):
    """Dropout as it was first written: in training a unit is 0 or itself, in eval mode it is × (1 − p).

    Shape: any, unchanged. E y = (1 − p) · x in both modes, and in Monte Carlo passes. Place it where Dropout would
    stand, at 0.5 for hidden units and 0.2 for inputs, when weights are to be those of the paper: fold_keep_rate moves
    the factor into the next weights. From Dropout a network differs by the scale of those weights, and so by their
    initial values, learning rate and decay.
    Source: Srivastava et al. 2014, JMLR 15, section 4 and figure 2; Hinton et al. 2012, arXiv 1207.0580.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return classic_dropout(x, self.p, self.training)


def fold_keep_rate(model: nn.Module) -> nn.Module:
    """The network at test: W ← (1 − p) · W for every weight that reads a ClassicDropout, which becomes nn.Identity.

    Returns a copy in eval mode whose outputs are those of model.eval(), to rounding; the model itself stays as it is.
    Biases stay, and the factors of several dropouts before one weight are multiplied. The network is traced with
    torch.fx. From a dropout its value may go through whatever commutes with a positive factor (ReLU, LeakyReLU and
    PReLU, max and mean pooling, sums and means, changes of shape, other dropouts) to any number of nn.Linear and
    convolutions, transposed ones too.
    Raises InvalidInput, naming the dropout and what stands in the way, when the value reaches anything else, such as a
    sum with another value, a normalisation or the output, or a weight that is used more than once or computed from
    others; and for a network that cannot be traced.
    Source: Srivastava et al. 2014, JMLR 15, figure 2.
    """
    folded = copy.deepcopy(model).eval()
    network = _Network(folded, _traced(folded))
    network.refuse_untraced()
    keeps: dict[nn.Module, float] = {}
    for node in network.graph.nodes:
        dropout = network.called(node)
        if isinstance(dropout, ClassicDropout):
            for reader in network.readers(node):
                keeps[reader] = keeps.get(reader, 1.0) * (1.0 - dropout.p)
    for module, keep in keeps.items():
        weight: Any = module.weight
        module.weight = nn.Parameter(weight.detach() * keep, requires_grad=weight.requires_grad)
    for parent in list(folded.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, ClassicDropout):
                parent._modules[name] = nn.Identity().eval()
    return folded


# f(a · x) = a · f(x) for a ≥ 0, in eval mode.
_COMMUTING_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.LeakyReLU, nn.PReLU),
    *(_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd, _DropoutNd),
    *(ClassicDropout, Dropout, AlphaDropout, SpatialDropout1d, GaussianDropout, GroupDropout),
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
    """Traces a network down to torch's modules and ours."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, ClassicDropout) or type(m).__module__.startswith("dropout_core.layers.")
        return ours or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.Graph:
    if isinstance(model, ClassicDropout):
        _refuse("", "its value is the network's output")
    try:
        return _Tracer().trace(model)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"torch.fx cannot trace the network: {error}") from error


@dataclass(frozen=True)
class _Network:
    """A network in eval mode, and its graph down to modules."""

    root: nn.Module
    graph: fx.Graph

    def called(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def refuse_untraced(self) -> None:
        """Raise InvalidInput for a ClassicDropout inside a module that the trace does not look into."""
        for node in self.graph.nodes:
            outer = self.called(node)
            for path, inner in outer.named_modules() if outer is not None else ():
                if isinstance(inner, ClassicDropout) and inner is not outer:
                    _refuse(f"{node.target}.{path}", f"{self._name(node)} is not traced")

    def readers(self, dropout: fx.Node) -> Iterator[nn.Module]:
        """The modules whose weights read the value of a dropout. Raises InvalidInput where anything else does."""
        path, front = str(dropout.target), [dropout]
        while front:
            value = front.pop()
            for user in value.users:
                if _reads_shape(user):
                    continue
                if user.op == "output":
                    _refuse(path, "its value is the network's output")
                module = self.called(user)
                if _operand(user) is value and isinstance(module, nn.Linear | _ConvNd):
                    self._refuse_unless_used_once(module, user, path)
                    yield module
                elif _operand(user) is value and self._commutes(user, module):
                    _out_of_place(module)
                    front.append(user)
                else:
                    _refuse(path, f"{self._name(user)} reads its value")

    def _refuse_unless_used_once(self, module: nn.Module, node: fx.Node, path: str) -> None:
        weight = module._parameters.get("weight")
        if weight is None:
            _refuse(path, f"the weight of {self._name(node)} is computed from others")
        owners = [part for part in self.root.modules() if any(one is weight for one in part._parameters.values())]
        outers = [outer for other in self.graph.nodes if (outer := self.called(other)) is not None]
        calls = [outer for outer in outers if any(part is module for part in outer.modules())]
        reads = [other for other in self.graph.nodes if other.op == "get_attr" and self._attribute(other) is weight]
        if len(owners) > 1 or len(calls) > 1 or reads:
            _refuse(path, f"the weight of {self._name(node)} is used more than once")

    def _attribute(self, node: fx.Node) -> Any:
        return operator.attrgetter(str(node.target))(self.root)

    def _commutes(self, node: fx.Node, module: nn.Module | None) -> bool:
        if module is not None:
            return isinstance(module, _COMMUTING_MODULES)
        # x.view(dtype) reads the bits anew; for what is in place see _out_of_place.
        given = (*node.args, *node.kwargs.values())
        if node.kwargs.get("inplace") or any(isinstance(argument, torch.dtype) for argument in given):
            return False
        known: Any = _COMMUTING_FUNCTIONS if node.op == "call_function" else _COMMUTING_METHODS
        return node.target in known

    def _name(self, node: fx.Node) -> str:
        module = self.called(node)
        if module is not None:
            return f"{node.target} ({type(module).__name__})"
        return getattr(node.target, "__name__", str(node.target))


def _operand(node: fx.Node) -> Any:
    """What a node works on: its first argument."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _out_of_place(module: Any) -> None:
    """Stop a module from writing into what nn.Identity hands on: a ClassicDropout made a new tensor."""
    if getattr(module, "inplace", False):
        module.inplace = False


def _reads_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidInput(
        f"the ClassicDropout at {path!r} cannot be folded: {reason}; nn.Linear or a convolution with a weight of its "
        "own is wanted, after nothing but what commutes with a factor."
    )
