"""An exported program, node by node, into a Graph: references, sizes, devices and sites of our own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from dropout_core.capture.dynamic import Axes, all_free
from dropout_core.capture.outputs import Result, class_axis_of, pick
from dropout_core.capture.sites import find_sites, module_path, where
from dropout_core.errors import CaptureError, DataDependent
from dropout_core.graph.program import (
    GETITEM,
    ROWS,
    Device,
    FreeDimension,
    Graph,
    Input,
    Node,
    Operation,
    Ref,
    Site,
    references,
)
from dropout_core.graph.sizes import Expression, Size
from dropout_core.graph.split import reachable_nodes

Shape = tuple[int | Size, ...]
_OPERATORS = {"Add": "add", "Mul": "mul", "FloorDiv": "floordiv", "Mod": "mod", "PythonMod": "mod"}
_STORED = {InputKind.PARAMETER, InputKind.BUFFER}


@dataclass(frozen=True)
class Translation:
    """A Graph whose rows are not yet assigned, its constants, and the shape of every tensor value."""

    graph: Graph
    constants: dict[str, Tensor]
    shapes: dict[str, Shape]

    def first_difference(self, other: "Translation") -> str | None:
        """The line of the first node or constant in which two captures differ, or None."""
        for mine, theirs in zip(self.graph.nodes, other.graph.nodes, strict=False):
            changed = {name for name in references(mine) if not self._same_constant(other, name)}
            if mine != theirs or changed:
                return mine.where or mine.name
        return None if len(self.graph.nodes) == len(other.graph.nodes) else "an unknown line"

    def _same_constant(self, other: "Translation", name: str) -> bool:
        if name not in self.constants:
            return True
        theirs = other.constants.get(name)
        return theirs is not None and torch.equal(self.constants[name], theirs)


def translate(
    exported: ExportedProgram, names: Sequence[str], axes: Axes, result: Result, class_axis: int | None
) -> Translation:
    """Translate an exported and functionalised program. Raises CaptureError for what a Graph cannot say.

    names: of the inputs, in order. axes: the free ones of each. result, class_axis: the output that matters, and where
    its classes are.
    """
    translator = _Translator(exported, names, axes, result)
    found = translator.nodes()
    output, moved = _classes_last(translator, class_axis)
    nodes = reachable_nodes((*found, *moved), output)
    used = {name for node in nodes for name in references(node)} | {output}
    numbered, index = [], 0
    for node in nodes:
        numbered.append(replace(node, index=index) if isinstance(node, Site) else node)
        index += isinstance(node, Site)
    weights = tuple(name for name in translator.weights if name in used)
    constants = {name: value for name, value in translator.constants.items() if name in used}
    free, positions = tuple(all_free(axes)), translator.shapes[output][1:-1]
    graph = Graph(translator.inputs, weights, tuple(numbered), output, free=free, positions=positions)
    return Translation(graph, constants, translator.shapes)


class _Translator:
    def __init__(self, exported: ExportedProgram, names: Sequence[str], axes: Axes, result: Result) -> None:
        self._graph = exported.graph
        self._sites, self._identities = find_sites(exported.graph)
        self._names: dict[fx.Node, str] = {}
        self._symbols: dict[Any, str] = {}
        self.weights: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.shapes: dict[str, Shape] = {}
        self.inputs = tuple(self._placeholders(exported, names, axes))
        self.output = self._output(exported, result)

    def nodes(self) -> list[Node]:
        """The operations and sites, in order. Sizes are folded into their users."""
        return [self._node(node) for node in self._graph.nodes if node.op == "call_function" and self._is_kept(node)]

    def _placeholders(self, exported: ExportedProgram, names: Sequence[str], axes: Axes) -> list[Input]:
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        inputs: list[Input] = []
        for node in self._graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                inputs.append(self._input(node, names[len(inputs)], axes))
                continue
            if spec.kind in _STORED and spec.target in exported.state_dict:
                name = f"weights/{spec.target}"
            elif isinstance(constant := exported.constants.get(str(spec.target)), Tensor):
                stored = spec.kind in _STORED  # a buffer that is not persistent still follows the model
                name = f"weights/{spec.target}" if stored else f"constants/{spec.target}"
                if not stored:
                    self.constants[name] = constant
            else:
                raise CaptureError(
                    f"the forward uses {spec.target}, a {spec.kind.name}; only tensors can be published."
                )
            self.weights.append(name)
            self._record(node, name)
        return inputs

    def _input(self, node: fx.Node, name: str, axes: Axes) -> Input:
        value, free = node.meta["val"], {0: FreeDimension(ROWS, 1), **axes.get(name, {})}
        for axis, one in free.items():
            self._symbols[value.shape[axis].node.expr] = one.name
        self._record(node, name)
        shape = tuple(free[axis].name if axis in free else int(size) for axis, size in enumerate(value.shape))
        return Input(name, shape[1:], value.dtype)

    def _output(self, exported: ExportedProgram, result: Result) -> str:
        outputs = exported.graph_signature.output_specs
        if any(spec.kind == OutputKind.USER_INPUT_MUTATION for spec in outputs):
            raise CaptureError("the forward changes its input in place; let it work on a copy.")
        results = [
            arg for arg, spec in zip(self._results(), outputs, strict=True) if spec.kind == OutputKind.USER_OUTPUT
        ]
        picked = pick(pytree.tree_unflatten(results, exported.call_spec.out_spec), result, _is_tensor)
        followed = self._follow(picked)
        return self._names.get(followed, followed.name)

    def _results(self) -> tuple[Any, ...]:
        return tuple(cast("tuple[Any, ...]", self._graph.output_node().args[0]))

    def _is_kept(self, node: fx.Node) -> bool:
        """Sizes are folded into their users, identities into their inputs."""
        return (
            not isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)
            and node not in self._identities
        )

    def _node(self, node: fx.Node) -> Node:
        self._record(node, node.name)
        if (draft := self._sites.get(node)) is not None:
            return Site(
                node.name, 0, draft.kind, self._argument(draft.input), draft.rate, None, module_path(node), where(node)
            )
        if getattr(node.target, "__name__", "") == "getitem":
            return Operation(node.name, GETITEM, self._argument(node.args), {}, where(node))
        if not isinstance(node.target, torch._ops.OpOverload):
            raise CaptureError(
                f"the forward uses {node.target}{_at(node)}, an operator over whole subgraphs; write it with tensor "
                "operations such as torch.where."
            )
        if node.target._schema.is_mutable:
            raise CaptureError(f"{node.target}{_at(node)} changes a tensor in place and could not be functionalised.")
        kwargs = {key: self._argument(value) for key, value in node.kwargs.items()}
        return Operation(node.name, node.target, self._argument(node.args), kwargs, where(node))

    def _record(self, node: fx.Node, name: str) -> None:
        self._names[node] = name
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            _refuse_value_dependent(value, node)
            self.shapes[name] = tuple(self._size(size) for size in value.shape)

    def _follow(self, node: fx.Node) -> fx.Node:
        while node in self._identities:
            node = self._identities[node]
        return node

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            value = arg.meta.get("val")
            if isinstance(value, torch.SymInt):
                return self._size(value)
            if isinstance(value, torch.SymFloat | torch.SymBool):
                raise CaptureError(
                    f"{arg.name}{_at(arg)} computes a fraction or a condition of a size that is not fixed. No answer "
                    "may depend on the number of rows; on a length it may by +, *, // and %, or as a tensor."
                )
            followed = self._follow(arg)
            return Ref(self._names.get(followed, followed.name))
        if isinstance(arg, list | tuple):
            return tuple(self._argument(item) for item in arg)
        if isinstance(arg, torch.device):
            return Device()
        return self._size(arg) if isinstance(arg, torch.SymInt) else arg

    def _size(self, size: int | torch.SymInt) -> int | Size:
        if isinstance(size, int):
            return size
        expression = self._expression(size.node.expr)
        return expression if isinstance(expression, int) else Size(expression)

    def _expression(self, symbolic: Any) -> Expression:
        """A sympy expression of the number of rows and the free dimensions as a tree."""
        if symbolic.is_Integer:
            return int(symbolic)
        if symbolic.is_Symbol:
            return self._symbols[symbolic]
        operator = _OPERATORS.get(type(symbolic).__name__)
        if operator is None:
            raise CaptureError(
                f"the forward computes the size {symbolic} from the rows or a length; use +, *, // and % only."
            )
        terms = [self._expression(term) for term in symbolic.args]
        tree = terms[0]
        for term in terms[1:]:
            tree = (operator, tree, term)
        return tree


def _classes_last(translator: _Translator, class_axis: int | None) -> tuple[str, list[Operation]]:
    """The name of the output with its classes last, and what moves them there where they are not."""
    output = translator.output
    shape = translator.shapes[output]
    axis = class_axis_of(len(shape), class_axis)
    if axis >= len(shape) - 1:
        return output, []
    name = f"{output}.classes_last"  # no name of an exported node has a dot
    order = (*(other for other in range(len(shape)) if other != axis), axis)
    translator.shapes[name] = tuple(shape[place] for place in order)
    return name, [Operation(name, torch.ops.aten.permute.default, (Ref(output), order), {})]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def _refuse_value_dependent(value: Tensor, node: fx.Node) -> None:
    """Sizes may depend on the number of rows, not on values: torch names the symbols of those u0, u1 and so on."""
    sizes = [size for size in cast("tuple[int | torch.SymInt, ...]", value.shape) if isinstance(size, torch.SymInt)]
    symbols = [symbol for size in sizes for symbol in size.node.expr.free_symbols]
    if any(symbol.name.startswith("u") for symbol in symbols):
        raise DataDependent(
            f"{node.target}{_at(node)} makes a tensor whose size depends on values, which cannot be captured. Keep "
            "sizes fixed: torch.where(condition, a, b), or a mask. On a live model predict(..., method='loop') works."
        )


def _at(node: fx.Node) -> str:
    place = where(node)
    return f" at {place}" if place else ""
