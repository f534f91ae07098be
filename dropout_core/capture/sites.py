"""Which operators of an exported graph are random, and how each becomes a site with its noise handed in.

After functionalisation torch spells its dropouts, with b = bernoulli(template, keep), as

* `native_dropout(x, p, True)[0]`: a draw for each unit;
* `x · (b / keep)`: a dropout in place when the template has the shape of x, a feature dropout (1d, 2d, 3d) when it is
  [N, C, 1, …];
* `x · (b · a) + ((b − 1) · s + c)`: an alpha dropout, and a feature alpha dropout, likewise.

b alone, or `floor(keep + uniform)`, is a mask that the network scales itself, as stochastic depth is often written.
All other draws are spelled in the few ways of draws.py, and Boolean masks as comparisons.py has them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from dropout_core.capture.comparisons import live_nodes
from dropout_core.errors import UnknownRandomness
from dropout_core.graph.noise_kinds import SELU_FLOOR, alpha_affine
from dropout_core.graph.operators import arguments_by_name

_aten = torch.ops.aten
_TORCH = str(Path(torch.__file__).parent)
_LAYERS = str(Path(__file__).parent.parent / "layers")
_SITE_KINDS = (
    "dropout, feature dropout 1d, 2d, 3d, alpha dropout (all also functional and in place), dropout in attention and "
    "between recurrent layers, RReLU, and Bernoulli, uniform, normal and exponential draws in all their forms"
)
_OF_THEIR_INPUT: dict[Any, str] = {
    _aten.bernoulli.default: "bernoulli",
    _aten.exponential.default: "exponential",
    _aten.rand_like.default: "uniform",
    _aten.randn_like.default: "normal",
}
_RATE_AND_SWITCH = {
    _aten.scaled_dot_product_attention.default: ("dropout_p", None),
    _aten.lstm.input: ("dropout", "train"),
    _aten.gru.input: ("dropout", "train"),
    _aten.rnn_tanh.input: ("dropout", "train"),
    _aten.rnn_relu.input: ("dropout", "train"),
}


@dataclass(frozen=True)
class SiteDraft:
    """A site as the exported graph shows it: the node whose value it replaces, its input, its rate (0: it has none)."""

    node: fx.Node
    kind: str
    input: fx.Node
    rate: float


def find_sites(graph: fx.Graph) -> tuple[dict[fx.Node, SiteDraft], dict[fx.Node, fx.Node]]:
    """Find the sites of a graph and the dropouts that do nothing. The graph is not changed.

    Args:
        graph: A functionalised graph whose comparisons of uniform draws `rewrite_comparisons` has rewritten.

    Returns:
        The sites by the node they replace; and for each dropout that is the identity (its rate is 0, or it is switched
        off), the node it returns.

    Raises:
        UnknownRandomness: A random operator that reaches the output is of no known kind. The message names the
            operator and its line.
    """
    _refuse_nested_draws(graph)
    sites: dict[fx.Node, SiteDraft] = {}
    identities: dict[fx.Node, fx.Node] = {}
    for node in live_nodes(graph):
        if not draws(node.target, node.args, node.kwargs):
            continue
        if node.target is _aten.native_dropout.default:
            value, rate, train = cast("tuple[fx.Node, float, bool | None]", node.args)
            for user in (user for user in node.users if user.args[1] == 0):
                if train is False or rate == 0:
                    identities[user] = _node(value)
                else:
                    sites[user] = SiteDraft(user, "dropout", _node(value), float(rate))
        elif (draft := next(filter(None, (rule(node) for rule in _RULES)), None)) is not None:
            sites[draft.node] = draft
        else:
            raise _unknown(node, _no_rule(node))
    return sites, identities


def draws(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator call draws random numbers: it can, and its rate is above 0 and its switch on."""
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    names = _RATE_AND_SWITCH.get(target)
    if names is None:
        return True
    rate, switch = names
    given = arguments_by_name(target, args, kwargs)
    return bool(given.get(rate, 0.0) != 0) and (switch is None or bool(given.get(switch, True)))


def where(node: fx.Node) -> str:
    """The caller's line that made a node, such as "net.py:12", or an empty string."""
    frames = [
        line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip().startswith("File ")
    ]
    places = [frame.removeprefix("File ").split(", ")[:2] for frame in frames]
    own = [(path.strip('"'), line.removeprefix("line ")) for path, line in places]
    return next((f"{path}:{line}" for path, line in reversed(own) if is_callers(path)), "")


def is_callers(path: str) -> bool:
    """Whether a file of a stack trace is the caller's own: not torch's, not our layers', not made up by torch."""
    return not path.startswith((_TORCH, _LAYERS, "torch/", "<"))


def module_path(node: fx.Node) -> str:
    """The path of the module that made a node, such as "head.2", or an empty string for the whole network."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _of_its_input(node: fx.Node) -> SiteDraft | None:
    """Draws whose law or shape is their input's."""
    kind = _OF_THEIR_INPUT.get(node.target)
    if kind is None or not node.meta["val"].dtype.is_floating_point:
        return None
    source = _node(node.args[0])
    if kind != "bernoulli":
        return SiteDraft(node, kind, _template(source), 0.0)
    constant = source.target is _aten.full_like.default and _unscaled(node, source.args[1], source)
    return constant or SiteDraft(node, kind, source, 0.0)


