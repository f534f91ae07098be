"""Which operators of an exported graph are random, and how each becomes a site with its noise handed in.

One row a kind. After functionalisation torch spells dropout in two ways:

* `native_dropout(x, p, True)[0]`: a draw for each unit;
* `x * (bernoulli(template, keep) / keep)`: an in-place dropout when the template has the shape of x, a feature
  dropout (1d, 2d, 3d) when it is [N, C, 1, …].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from dropout_core.errors import UnknownRandomness

_aten = torch.ops.aten
_TORCH = str(Path(torch.__file__).parent)
_SITE_KINDS = "dropout (also functional and in place), and feature dropout 1d, 2d, 3d"
_RATE_AND_SWITCH = {
    _aten.scaled_dot_product_attention.default: ("dropout_p", None),
    _aten.lstm.input: ("dropout", "train"),
    _aten.gru.input: ("dropout", "train"),
    _aten.rnn_tanh.input: ("dropout", "train"),
    _aten.rnn_relu.input: ("dropout", "train"),
}


@dataclass(frozen=True)
class SiteDraft:
    """A site as the exported graph shows it: the node whose value it replaces, its input, its rate."""

    node: fx.Node
    kind: str
    input: fx.Node
    rate: float


def find_sites(graph: fx.Graph) -> tuple[dict[fx.Node, SiteDraft], dict[fx.Node, fx.Node]]:
    """Sites by the node they replace, and the nodes that are the identity (rate 0, or switched off).

    Raises UnknownRandomness for a live random operator of any other kind, naming it and its line.
    """
    _refuse_nested_draws(graph)
    sites: dict[fx.Node, SiteDraft] = {}
    identities: dict[fx.Node, fx.Node] = {}
    for node in _live_nodes(graph):
        if not draws(node.target, node.args, node.kwargs):
            continue
        if node.target is _aten.native_dropout.default:
            value, rate, train = cast("tuple[fx.Node, float, bool | None]", node.args)
            outputs = {user: user.args[1] for user in node.users}
            if any(index != 0 for index in outputs.values()):
                raise _unknown(node, "its mask is used beside its output")
            for user in outputs:
                if train is False or rate == 0:
                    identities[user] = _node(value)
                else:
                    sites[user] = SiteDraft(user, "dropout", _node(value), float(rate))
        elif (draft := _scaled_bernoulli(node)) is not None:
            sites[draft.node] = draft
        else:
            raise _unknown(node, "the engine has no rule for it")
    return sites, identities


def draws(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator call draws random numbers: it can, and its rate is above 0 and its switch on."""
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    names = _RATE_AND_SWITCH.get(target)
    if names is None:
        return True
    rate, switch = names
    given = named(target, args, kwargs)
    return bool(given.get(rate, 0.0) != 0) and (switch is None or bool(given.get(switch, True)))


def named(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator call by name, whichever way they were given."""
    return {**{argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}, **kwargs}


def where(node: fx.Node) -> str:
    """The caller's line that made a node, such as "net.py:12", or an empty string."""
    frames = [
        line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip().startswith("File ")
    ]
    places = [frame.removeprefix("File ").split(", ")[:2] for frame in frames]
    own = [(path.strip('"'), line.removeprefix("line ")) for path, line in places]
    return next((f"{path}:{line}" for path, line in reversed(own) if is_callers(path)), "")


def is_callers(path: str) -> bool:
    """Whether a file of a stack trace is the caller's own: not torch's, and not code that torch made up."""
    return not path.startswith((_TORCH, "torch/", "<"))


def module_path(node: fx.Node) -> str:
    """The path of the module that made a node, such as "head.2", or an empty string for the whole network."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _scaled_bernoulli(node: fx.Node) -> SiteDraft | None:
    """The second spelling, from its `bernoulli` node."""
    if node.target is not _aten.bernoulli.p or len(node.users) != 1:
        return None
    template, keep = _node(node.args[0]), cast("float", node.args[1])
    scaled = next(iter(node.users))
    if scaled.target is not _aten.div.Scalar or scaled.args[1] != keep or len(scaled.users) != 1:
        return None
    product = next(iter(scaled.users))
    if product.target is not _aten.mul.Tensor or product.args[1] is not scaled:
        return None
    value = _node(product.args[0])
    mask_shape, shape = template.meta["val"].shape, value.meta["val"].shape
    rate = round(1.0 - keep, 12)
    if mask_shape == shape:
        return SiteDraft(product, "dropout", value, rate)
    if len(shape) >= 2 and mask_shape[:2] == shape[:2] and all(size == 1 for size in mask_shape[2:]):
        return SiteDraft(product, "feature_dropout", value, rate)
    return None


def _refuse_nested_draws(graph: fx.Graph) -> None:
    for node in _live_nodes(graph):
        for inner in _nested_draws(node):
            raise _unknown(inner, f"it stands inside {node.target}, where it runs or not by the values of a tensor")


def _nested_draws(node: fx.Node) -> Iterator[fx.Node]:
    """The random operators inside the subgraphs that a node calls, at any depth."""
    owner = node.graph.owning_module
    for argument in node.all_input_nodes:
        if owner is None or argument.op != "get_attr":
            continue
        called = getattr(owner, str(argument.target), None)
        for inner in called.graph.nodes if isinstance(called, fx.GraphModule) else ():
            if draws(inner.target, inner.args, inner.kwargs):
                yield inner
            yield from _nested_draws(inner)


def _live_nodes(graph: fx.Graph) -> list[fx.Node]:
    output = graph.output_node()
    live = {output}
    for node in reversed(graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in live]


def _node(argument: Any) -> fx.Node:
    if not isinstance(argument, fx.Node):
        raise UnknownRandomness(f"a dropout is applied to the constant {argument!r}; apply it to a tensor.")
    return argument


def _unknown(node: fx.Node, why: str) -> UnknownRandomness:
    place = where(node)
    return UnknownRandomness(
        f"the random operator {node.target}{f' at {place}' if place else ''} cannot become a site: {why}. "
        f"Known kinds: {_SITE_KINDS}. Express it through these, or use predict(..., method='loop') on the live model."
    )
