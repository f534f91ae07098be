"""Rows in blocks, and where they are too much at once, passes in blocks: two loops around a network's halves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from mcdrop_models.onnx.ensemble.masks import Stored, restored
from mcdrop_models.onnx.ensemble.measures import Answer, Arithmetic, Moment, moments_of, pooled, values_of
from mcdrop_models.onnx.graph.builder import Nodes, Weights, trip
from mcdrop_models.onnx.graph.halves import OUTPUT, Halves, size_name


@dataclass(frozen=True)
class Blocks:
    """How many rows and passes go at once. passes divides T."""

    rows: int
    passes: int


class Blocked:
    """The graph while it is written: `main`, and `rows`, what is done to each block of rows.

    noise: that of all passes, by the input of the suffix that takes it.
    """

    def __init__(self, inputs: Sequence[ValueInfoProto], noise: Mapping[str, Stored], blocks: Blocks) -> None:
        self.main, self.rows = Nodes("mcdrop"), Nodes("mcdrop/rows")
        self._inputs, self._noise, self._blocks = inputs, noise, blocks
        self._passes = len(next(iter(noise.values())).array)
        self._weights = Weights()
        self._count_rows()

    @property
    def constants(self) -> list[TensorProto]:
        """What `main` and all inside of it reads."""
        return [*self._weights.initializers, *self.main.initializers]

    def moments(
        self, halves: Halves, sizes: Mapping[str, int], answer: Answer, once: GraphProto | None = None
    ) -> dict[str, Moment]:
        """Nodes for the moments over all passes of one block of rows.

        sizes: of the free dimensions. once: makes what the suffix reads in place of noise of the noise of all passes;
        it runs before any rows come.
        """
        given = self._crossing(halves, sizes)
        made = {} if once is None else self.main.take_over(once, "suffix/", self._draws(once), self._weights)
        if self._blocks.passes == self._passes:
            draws = self._draws(halves.suffix.graph) | made
            return self._moments(self.rows, halves, given, draws, answer)
        inner = Nodes("mcdrop/passes")
        draws = {name: restored(one, self._some(self.main.constant(one.array), inner), inner)
                 for name, one in self._read(halves.suffix.graph).items()}  # fmt: skip
        draws |= {name: self._some(one, inner) for name, one in made.items()}
        each = self._moments(inner, halves, given, draws, answer)
        return pooled(self._looped(inner, each, answer), Arithmetic(self.rows, answer.dtype))

    def finish(self, found: Mapping[str, str], answer: Answer) -> list[str]:
        """Run the blocks, put the rows of each measure together, and return the measures' names."""
        results = self.main.loop(self.rows, self._trips, [(name, answer.element) for name in found.values()])
        for name, stacked in zip(found, results, strict=True):
            flat = self.main("Reshape", stacked, self.main.integers(-1, *answer.shape(name)))
            there = self.main("Slice", flat, self.main.integers(0), self._num_rows, self.main.integers(0))
            self.main.nodes.append(helper.make_node("Identity", [there], [name]))
        return list(found)

    def _count_rows(self) -> None:
        """Blocks of as equal a size as can be. Where no row comes, one of zeros is computed and left out again."""
        main, one = self.main, self.main.integers(1)
        self._num_rows = main("Shape", self._inputs[0].name, end=1)
        filled = main("Max", self._num_rows, one)
        self._lacking = main("Sub", filled, self._num_rows)
        most = main.integers(self._blocks.rows)
        trips = main("Div", main("Add", filled, main.integers(self._blocks.rows - 1)), most)
        self._at_once = main("Div", main("Sub", main("Add", filled, trips), one), trips)
        self._last = main("Sub", filled, one)
        self._trips = main("Squeeze", trips, main.integers(0))

    def _block(self) -> dict[str, str]:
        """The rows of a block, by input. The last block repeats the last row until it is as long as the others."""
        rows, zero, one = self.rows, self.rows.integer(0), self.rows.integer(1)
        at_once = rows("Squeeze", self._at_once, rows.integers(0))
        first = rows("Mul", trip(rows), at_once)
        places = rows("Min", rows("Add", rows("Range", zero, at_once, one), first), self._last)
        return {value.name: rows("Gather", self._never_empty(value), places, axis=0) for value in self._inputs}

    def _never_empty(self, value: ValueInfoProto) -> str:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim][1:]
        missing = self.main("Concat", self._lacking, self.main.integers(*shape), axis=0)
        zero = helper.make_tensor("zero", kind.elem_type, [1], [0])
        return self.main("Concat", value.name, self.main("ConstantOfShape", missing, value=zero), axis=0)

    def _crossing(self, halves: Halves, sizes: Mapping[str, int]) -> dict[str, str]:
        """What the suffix reads of a block, beside its noise, by the names that it has for it."""
        given = self._block()
        given |= {size_name(name): self.main.constant(np.zeros(size, np.uint8)) for name, size in sizes.items()}
        if halves.prefix is not None:
            given |= self.rows.take_over(halves.prefix.graph, "prefix/", given, self._weights)
        return given

    def _moments(
        self, nodes: Nodes, halves: Halves, given: Mapping[str, str], draws: Mapping[str, str], answer: Answer
    ) -> dict[str, Moment]:
        """The moments over the passes of some draws."""
        found = nodes.take_over(halves.suffix.graph, "suffix/", {**given, **draws}, self._weights)[OUTPUT]
        numbers = nodes("Cast", found, to=answer.element)
        shape = nodes("Concat", nodes.integers(-1), self._at_once, nodes("Shape", numbers, start=1), axis=0)
        on = Arithmetic(nodes, answer.dtype)
        return moments_of(values_of(answer, nodes("Reshape", numbers, shape), on), on)

    def _read(self, graph: GraphProto) -> dict[str, Stored]:
        """The noise that a graph takes."""
        return {value.name: self._noise[value.name] for value in graph.input if value.name in self._noise}

    def _draws(self, graph: GraphProto) -> dict[str, str]:
        """The draws of all passes that a graph takes."""
        noise = self._read(graph)
        return {name: restored(one, self.main.constant(one.array), self.main) for name, one in noise.items()}

    def _some(self, array: str, nodes: Nodes) -> str:
        """What there is of the present block of passes."""
        length, zero = nodes.integers(self._blocks.passes), nodes.integers(0)
        first = nodes("Mul", nodes("Unsqueeze", trip(nodes), zero), length)
        return nodes("Slice", array, first, nodes("Add", first, length), zero)

    def _looped(self, inner: Nodes, each: Mapping[str, Moment], answer: Answer) -> dict[str, Moment]:
        """The moments of every block of passes, along a new first axis."""
        wanted = [(name, one) for name, moment in each.items() for one in (moment.mean, moment.variance) if one]
        trips = self._passes // self._blocks.passes
        results = self.rows.loop(inner, self.rows.integer(trips), [(one, answer.element) for _, one in wanted])
        # onnx.reference puts them one after the other, where others stack them
        shapes = [self.rows.integers(trips, -1, *answer.shape(name)) for name, _ in wanted]
        stacked = [self.rows("Reshape", *pair) for pair in zip(results, shapes, strict=True)]
        found = dict(zip((one for _, one in wanted), stacked, strict=True))
        return {name: Moment(found[one.mean], found.get(one.variance or "")) for name, one in each.items()}
