"""A suffix whose dropped units are not computed: what each pass keeps of a layer's weight is made once, of its masks.

A chain (mcdrop_models.onnx.ensemble.chains) takes the units that a pass keeps, [t, k, b], and multiplies each pass by
its own part of
the weight, [t, m, k], padded with columns of zeros to the most units that any pass keeps. The parts are made of
constants, so that a runtime that folds constants makes them when it loads the file, and any other once a run: the file
is no larger, the memory is t·m·k numbers a layer. Exact but for rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.program import Graph, RowAxis
from mcdrop_models.onnx.ensemble.chains import Chain, Link, chains_in
from mcdrop_models.onnx.graph.builder import Nodes
from mcdrop_models.onnx.graph.halves import PASSES, noise_name
from mcdrop_models.onnx.graph.source import needed, reads

# Of the multiplications that a chain leaves of a dense one's. Measured with onnxruntime on a CPU, 512 · 512 units, 32
# passes, 32 and 256 rows: with 0.29 of them it is 2 times as fast, with 0.61 1.2 to 1.3 times, with 0.86 as fast.
_WORTHWHILE = 0.7
_SHARED = 5  # the axes of [1, passes, 1, 1, units]


@dataclass(frozen=True)
class Thin:
    """once: from the draws of all passes to what the chains read, passes outermost. suffix: takes that as inputs.

    nbytes: of what `once` makes, which a runtime that folds constants holds.
    """

    once: GraphProto
    suffix: ModelProto
    nbytes: int


def thinned(suffix: ModelProto, graph: Graph, noise: Mapping[int, Tensor]) -> Thin:
    """A suffix with its chains thinned. noise: see `noise_of`. Raises InvalidInput where no chain is worth it."""
    masks = {
        noise_name(site): (noise[site.index] != 0).flatten(0, -2)
        for site in graph.sites
        if site.kind == "dropout" and site.rows == RowAxis(0) and noise[site.index].dim() == _SHARED
    }
    most = {name: max(1, int(mask.sum(1).max())) for name, mask in masks.items()}
    chains = chains_in(suffix.graph, {name: mask.shape[1] for name, mask in masks.items()})
    chains = [chain for chain in chains if _left(chain, most) <= _WORTHWHILE]
    if not chains:
        raise InvalidInput(
            "nothing of this network can be thinned: that takes dropout of single units, read by a linear layer alone, "
            f"which leaves at most {_WORTHWHILE} of the multiplications. Export it without thinning."
        )
    return _Thinning(suffix.graph, most, len(masks[chains[0].links[0].noise])).applied(suffix, chains)


def _left(chain: Chain, most: Mapping[str, int]) -> float:
    """The part of a chain's multiplications that is left."""
    kept = [most[link.noise] for link in chain.links] + [chain.links[-1].linear.shape[1]]
    thin = sum(columns * rows for columns, rows in pairwise(kept))
    return thin / sum(link.linear.shape[0] * link.linear.shape[1] for link in chain.links)