def _scaled_bernoulli(node: fx.Node) -> SiteDraft | None:
    """`x · (b / keep)`, from its b."""
    if node.target is not _aten.bernoulli.p:
        return None
    keep = cast("float", node.args[1])
    scaled = _only_user(node, _aten.div.Scalar)
    product = scaled and scaled.args[1] == keep and _only_user(scaled, _aten.mul.Tensor)
    if not product or product.args[1] is not scaled:
        return None
    return _draft(product, node, _node(product.args[0]), ("dropout", "feature_dropout"))


def _alpha_bernoulli(node: fx.Node) -> SiteDraft | None:
    """`x · (b · a) + ((b − 1) · s + c)`, from its b."""
    if node.target is not _aten.bernoulli.p:
        return None
    users = {user.target: user for user in node.users}
    if len(node.users) != 2 or set(users) != {_aten.mul.Scalar, _aten.add.Scalar}:
        return None
    scaled, floor = users[_aten.mul.Scalar], _only_user(users[_aten.add.Scalar], _aten.mul.Scalar)
    product, shift = _only_user(scaled, _aten.mul.Tensor), floor and _only_user(floor, _aten.add.Scalar)
    total = product and _only_user(product, _aten.add.Tensor)
    if not floor or not product or not shift or not total or total.args != (product, shift):
        return None
    draft = _draft(total, node, _node(product.args[0]), ("alpha_dropout", "feature_alpha_dropout"))
    return draft if draft is not None and _is_alpha(draft.rate, scaled, users[_aten.add.Scalar], floor, shift) else None


def _drawn_mask(node: fx.Node) -> SiteDraft | None:
    """A b that the network scales itself."""
    return _unscaled(node, node.args[1], _node(node.args[0])) if node.target is _aten.bernoulli.p else None


def _floored_mask(node: fx.Node) -> SiteDraft | None:
    """`floor(keep + rand)`, from its rand."""
    shifted = _only_user(node, _aten.add.Tensor) if node.target is _aten.rand_like.default else None
    floored = shifted and _only_user(shifted, _aten.floor.default)
    if not shifted or not floored or shifted.args[0] is not node or shifted.kwargs:
        return None
    return _unscaled(floored, shifted.args[1], _node(node.args[0]))


def _unscaled(node: fx.Node, keep: Any, template: fx.Node) -> SiteDraft | None:
    if not isinstance(keep, float) or not 0.0 <= keep < 1.0:
        return None
    return SiteDraft(node, "unscaled", _template(template), round(1.0 - keep, 12))


def _template(node: fx.Node) -> fx.Node:
    """What a template was made like, where only shape and type matter: a value of the network tells its rows."""
    while node.target in _LIKE and node.meta["val"].dtype == _node(node.args[0]).meta["val"].dtype:
        node = _node(node.args[0])
    return node


_LIKE = {_aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default}
_RULES = (_floored_mask, _of_its_input, _scaled_bernoulli, _alpha_bernoulli, _drawn_mask)


def _is_alpha(rate: float, scaled: fx.Node, less: fx.Node, floor: fx.Node, shift: fx.Node) -> bool:
    """Whether the constants of a pattern are those of alpha dropout at this rate."""
    scale, offset = alpha_affine(rate)
    wanted = (scale, -1.0, -scale * SELU_FLOOR, offset)
    given = cast("list[float]", [node.args[1] for node in (scaled, less, floor, shift)])
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(given, wanted, strict=True))


def _draft(node: fx.Node, drawn: fx.Node, value: fx.Node, kinds: tuple[str, str]) -> SiteDraft | None:
    """A site of the first kind where the drawn node has the value's shape, of the second where it is [N, C, 1, …]."""
    mask_shape, shape = _node(drawn.args[0]).meta["val"].shape, value.meta["val"].shape
    rate = round(1.0 - cast("float", drawn.args[1]), 12)
    if mask_shape == shape:
        return SiteDraft(node, kinds[0], value, rate)
    if len(shape) >= 2 and mask_shape[:2] == shape[:2] and all(size == 1 for size in mask_shape[2:]):
        return SiteDraft(node, kinds[1], value, rate)
    return None


def _only_user(node: fx.Node, target: Any) -> fx.Node | None:
    user = next(iter(node.users), None)
    return user if user is not None and len(node.users) == 1 and user.target is target else None


def _refuse_nested_draws(graph: fx.Graph) -> None:
    for node in live_nodes(graph):
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


def _node(argument: Any) -> fx.Node:
    if not isinstance(argument, fx.Node):
        raise UnknownRandomness(f"a dropout is applied to the constant {argument!r}; apply it to a tensor.")
    return argument


def _no_rule(node: fx.Node) -> str:
    value = node.meta["val"]
    if isinstance(value, torch.Tensor) and not value.dtype.is_floating_point:
        return "whole numbers have no mean among them for the noise to be off at"
    return "the engine has no rule for it"


def _unknown(node: fx.Node, why: str) -> UnknownRandomness:
    place = where(node)
    return UnknownRandomness(
        f"the random operator {node.target}{f' at {place}' if place else ''} cannot become a site: {why}. "
        f"Known kinds: {_SITE_KINDS}. Express it through these, or use predict(..., method='loop') on the live model."
    )
