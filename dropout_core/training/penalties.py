"""The penalty of a network's learned dropouts."""

from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.concrete import ConcreteDropout, ConcreteSpatialDropout
from dropout_core.layers.selection import Layers, named_layers
from dropout_core.layers.variational import _Variational
from dropout_core.layers.weight_readers import TracedNetwork, has_readable_weight, trace_network


def regularization(
    model: nn.Module,
    num_examples: int,
    lengthscale: float = 1e-2,
    tau: float | None = None,
    by_hand: Layers = (),
) -> Tensor:
    """Return the penalty of all learned dropouts in a network, to add to the mean loss of an example.

        loss = F.cross_entropy(model(x), y) + regularization(model, num_examples=50_000)

    It is the sum of kl() of every variational layer and of the divergence L of every ConcreteDropout, each once
    however often it is called, divided by N for a loss that is a negative log likelihood in nats, and times 2 / (τ N)
    for a squared error with model precision τ.

    A torch.fx trace of the network shows which weights read a ConcreteDropout; it is kept until the network has other
    modules or another mode. Readers are nn.Linear behind ConcreteDropout and convolutions behind
    ConcreteSpatialDropout, after nothing but ReLU, pooling, changes of shape and other dropouts. Their input features
    or channels are the features of the penalty.

    Args:
        model: The network.
        num_examples: Size N of the training set.
        lengthscale: Length scale of the prior of the weights behind a ConcreteDropout.
        tau: Model precision τ for a squared error; None for a likelihood.
        by_hand: Layers to leave out, whose `layer.regularization(...)` you add yourself.

    Returns:
        A scalar.

    Raises:
        InvalidInput: The readers of a layer cannot be determined: the network cannot be traced, something else reads
            the layer, its readers differ in their inputs, or a weight is read behind several layers (name such layers
            in `by_hand`); or nothing is left to sum, which is a mistake.

    References:
        Gal et al. 2017, arXiv 1705.07832, eq. 3 and 4. Molchanov et al. 2017, arXiv 1701.05369, eq. 14.
    """
    for name, value in (("num_examples", num_examples), ("lengthscale", lengthscale), ("tau", tau)):
        if value is not None and not value > 0:
            raise InvalidInput(f"{name} is {value}; a number above 0 is wanted.")
    model = _unwrapped(model)
    left_out = {layer for _, layer in named_layers(by_hand)}
    layers = {layer: path for path, layer in model.named_modules() if layer not in left_out}
    scale = 1.0 / num_examples if tau is None else 2.0 / (tau * num_examples)
    terms = [layer.kl() * scale for layer in layers if isinstance(layer, _Variational)]
    for site in _sites(model, {layer: path for layer, path in layers.items() if isinstance(layer, ConcreteDropout)}):
        dropout: Any = model.get_submodule(site.dropout)
        readers: list[Any] = [model.get_submodule(path) for path in site.readers]
        weights = [reader.weight for reader in readers]
        terms.append(dropout.regularization(weights, _inputs(readers[0]), num_examples, lengthscale, tau))
    if not terms:
        raise InvalidInput("nothing has a penalty; a network with a variational layer or a ConcreteDropout is wanted.")
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


@dataclass(frozen=True)
class _Site:
    """The paths of a dropout and of the modules whose weights read one value of it."""

    dropout: str
    readers: tuple[str, ...]


_traces: WeakKeyDictionary[nn.Module, tuple[Any, list[_Site]]] = WeakKeyDictionary()


def _sites(model: nn.Module, dropouts: dict[nn.Module, str]) -> list[_Site]:
    """Return where these dropouts are called and read, from the last trace while the network is still the same."""
    if not dropouts:
        return []
    modules = [(path, type(layer)) for path, layer in model.named_modules()]
    same = (model.training, modules, list(dropouts.values()))
    if model not in _traces or _traces[model][0] != same:
        _traces[model] = same, _found(model, dropouts)
    return _traces[model][1]


def _found(model: nn.Module, dropouts: dict[nn.Module, str]) -> list[_Site]:
    try:
        # What a forward draws while it is traced is not to move the numbers of the training.
        with torch.random.fork_rng(devices=[]):
            network = trace_network(model, ConcreteDropout)
    except InvalidInput as error:
        _refuse(", ".join(dropouts.values()), str(error))
    for path, outer in network.untraced(ConcreteDropout):
        if model.get_submodule(path) in dropouts:
            _refuse(path, f"{outer} is not traced")
    calls = [(layer, node) for node in network.calls(ConcreteDropout) if (layer := network.called(node)) in dropouts]
    for layer, path in dropouts.items():
        if all(layer is not called for called, _ in calls):
            _refuse(path, "the forward does not call it")
    # A loop over steps calls the same layers again and again.
    sites = list(dict.fromkeys(_site(network, node) for _, node in calls))
    _refuse_read_twice(model, sites)
    return sites


def _site(network: TracedNetwork, node: fx.Node) -> _Site:
    path, dropout = str(node.target), network.called(node)
    try:
        reached = [each for each in network.reached(node) if has_readable_weight(network.called(each))]
    except InvalidInput as error:
        _refuse(path, str(error))
    kind, wanted = (
        (_ConvNd, "a convolution") if isinstance(dropout, ConcreteSpatialDropout) else (nn.Linear, "nn.Linear")
    )
    for each in reached:
        if not isinstance(network.called(each), kind):
            _refuse(path, f"{network.name(each)} reads its value, where {wanted} is wanted")
    counts = sorted({_inputs(network.called(each)) for each in reached})
    if not counts:
        _refuse(path, "nothing reads its value")
    if len(counts) > 1:
        _refuse(path, f"its readers have {counts} inputs, where one number is wanted")
    return _Site(path, tuple(sorted({str(each.target) for each in reached})))


def _refuse_read_twice(model: nn.Module, sites: list[_Site]) -> None:
    """Refuse a weight behind several dropouts: it is unclear whose penalty it enters."""
    owners: dict[Any, str] = {}
    for site in sites:
        for path in site.readers:
            reader = model.get_submodule(path)
            # A weight that is computed from others is a new tensor at each look.
            weight = reader._parameters.get("weight", reader)
            if weight in owners:
                _refuse(site.dropout, f"the weight of {path} is read behind {owners[weight]}, too")
            owners[weight] = site.dropout


def _inputs(reader: Any) -> int:
    count: int = reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels
    return count


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of torch.compile and of parallel training."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidInput(
        f"the penalty of {path!r} cannot be found: {reason}; name it in by_hand and add its own regularization(...)."
    )
