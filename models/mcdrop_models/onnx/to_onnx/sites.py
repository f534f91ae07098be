"""The noise of a suffix that was traced over rows alone: its sites, and what stands there once for each pass.

Over passes times rows torch reasons for minutes about shapes. What it traces has rows only, n = t·b of them, and each
site is one operator of ours, `mcdrop::Site`; the nodes that tell passes from rows are written here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import Tensor

from dropout_core.graph.noise_kinds import NOISE_KINDS, SELU_FLOOR, alpha_affine
from dropout_core.graph.program import RowAxis, Site
from dropout_core.graph.sizes import Size
from mcdrop_models.onnx.graph.builder import Nodes
from mcdrop_models.onnx.graph.halves import MASKS, PASSES, noise_name
from mcdrop_models.onnx.graph.source import reads
from mcdrop_models.onnx.to_onnx.shapes import Shape

_DOMAIN, _OPERATOR = "mcdrop", "Site"
_DOUBLE = onnx.TensorProto.DOUBLE


@dataclass(frozen=True)
class NoisePosition:
    """A site in its suffix.

    value, dtype: shape and type of its input, for b rows; no shape is needed of one without rows. mask: the shape of
    one pass of its draws.
    """

    site: Site
    value: Shape
    mask: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Folded:
    """A value of the rows: its name, where its rows lie, and its shape for b of them."""

    name: str
    rows: RowAxis
    shape: Shape


def placed(site: Site, value: Tensor) -> Tensor:
    """What stands for a site while torch traces: a value like its input."""
    found: Tensor = torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{_OPERATOR}", [value], {"index": site.index}, dtype=value.dtype, shape=value.shape, version=1
    )
    return found


def batched(sites: Iterable[Site]) -> bool:
    """Whether all passes run at once: noise on weights has no axis for them."""
    return all(site.rows is not None for site in sites)


def of_all_passes(name: str) -> str:
    """The name that a crossing value of b rows has where it stands once for each pass."""
    return f"{name}/{PASSES}"


def with_passes(
    model: onnx.ModelProto, places: Sequence[NoisePosition], counted: Folded, repeated: Sequence[Folded]
) -> onnx.ModelProto:
    """The suffix on t passes of b rows, from one on n rows; draws become its inputs.

    counted: a value that tells b. repeated: the crossing values whose inputs bear the names `of_all_passes`.
    """
    writer = _Writer(places, counted, repeated)
    for node in model.graph.node:
        writer.take_over(node)
    for value in model.graph.input:
        value.name = writer.original(value.name)
    model.graph.input.extend(_noise(place, batched(place.site for place in places)) for place in places)
    model.graph.initializer.extend(writer.nodes.initializers)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes.nodes)
    return model


class _Writer:
    """Takes nodes over, and writes those that tell passes from rows."""

    def __init__(self, places: Sequence[NoisePosition], counted: Folded, repeated: Sequence[Folded]) -> None:
        self.nodes = Nodes("noise")
        self._places = {place.site.index: place for place in places}
        self._counted = counted
        self._folded = {of_all_passes(folded.name): folded for folded in repeated}
        self._repeated: set[str] = set()

    def original(self, name: str) -> str:
        """The crossing value that a name stands for, if it stands for one of all passes."""
        return self._folded[name].name if name in self._folded else name

    def take_over(self, node: NodeProto) -> None:
        """A node, and before it what it reads for all passes; a site repeats its input itself, by broadcasting."""
        if (node.domain, node.op_type) == (_DOMAIN, _OPERATOR):
            self._site(helper.get_node_attr_value(node, "index"), self.original(node.input[0]), node.output[0])
        elif node.op_type == "Shape" and node.input[0] in self._folded:
            self._shape(node, self._folded[node.input[0]])
        else:
            for name in sorted(self._folded.keys() & set(reads(node)) - self._repeated):
                self._repeat(self._folded[name])
                self._repeated.add(name)
            self.nodes.nodes.append(node)

    def _repeat(self, folded: Folded) -> None:
        """A value with its rows once for each pass, passes outermost."""
        ahead, behind = self._around(folded)
        apart = self._reshaped(folded.name, [*ahead, folded.rows.before, 1, -1, *behind])
        ones = [1] * (len(folded.shape) - folded.rows.axis)
        spread = self.nodes("Expand", apart, self._vector([self._passes, *ones]))
        self._reshaped(spread, [*ahead, -1, *behind], of_all_passes(folded.name))

    def _shape(self, node: NodeProto, folded: Folded) -> None:
        """A Shape of a value of all passes, which need not stand there for it."""
        axis, (ahead, behind) = folded.rows.axis, self._around(folded)
        rows = self.nodes("Shape", folded.name, start=axis, end=axis + 1)
        sizes = [*ahead, self.nodes("Mul", self._passes, rows), *behind]
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        made = self._vector(sizes[bounds.get("start") : bounds.get("end")])
        self.nodes.nodes.append(helper.make_node("Identity", [made], list(node.output)))

    def _site(self, index: int, value: str, result: str) -> None:
        """A site's value under the name `result`."""
        place = self._places[index]
        if place.site.rows is None:
            self._applied(place, value)
            self._named(result)
            return
        folded = Folded(value, place.site.rows, place.value)
        ahead, behind = self._around(folded)
        apart = self._reshaped(value, [*ahead, folded.rows.before, -1, self._rows, folded.rows.after, *behind])
        self._reshaped(self._applied(place, apart), [*ahead, -1, *behind], result)

    def _applied(self, place: NoisePosition, value: str) -> str:
        """What a site makes of its draws, which broadcast with its input."""
        return _APPLIED[place.site.kind](self.nodes, value, place)

    @cached_property
    def _rows(self) -> str:
        """b, as a vector of one."""
        name, rows = self._counted.name, self._counted.rows
        size, times = self.nodes("Shape", name, start=rows.axis, end=rows.axis + 1), rows.before * rows.after
        return size if times == 1 else self.nodes("Div", size, self.nodes.integers(times))

    @cached_property
    def _passes(self) -> str:
        """t, as a vector of one."""
        sites = (place.site for place in self._places.values())
        name, axis = next((noise_name(site), site.rows.axis + 1) for site in sites if site.rows is not None)
        return self.nodes("Shape", name, start=axis, end=axis + 1)

    def _around(self, folded: Folded) -> tuple[list[int | str], list[int | str]]:
        """The sizes before and after the axis of a value's rows: numbers, and vectors of one."""
        axis = folded.rows.axis
        sizes = [self._size(folded.name, place, size) for place, size in enumerate(folded.shape) if place != axis]
        return sizes[:axis], sizes[axis:]

    def _size(self, name: str, axis: int, size: int | Size) -> int | str:
        return size if isinstance(size, int) else self.nodes("Shape", name, start=axis, end=axis + 1)

    def _reshaped(self, value: str, sizes: list[int | str], result: str | None = None) -> str:
        reshaped = self.nodes("Reshape", value, self._vector(sizes))
        return reshaped if result is None else self._named(result)

    def _named(self, result: str) -> str:
        """Give the last node's result another name."""
        self.nodes.nodes[-1].output[0] = result
        return result

    def _vector(self, sizes: list[int | str]) -> str:
        if all(isinstance(size, int) for size in sizes):
            return self.nodes.integers(*(size for size in sizes if isinstance(size, int)))
        parts = [self.nodes.integers(size) if isinstance(size, int) else size for size in sizes]
        return self.nodes("Concat", *parts, axis=0)


