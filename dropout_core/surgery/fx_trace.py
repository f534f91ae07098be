"""The flow of a network by torch.fx: without an input, but not inside torch's own modules."""

import inspect
from typing import Any

from torch import fx, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.selection import is_ours
from dropout_core.surgery.flow import Flow, ModuleCall, Sources, callers_line, in_mode, merge_sources
from dropout_core.surgery.roles import RESHAPING, has_weights, role_of, role_of_function

_SHAPE_READS = {"size", "dim", "numel"}
_SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device"}
_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def trace_by_fx(model: nn.Module) -> Flow:
    """The flow of a network in eval mode. Raises InvalidInput when it cannot be traced."""
    graph, flow = trace(model, training=False), Flow()
    modules = dict(model.named_modules(remove_duplicate=False))
    known: dict[fx.Node, Sources] = {}
    constants: set[fx.Node] = set()
    for node in graph.nodes:
        sources: Sources = {}
        for each in node.all_input_nodes:
            merge_sources(sources, known[each])
        if node.op == "get_attr" or (node.all_input_nodes and constants.issuperset(node.all_input_nodes)):
            constants.add(node)
        call = _call(node, sources, modules, constants)
        known[node] = _passed(node, sources, modules) if call is None else {len(flow.calls): True}
        if call is not None:
            flow.calls.append(call)
        if node.op == "output":
            flow.output = sources
    return flow


def trace(model: nn.Module, training: bool) -> fx.Graph:
    """The graph of a network down to torch's modules and ours. Raises InvalidInput when it cannot be traced."""
    parameters = inspect.signature(model.forward).parameters.values()
    # Arguments that may be left out are left out; a trace would pass something for each.
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    try:
        with in_mode(model, training):
            return _Tracer().trace(model, defaults)
    except _ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"torch.fx cannot trace the network: {reason}") from error


def is_leaf(module: nn.Module) -> bool:
    """Whether a trace does not look into a module, torch's or ours: no code of the caller's own is in there."""
    return _Tracer().is_leaf_module(module, "")


def function_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without underscores; an empty string for other nodes."""
    if node.op not in ("call_function", "call_method"):
        return ""
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def line_of(node: fx.Node) -> str:
    """The caller's line that made a node."""
    return str(node.meta["line"])


class _Tracer(fx.Tracer):
    """Traces down to torch's modules and ours, and notes the caller's lines."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_ours(m) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = callers_line()
        return node


def _call(node: fx.Node, sources: Sources, modules: dict[str, nn.Module], constants: set[fx.Node]) -> ModuleCall | None:
    """What a node runs, where that has a role."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        role = role_of(module)
        return None if role is None else ModuleCall(str(node.target), module, role, sources)
    name = function_of(node)
    role = "weights" if has_weights(name, not constants.isdisjoint(node.all_input_nodes)) else role_of_function(name)
    return None if role is None else ModuleCall(line_of(node), name, role, sources)


def _passed(node: fx.Node, sources: Sources, modules: dict[str, nn.Module]) -> Sources:
    """The sources of what a node without a role returns."""
    name = function_of(node)
    if name in _SHAPE_READS or (name == "getattr" and node.args[1] in _SHAPE_ATTRIBUTES):
        return {}
    reshaped = isinstance(modules.get(str(node.target)), nn.Flatten | nn.Unflatten) or name in RESHAPING
    return {number: same_axes and not reshaped for number, same_axes in sources.items()}
