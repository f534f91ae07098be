"""An ONNX graph whose noise has been found: its nodes in order, some of which are sites; and models made of such."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto
from onnx import helper as make

from dropout_core.graph.program import Site
from mcdrop_models.onnx.graph.halves import IR_VERSION

Node = NodeProto | Site
Some = TypeVar("Some", bound=Node)
# What most runtimes read.


@dataclass(frozen=True)
class Source:
    """A network as nodes and sites, in the order they run; its one result has the name `output`."""

    inputs: tuple[ValueInfoProto, ...]
    weights: Mapping[str, TensorProto]
    nodes: tuple[Node, ...]
    opsets: tuple[OperatorSetIdProto, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where noise enters."""
        return tuple(node for node in self.nodes if isinstance(node, Site))

    def model(
        self,
        nodes: Sequence[NodeProto],
        inputs: Iterable[ValueInfoProto],
        outputs: Iterable[ValueInfoProto],
        constants: Iterable[TensorProto] = (),
    ) -> ModelProto:
        """Some nodes as a model, with the weights they read, and other constants. Nothing is checked."""
        outputs = list(outputs)
        read = {name for node in nodes for name in reads(node)} | {output.name for output in outputs}
        weights = [weight for name, weight in self.weights.items() if name in read]
        graph = make.make_graph(nodes, "mcdrop", list(inputs), outputs, [*weights, *constants])
        version = max(IR_VERSION, make.find_min_ir_version_for(list(self.opsets), ignore_unknown=True))
        return make.make_model(graph, opset_imports=list(self.opsets), ir_version=version, producer_name="mcdrop")


def reads(node: Node) -> list[str]:
    """The values a node reads, and those that the graphs inside of it take from outside."""
    if isinstance(node, Site):
        return [node.input.name]
    return [name for name in node.input if name] + [name for graph in graphs_in(node) for name in _outer(graph)]


def writes(node: Node) -> list[str]:
    """The values a node makes."""
    return [node.name] if isinstance(node, Site) else [name for name in node.output if name]


def graphs_in(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes: branches, bodies of loops."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside of it."""
    for node in graph.node:
        yield node
        for inner in graphs_in(node):
            yield from all_nodes(inner)


def needed(nodes: Iterable[Some], wanted: Iterable[str]) -> tuple[Some, ...]:
    """The nodes that the wanted values depend on, in order."""
    wanted, kept = set(wanted), []
    for node in reversed(list(nodes)):
        if wanted.intersection(writes(node)):
            kept.append(node)
            wanted.update(reads(node))
    return tuple(reversed(kept))


def rename(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Change the names of values wherever nodes, and the graphs inside of them, say them. Changes the nodes."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for graph in graphs_in(node):
            rename(graph.node, names)
            for value in (*graph.input, *graph.output, *graph.initializer):
                value.name = names.get(value.name, value.name)


def label(node: NodeProto) -> str:
    """How a node is called in a message: by its name, or else by its first result."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"


def _outer(graph: GraphProto) -> list[str]:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    read = [name for node in graph.node for name in reads(node)] + [output.name for output in graph.output]
    return [name for name in read if name not in own]