def _multiply(nodes: Nodes, value: str, place: NoisePosition) -> str:
    fine = _drawn(place)
    if fine == place.dtype:
        return nodes("Mul", value, noise_name(place.site))
    product = nodes("Mul", nodes("Cast", value, to=_element(fine)), noise_name(place.site))
    return nodes("Cast", product, to=_element(place.dtype))


def _alpha(nodes: Nodes, value: str, place: NoisePosition) -> str:
    def number(value: float) -> str:
        return nodes.constant(np.array(value, helper.tensor_dtype_to_np_dtype(_element(place.dtype))))

    scale, shift = alpha_affine(place.site.rate)
    kept = nodes("Add", nodes("Mul", value, number(scale)), number(shift))
    return nodes("Where", noise_name(place.site), kept, number(scale * SELU_FLOOR + shift))


def _below(nodes: Nodes, value: str, place: NoisePosition) -> str:
    missing = nodes("Sub", nodes.constant(np.array(1.0)), nodes("Cast", value, to=_DOUBLE))
    least = nodes("Mul", missing, nodes.constant(np.array(2.0**32)))
    taken = nodes("GreaterOrEqual", nodes("Cast", noise_name(place.site), to=_DOUBLE), least)
    return nodes("Cast", taken, to=_element(place.dtype))


def _spread(nodes: Nodes, template: str, place: NoisePosition) -> str:
    draws = noise_name(place.site)
    if _drawn(place) != place.dtype:
        draws = nodes("Cast", draws, to=_element(place.dtype))
    return nodes("Expand", draws, nodes("Shape", template))


# What `Kind.apply` is.
_APPLIED: dict[str, Callable[[Nodes, str, NoisePosition], str]] = {
    "dropout": _multiply,
    "feature_dropout": _multiply,
    "alpha_dropout": _alpha,
    "feature_alpha_dropout": _alpha,
    "unscaled": _spread,
    "bernoulli": _below,
    "uniform": _spread,
    "exponential": _spread,
    "normal": _spread,
}


def _drawn(place: NoisePosition) -> torch.dtype:
    """The type of a site's draws."""
    word = torch.zeros((), dtype=torch.int64)
    return NOISE_KINDS[place.site.kind].draw(word, place.site.rate, place.dtype).dtype


def _noise(place: NoisePosition, at_once: bool) -> onnx.ValueInfoProto:
    """The input that takes a site's draws."""
    shape = [str(size) if isinstance(size, Size) else size for size in place.mask]
    if place.site.rows is not None:
        at = place.site.rows.axis + 1
        shape[at:at] = [PASSES if at_once else 1, MASKS]
    return helper.make_tensor_value_info(noise_name(place.site), _element(_drawn(place)), shape)


def _element(dtype: torch.dtype) -> int:
    return int(from_torch_dtype(dtype))
