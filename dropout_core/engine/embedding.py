"""Embeddings: the input of a network's last linear layer, with the noise off."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dropout_core.engine.chunks import Footprint
from dropout_core.engine.masks import quiet
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors, num_rows, select_rows, sizes_of, split_rows
from dropout_core.graph.program import ROWS, Graph, Node, Operation, Site, references
from dropout_core.graph.split import needed, reachable_nodes
from dropout_core.graph.stage import NodeObserver, Stage

_aten = torch.ops.aten
# which argument is the layer's input, and which the weight
_LINEAR = {
    _aten.linear.default: (0, 1),
    _aten.matmul.default: (0, 1),
    _aten.mm.default: (0, 1),
    _aten.addmm.default: (1, 2),
}
# sites whose value, with the noise off, is their input
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
# of the largest value of a chunk: enough rows for a matrix product, and no more than a cache or two
_CHUNK_BYTES = 2**24
_MIN_CHUNK_ROWS = 8


def last_hidden(graph: Graph) -> str:
    """Return the name of the value that the last linear layers read.

    Everything that the output knows of a row passes through it.

    Args:
        graph: The graph.

    Returns:
        The name.

    Raises:
        InvalidInput: There is no such layer, or a path around it.
    """
    if graph.is_outline:
        raise InvalidInput(
            "the network came as an ONNX file, whose last linear layer is not known; k_centre and badge need its "
            "input. Choose by a score."
        )
    nodes, data = reachable_nodes(graph.nodes, graph.output), {spec.name for spec in graph.inputs}
    depends = _reached(nodes, data)
    taken: set[str] = set()  # by linear layers that no other one follows
    before: set[str] = set()  # values that reach a linear layer
    for node in reversed(nodes):
        hidden = _taken(node, depends)
        if hidden is not None and node.name not in before:
            taken.add(_without_noise(nodes, hidden))
        if hidden is not None or node.name in before:
            before.update(references(node))
    if not taken:
        raise InvalidInput(
            "the network has no linear layer whose input could say where a row lies; k_centre and badge need one. "
            "Choose by a score, or end the network with a linear layer."
        )
    name = min(taken)
    around = tuple(node for node in nodes if node.name != name)
    if len(taken) > 1 or graph.output in _reached(around, data - {name}):
        raise InvalidInput(
            f"the output also depends on the row by a way around {name}, which a last linear layer takes; k_centre and "
            "badge need one vector that says all. Choose by a score."
        )
    return name


def embeddings(graph: Graph, weights: Mapping[str, Tensor], inputs: NamedTensors) -> Tensor:
    """Return the input of the last linear layer for each row, with every draw left out.

    Besides the answer, memory is that of a chunk of rows.

    Args:
        graph: The graph.
        weights: Weights by name.
        inputs: Tensors [B, *F] by name.

    Returns:
        float32 [B, D].

    Raises:
        InvalidInput: There is no such layer (see `last_hidden`), or it does not read one vector per row.
    """
    name, sizes = last_hidden(graph), sizes_of(graph, inputs)
    stage = Stage(needed(graph.nodes, {name}, {node.name for node in graph.nodes}), keep=[name])

    def run(rows: NamedTensors, observe: NodeObserver | None = None) -> Tensor:
        count = num_rows(rows)
        device = next(iter(rows.values())).device
        found = stage.run({**weights, **rows}, {**sizes, ROWS: count}, device, quiet, observe)[name]
        if found.dim() != 2 or len(found) != count:
            raise InvalidInput(
                f"the last linear layer takes {list(found.shape)} for {count} rows; k_centre and badge need one vector "
                "for each row. Choose by a score with a reduction."
            )
        vectors: Tensor = found.to(torch.float32, copy=True)
        return vectors

    with torch.no_grad():
        if not sizes[ROWS]:
            return run({key: value.new_zeros((2, *value.shape[1:])) for key, value in inputs.items()})[:0]
        observed = Footprint()
        for count in (2, 1):
            run({key: torch.cat([value] * count) for key, value in select_rows(inputs, slice(1)).items()}, observed)
        at_once = max(_MIN_CHUNK_ROWS, _CHUNK_BYTES // observed.row_bytes())
        return torch.cat([run(part) for part in split_rows(inputs, at_once)])


def _taken(node: Node, depends: set[str]) -> str | None:
    """Return what a linear layer reads of the row; None for any other node."""
    if not isinstance(node, Operation) or node.target not in _LINEAR:
        return None
    value, weight = (node.args[place] for place in _LINEAR[node.target])
    return value.name if value.name in depends and weight.name not in depends else None


def _without_noise(nodes: tuple[Node, ...], name: str) -> str:
    """Return the name of a value with the noise off: a dropout's is its input, which two dropouts may share."""
    sites = {node.name: node.input.name for node in nodes if isinstance(node, Site) and node.kind in _DROPOUTS}
    while name in sites:
        name = sites[name]
    return name


def _reached(nodes: tuple[Node, ...], sources: set[str]) -> set[str]:
    """Return the sources and the nodes that depend on them."""
    reached = set(sources)
    for node in nodes:
        if reached.intersection(references(node)):
            reached.add(node.name)
    return reached
