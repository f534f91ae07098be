"""Comparisons of uniform draws in an exported graph become draws of 0 and 1, and their uses arithmetic (truths.py).

Only where the draw has no other use and every use of the comparison is known. Any other stays as it is: a comparison of
a uniform site, which with its noise off lies at ½ and compares as it does more often than not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from dropout_core.capture.booleans import (
    SHAPES,
    TENSOR_COMPARISONS,
    UNIFORM_COMPARISONS,
    OperatorCall,
    is_known,
    probability_below,
    written,
)

_aten = torch.ops.aten


def rewrite_comparisons(graph: fx.Graph) -> None:
    """Rewrite comparisons of uniform draws as draws of 0 and 1, in place.

    A second call changes nothing.

    Args:
        graph: A functionalised graph, as `torch.export` makes it.
    """
    masks = [node for node in live_nodes(graph) if _is_mask(node)]
    for dropout in dict.fromkeys(mask.all_input_nodes[0] for mask in masks):  # in order: it decides the new names
        _compare_instead(graph, dropout)
    for node in live_nodes(graph):
        if node.target in UNIFORM_COMPARISONS or node.target in TENSOR_COMPARISONS:
            now = live_nodes(graph)  # a rewritten comparison has changed what another is used in
            drawn = _drawn(node, set(now))
            uses = None if drawn is None else _uses(node, now)
            if drawn is not None and uses is not None:
                _write(graph, {node: drawn(_adding(graph, node))}, uses)


def live_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that reach the output, in the order they run.

    Args:
        graph: A graph with one output node.

    Returns:
        The nodes without those whose values nothing uses.
    """
    output = graph.output_node()
    live = {output}
    for node in reversed(graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in live]


def _is_mask(node: fx.Node) -> bool:
    """Whether a node is the mask of a dropout, beside its output."""
    sources = node.all_input_nodes
    return len(sources) == 1 and sources[0].target is _aten.native_dropout.default and node.args[1:] == (1,)


def _compare_instead(graph: fx.Graph, node: fx.Node) -> None:
    """A dropout whose mask is used beside its output, as a comparison and a product."""
    value, rate, train = cast("tuple[fx.Node, float, bool | None]", node.args)
    rate = 0 if train is False else rate
    call = _adding(graph, node)
    kept = call(_aten.ge.Scalar, call(_aten.rand_like.default, value), rate)
    scaled = call(_aten.mul.Tensor, call(_aten.mul.Tensor, value, kept), 1 / (1 - rate) if rate < 1 else 0)
    for user in list(node.users):
        user.replace_all_uses_with(kept if user.args[1] == 1 else scaled)


def _drawn(node: fx.Node, live: set[fx.Node]) -> Callable[[OperatorCall], Any] | None:
    """How the truth of a comparison is drawn as a number, or None for any other node."""
    if node.target in UNIFORM_COMPARISONS:
        uniform, bound = cast("tuple[fx.Node, float]", node.args)
        drawn = _only_draw(uniform, live)
        if drawn is not None and isinstance(bound, int | float):
            template, probability = drawn.args[0], probability_below(node.target, bound)
            return lambda call: _moved(call, uniform, _constant(call, template, probability))
    if node.target in TENSOR_COMPARISONS:
        (first, second), below = cast("tuple[fx.Node, fx.Node]", node.args), TENSOR_COMPARISONS[node.target]
        for draw, limit, is_below in ((first, second, below), (second, first, not below)):
            if _only_draw(draw, live) is draw and _covers(draw, limit):
                return partial(_likely, uniform=draw, bound=limit, is_below=is_below)
    return None


def _only_draw(node: Any, live: set[fx.Node]) -> fx.Node | None:
    """The uniform draw that a node is, or moves, where it has no other use."""
    while isinstance(node, fx.Node) and len(live.intersection(node.users)) == 1:
        if node.target is _aten.rand_like.default:
            return node
        if node.target not in SHAPES:
            return None
        node = node.args[0]
    return None


def _covers(uniform: fx.Node, bound: fx.Node) -> bool:
    shape, other = uniform.meta["val"].shape, bound.meta["val"].shape
    return bool(torch.broadcast_shapes(shape, other) == shape)


def _constant(call: OperatorCall, template: Any, probability: float) -> Any:
    if not 0 < probability < 1:
        return call(_aten.full_like.default, template, probability)
    return call(_aten.bernoulli.p, template, probability)


def _likely(call: OperatorCall, uniform: fx.Node, bound: fx.Node, is_below: bool) -> Any:
    """A draw as likely as a value of the network says."""
    template = uniform.args[0]
    dtype = uniform.meta["val"].dtype
    inside = call(_aten.clamp.default, call(_aten._to_copy.default, bound, dtype=dtype), 0, 1)
    drawn = call(_aten.bernoulli.default, call(_aten.expand_as.default, inside, template))
    return drawn if is_below else call(_aten.rsub.Scalar, drawn, 1)


def _moved(call: OperatorCall, node: fx.Node, drawn: fx.Node) -> Any:
    """What the nodes between a draw and its comparison make of another draw in its place."""
    if node.target is _aten.rand_like.default:
        return drawn
    return call(node.target, _moved(call, node.all_input_nodes[0], drawn), *node.args[1:], **node.kwargs)


def _uses(comparison: fx.Node, live: list[fx.Node]) -> list[fx.Node] | None:
    """All that is computed with a truth, in order, up to where it is a float; None where a use is not known."""
    truths, uses = {comparison}, []
    for node in live:
        if not truths.intersection(node.all_input_nodes):
            continue
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not is_known(node.target, node.args, truths.__contains__, value.dtype):
            return None
        uses.append(node)
        if not value.dtype.is_floating_point:
            truths.add(node)
    return uses


def _write(graph: fx.Graph, numbers: dict[fx.Node, fx.Node], uses: list[fx.Node]) -> None:
    for node in uses:
        call, dtype = _adding(graph, node), node.meta["val"].dtype

        def number(argument: Any, call: OperatorCall = call, dtype: torch.dtype = dtype) -> Any:
            if not isinstance(argument, fx.Node) or argument not in numbers:
                return argument
            found = numbers[argument]
            if not dtype.is_floating_point or found.meta["val"].dtype == dtype:
                return found
            return call(_aten._to_copy.default, found, dtype=dtype)

        result = written(call, node.target, [number(argument) for argument in node.args], node.kwargs, dtype)
        if dtype.is_floating_point:
            node.replace_all_uses_with(result)
        else:
            numbers[node] = result


def _adding(graph: fx.Graph, before: fx.Node) -> OperatorCall:
    """Adds calls before a node, said to come from its place in the source."""

    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with graph.inserting_before(before):
            added = graph.call_function(target, args, kwargs)
        values = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
        added.meta = {**before.meta, "val": target(*values[0], **values[1])}
        return added

    return call