class _Thinning:
    """Two graphs while they are written: `once` and the suffix's new nodes.

    most: how many units any pass keeps, by noise. passes: T.
    """

    def __init__(self, graph: GraphProto, most: Mapping[str, int], passes: int) -> None:
        self._graph, self._most, self._passes = graph, most, passes
        self._once, self._nodes = Nodes("mcdrop.once"), Nodes("mcdrop.thin")
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._declared = {value.name: value for value in graph.input}
        self._made: list[ValueInfoProto] = []
        self._places: dict[str, tuple[str, str]] = {}

    def applied(self, suffix: ModelProto, chains: list[Chain]) -> Thin:
        """The suffix with these chains thinned."""
        ends = {chain.result: chain for chain in chains}
        moved = {node.output[0] for chain in chains for link in chain.links for node in link.pointwise}
        for node in self._graph.node:
            if node.output[0] in ends:
                self._chain(ends[node.output[0]])
            elif node.output[0] not in moved:
                self._nodes.nodes.append(node)
        return Thin(self._made_once(), self._suffix(suffix), self._passes * sum(map(_nbytes, self._made)))

    def _chain(self, chain: Chain) -> None:
        nodes = self._nodes
        value = self._units(chain)
        for link, following in zip(chain.links, (*chain.links[1:], None), strict=True):
            noise = None if following is None else following.noise
            value = nodes("MatMul", self._weight(link, noise), value)
            if noise is not None:
                value = self._activated(link, noise, value)
        last = chain.links[-1].linear
        flat = nodes("Reshape", nodes("Transpose", value, perm=[0, 2, 1]), nodes.integers(-1, last.shape[1]))
        ending = ("Identity", [flat]) if last.bias is None else ("Add", [flat, last.bias])
        nodes.nodes.append(helper.make_node(*ending, [chain.result]))

    def _activated(self, link: Link, following: str, value: str) -> str:
        """What the next link takes, of a product."""
        linear = link.linear
        if linear.bias is not None:
            once = self._once
            bias = once("Unsqueeze", once("Gather", linear.bias, self._kept(following)[0]), once.integers(2))
            value = self._nodes("Add", value, self._out(bias, linear.weight, self._most[following], 1))
        self._nodes.nodes += [_reading(node, {linear.result: value}) for node in link.pointwise]
        return value if link.activated == linear.result else link.activated

    def _units(self, chain: Chain) -> str:
        """The units that each pass keeps of the source, [t, k, b]."""
        nodes, noise = self._nodes, chain.links[0].noise
        kept, units = self._kept(noise)[0], chain.links[0].linear.shape[0]
        self._made.append(helper.make_tensor_value_info(kept, TensorProto.INT64, [PASSES, self._most[noise]]))
        if chain.source in self._declared:  # of b rows
            rows = nodes("Reshape", chain.source, nodes.integers(-1, units))
            return nodes("Gather", nodes("Transpose", rows, perm=[1, 0]), kept, axis=0)
        shape = nodes("Concat", nodes("Shape", kept, end=1), nodes.integers(-1, units), axis=0)
        by_unit = nodes("Transpose", nodes("Reshape", chain.source, shape), perm=[0, 2, 1])
        return nodes("GatherND", by_unit, nodes("Unsqueeze", kept, nodes.integers(-1)), batch_dims=1)

    def _kept(self, noise: str) -> tuple[str, str]:
        """The units that each pass keeps, [t, k], padded with dropped ones; and their scales, 0 of the padding."""
        if noise not in self._places:
            once, most = self._once, self._most[noise]
            units = self._declared[noise].type.tensor_type.shape.dim[-1].dim_value
            flat = once("Reshape", noise, once.integers(-1, units))
            # of equal ones the first come first, so that the kept ones are in order
            scales, kept = once.several("TopK", [flat, once.integers(most)], 2, axis=1)
            self._places[noise] = kept, scales
        return self._places[noise]

    def _weight(self, link: Link, following: str | None) -> str:
        """The weights of a layer, [t, m, k]. following: the noise on what it makes; None for all of that."""
        once, linear, (kept, scales) = self._once, link.linear, self._kept(link.noise)
        height = linear.shape[1] if following is None else self._most[following]
        rows = once.constant(np.arange(height)[None]) if following is None else self._kept(following)[0]
        down, across = (linear.shape[0], 1) if linear.transposed else (1, linear.shape[1])
        places = once("Add", self._begins(rows, down, 2), self._begins(kept, across, 1))
        part = once("Gather", once("Reshape", linear.weight, once.integers(-1)), places)
        weight = once("Mul", part, once("Unsqueeze", scales, once.integers(1)))
        return self._out(weight, linear.weight, height, self._most[link.noise])

    def _out(self, name: str, like: str, *shape: int) -> str:
        """Hand to the suffix what is made once, of the type of a weight and this shape for each pass."""
        kind = self._weights[like].data_type
        self._made.append(helper.make_tensor_value_info(name, kind, [PASSES, *shape]))
        return name

    def _begins(self, places: str, stride: int, axis: int) -> str:
        """Where rows or columns begin in a flat weight, with an axis for the others; half the bytes of int64."""
        narrow = self._once("Cast", places, to=TensorProto.INT32)
        begun = self._once("Mul", narrow, self._once.constant(np.array(stride, np.int32)))
        return self._once("Unsqueeze", begun, self._once.integers(axis))

    def _made_once(self) -> GraphProto:
        once = self._once
        wanted = {name for node in once.nodes for name in reads(node)}
        weights = [weight for name, weight in self._weights.items() if name in wanted]
        inputs = [value for name, value in self._declared.items() if name in wanted]
        return helper.make_graph(once.nodes, once.name, inputs, self._made, [*weights, *once.initializers])

    def _suffix(self, suffix: ModelProto) -> ModelProto:
        """What is still needed, and reads weights that are made once."""
        nodes = needed(self._nodes.nodes, [output.name for output in self._graph.output])
        wanted = {name for node in nodes for name in reads(node)}
        inputs = [value for value in (*self._graph.input, *self._made) if value.name in wanted]
        weights = [weight for weight in (*self._weights.values(), *self._nodes.initializers) if weight.name in wanted]
        thin = helper.make_graph(nodes, suffix.graph.name, inputs, list(self._graph.output), weights)
        return helper.make_model(thin, opset_imports=list(suffix.opset_import), ir_version=suffix.ir_version)


def _reading(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A node that reads values under other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    return copy


def _nbytes(value: ValueInfoProto) -> int:
    """For one pass."""
    kind = value.type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim[1:]]
    return int(np.prod(sizes)) * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
