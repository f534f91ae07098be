"""Dropout in its original scale (no factor in training, 1 − p at test), and weights that absorb that factor."""

import copy
import operator
from collections.abc import Iterator
from typing import Any, NoReturn

from torch import Tensor, fx, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, unscaled_mask
from dropout_core.layers.weight_readers import TracedNetwork, has_readable_weight, trace_network


def classic_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · m with m ~ Bernoulli(1 − p) for each unit, or x · (1 − p) when not training.

    Args:
        x: Input of any shape.
        p: Drop probability.
        training: Whether to drop.

    Returns:
        A tensor of the same shape.
    """
    if p == 0:
        return x
    if not training:
        return x * (1.0 - p)
    return x * unscaled_mask(x, x.shape, 1.0 - p).to(x.dtype)


class ClassicDropout(RateLayer):
    """Dropout as first published: in training a unit is 0 or itself; in eval mode it is multiplied by 1 − p.

    The input may have any shape, which is kept. E y = (1 − p) · x in both modes and in Monte Carlo passes. Place it
    where Dropout would stand, at 0.5 for hidden units and 0.2 for inputs, to reproduce weights of the paper;
    `fold_keep_rate` moves the factor into the next weights. A network with Dropout differs by the scale of those
    weights, and so by their initial values, learning rate and decay.

    Args:
        p: Drop probability, between 0 and 1.

    Raises:
        InvalidInput: p is out of range.

    References:
        Srivastava et al. 2014, JMLR 15, section 4 and figure 2. Hinton et al. 2012, arXiv 1207.0580.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return classic_dropout(x, self.p, self.training)


def fold_keep_rate(model: nn.Module) -> nn.Module:
    """Return the network at test, without its ClassicDropouts.

    W ← (1 − p) · W for every weight that reads a ClassicDropout, which becomes nn.Identity.
    Biases stay, and the factors of several dropouts before one weight are multiplied. The network is traced with
    torch.fx. From a dropout, its value may pass through everything that commutes with a positive factor (ReLU,
    LeakyReLU and PReLU, max and mean pooling, sums and means, changes of shape, other dropouts) to any number of
    nn.Linear and convolutions, transposed ones too.

    Args:
        model: The network; it is not changed.

    Returns:
        A copy in eval mode whose outputs equal those of model.eval() up to rounding.

    Raises:
        InvalidInput: The value of a dropout reaches something else, such as a sum with another value, a normalisation
            or the output; a weight is used more than once or computed from others; or the network cannot be traced. The
            message names the dropout and the obstacle.

    References:
        Srivastava et al. 2014, JMLR 15, figure 2.
    """
    folded = copy.deepcopy(model).eval()
    for module, keep in _keep_rates(folded).items():
        weight: Any = module.weight
        module.weight = nn.Parameter(weight.detach() * keep, requires_grad=weight.requires_grad)
    for parent in list(folded.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, ClassicDropout):
                parent._modules[name] = nn.Identity().eval()
    return folded


def _keep_rates(model: nn.Module) -> dict[nn.Module, float]:
    """Return the factor of each module whose weights read a ClassicDropout."""
    if isinstance(model, ClassicDropout):
        _refuse("", "its value is the network's output")
    network = trace_network(model, ClassicDropout)
    for path, outer in network.untraced(ClassicDropout):
        _refuse(path, f"{outer} is not traced")
    keeps: dict[nn.Module, float] = {}
    for node in network.calls(ClassicDropout):
        dropout: Any = network.called(node)
        for reader in _readers(network, node):
            keeps[reader] = keeps.get(reader, 1.0) * (1.0 - dropout.p)
    return keeps


def _readers(network: TracedNetwork, dropout: fx.Node) -> Iterator[nn.Module]:
    """Yield the modules whose weights read the value of a dropout, if nothing else does."""
    path = str(dropout.target)
    try:
        reached = list(network.reached(dropout, (ClassicDropout,)))
    except InvalidInput as error:
        _refuse(path, str(error))
    for node in reached:
        module: Any = network.called(node)
        if has_readable_weight(module):
            _refuse_unless_used_once(network, node, path)
            yield module
        elif getattr(module, "inplace", False):
            # A ClassicDropout made a new tensor to write into, nn.Identity will not.
            module.inplace = False


def _refuse_unless_used_once(network: TracedNetwork, node: fx.Node, path: str) -> None:
    module: Any = network.called(node)
    weight = module._parameters.get("weight")
    if weight is None:
        _refuse(path, f"the weight of {network.name(node)} is computed from others")
    owners = [part for part in network.root.modules() if any(one is weight for one in part._parameters.values())]
    outers = [outer for other in network.graph.nodes if (outer := network.called(other)) is not None]
    calls = [outer for outer in outers if any(part is module for part in outer.modules())]
    values = [operator.attrgetter(str(other.target)) for other in network.graph.nodes if other.op == "get_attr"]
    if len(owners) > 1 or len(calls) > 1 or any(value(network.root) is weight for value in values):
        _refuse(path, f"the weight of {network.name(node)} is used more than once")


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidInput(
        f"the ClassicDropout at {path!r} cannot be folded: {reason}; nn.Linear or a convolution with a weight of its "
        "own is wanted, after nothing but what commutes with a factor."
    )
