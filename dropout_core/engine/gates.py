"""Gates: residual branches that a pass drops as a whole, as stochastic depth does, so that they need not run.

A gate is shortcut + branch · mask with one draw of the mask per pass. Where the draw is 0, the sum is the shortcut, and
what only the branch needs is not computed. The answer is the same unless the branch is NaN or infinite: 0 times it is
NaN.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropout_core.engine.masks import Masks
from dropout_core.graph.program import Node, Operation, Ref, Site, references
from dropout_core.graph.split import needed

_aten = torch.ops.aten
_SCALED = {_aten.mul.Tensor, _aten.div.Tensor, _aten.mul.Scalar, _aten.div.Scalar}
_SHAPED = {_aten.reshape.default, _aten.view.default, _aten.expand.default, _aten.unsqueeze.default}


@dataclass(frozen=True)
class Gate:
    """A residual sum whose branch one mask scales.

    Attributes:
        site: The site of the mask.
        total: Name of the sum.
        shortcut: The other term of the sum.
    """

    site: Site
    total: str
    shortcut: Ref


def gates_of(
    nodes: tuple[Node, ...], keep: Collection[str], sizes: Mapping[str, int], single: Collection[str]
) -> tuple[Gate, ...]:
    """Return the gates among some nodes.

    Args:
        nodes: The nodes, in order.
        keep: Names of the values that are needed afterwards.
        sizes: Bytes of each value for two rows, which tell a value with rows from one without.
        single: Sites with one draw per pass.

    Returns:
        The gates.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in references(node):
            readers.setdefault(name, []).append(node)
    found = (_gate(node, readers, keep, sizes) for node in nodes if isinstance(node, Site) and node.name in single)
    return tuple(gate for gate in found if gate is not None)


def closed(gates: tuple[Gate, ...], masks: Masks, templates: Mapping[str, Tensor], count: int) -> list[frozenset[str]]:
    """Return the sums whose branch is dropped, for each pass of a run.

    Args:
        gates: The gates.
        masks: Noise of the run.
        templates: An input of each site, by name.
        count: Number of passes.

    Returns:
        Names of sums, for each pass.
    """
    shut = [~masks.kept(gate.site, templates[gate.site.name], 0, count).flatten() for gate in gates]
    by_pass = torch.stack(shut, dim=1).tolist()
    return [frozenset(gate.total for gate, is_shut in zip(gates, row, strict=True) if is_shut) for row in by_pass]


def without(
    nodes: tuple[Any, ...], keep: Collection[str], gates: tuple[Gate, ...], shut: frozenset[str]
) -> tuple[Any, ...]:
    """Return the nodes that are needed when some sums equal their shortcuts.

    Args:
        nodes: The nodes, in order.
        keep: Names of the values that are needed afterwards.
        gates: The gates.
        shut: Names of the sums whose branch is dropped.

    Returns:
        The remaining nodes.
    """
    shortcuts = {gate.total: gate.shortcut for gate in gates if gate.total in shut}
    replaced = tuple(
        Operation(node.name, _aten.alias.default, (shortcuts[node.name],), {}) if node.name in shortcuts else node
        for node in nodes
    )
    return needed(replaced, set(keep), {node.name for node in nodes})


def _gate(
    site: Site, readers: Mapping[str, list[Node]], keep: Collection[str], sizes: Mapping[str, int]
) -> Gate | None:
    """Return the gate of a site, if its value only scales one branch of a sum."""
    if site.kind not in ("dropout", "unscaled") or site.rows is None:
        return None
    name, widened = site.name, False
    while name not in keep and len(readers.get(name, [])) == 1:
        (reader,) = readers[name]
        if not isinstance(reader, Operation):
            return None
        if widened and reader.target is _aten.add.Tensor and not reader.kwargs:
            return _of_sum(site, name, reader, sizes)
        if reader.target not in _SCALED | _SHAPED or (
            reader.target is _aten.div.Tensor and reader.args[0] != Ref(name)
        ):
            return None
        widened = widened or sizes.get(reader.name, 0) > sizes.get(name, 0)
        name = reader.name
    return None


def _of_sum(site: Site, term: str, total: Operation, sizes: Mapping[str, int]) -> Gate | None:
    (shortcut,) = [arg for arg in total.args[:2] if arg != Ref(term)] or [None]
    if not isinstance(shortcut, Ref) or sizes.get(shortcut.name) != sizes.get(total.name):
        return None
    return Gate(site, total.name, shortcut)
