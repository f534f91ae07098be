"""Which element of a value belongs to which row.

Shapes alone do not tell: cat([x, -x]) and folded heads both say 2·B. So the network is run with its noise off on a
few rows, one row is changed, and the elements that change are its own. What a row changes outside its own place
couples the rows, and is refused: its answer would depend on who else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dropout_core.capture.probe import NUM_ROWS, perturbed, probe_rows
from dropout_core.capture.translate import Shape
from dropout_core.engine.masks import quiet
from dropout_core.errors import CaptureError, CoupledRows
from dropout_core.graph.inputs import NamedTensors, sizes_of
from dropout_core.graph.program import ROWS, Graph, Program, RowAxis, Site
from dropout_core.graph.sizes import Size
from dropout_core.graph.split import split, split_last
from dropout_core.graph.stage import Stage

_TOLERANCE = 1e-6


def assign_rows(program: Program, shapes: Mapping[str, Shape], example: NamedTensors) -> Graph:
    """The graph with the rows of its sites and of its boundary. Raises CoupledRows, naming the line."""
    graph = program.graph
    parts = split(graph)
    read = {*parts.crossing, *split_last(parts.suffix, graph.output).crossing}
    crossing = sorted(name for name in read if name not in program.weights)
    watched = [*crossing, *(site.input.name for site in graph.sites), graph.output]
    lines = {node.name: node.where for node in graph.nodes} | {site.input.name: site.where for site in graph.sites}
    changes = _changes(program, probe_rows(example), set(watched))
    rows = {name: rows_from(shapes[name], changes.get(name, []), lines.get(name, "")) for name in watched}
    if rows[graph.output] != RowAxis(0):
        raise CoupledRows(
            f"the output has shape {_show(shapes[graph.output])}; return one row for each input row, rows first."
        )
    nodes = tuple(replace(node, rows=rows[node.input.name]) if isinstance(node, Site) else node for node in graph.nodes)
    return replace(graph, nodes=nodes, boundary={name: rows[name] for name in crossing})


def _changes(program: Program, probe: NamedTensors, watched: set[str]) -> dict[str, list[Tensor]]:
    """For each watched value, and each row changed in turn, which elements change (noise off)."""
    base = _values(program, probe, watched)
    changes: dict[str, list[Tensor]] = {name: [] for name in base}
    for row in range(NUM_ROWS):
        for name, value in _values(program, perturbed(probe, row), watched).items():
            changes[name].append(differs(base[name], value))
    return changes


def _values(program: Program, probe: NamedTensors, watched: set[str]) -> dict[str, Tensor]:
    """The watched values, noise off. Weights are left out: no row changes them."""
    seen: dict[str, Tensor] = {}

    def observe(name: str, value: Any) -> None:
        if name in watched:
            seen[name] = value

    for name, value in probe.items():
        observe(name, value)
    stage = Stage(program.graph.nodes, keep=())
    device = next(iter(probe.values())).device
    stage.run({**program.weights, **probe}, sizes_of(program.graph, probe), device, quiet, observe)
    return seen


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Which elements of two values differ by more than rounding."""
    if not a.is_floating_point():
        return a != b
    a, b = a.double(), b.double()
    scale = torch.where(a.isfinite(), a, 0).abs().max() if a.numel() else a.sum()
    return ~torch.isclose(a, b, rtol=0.0, atol=_TOLERANCE * float(scale), equal_nan=True)


def rows_from(shape: Shape, changes: list[Tensor], line: str) -> RowAxis | None:
    """Where a value's rows lie, from its shape and from what each row changes. Raises CoupledRows, CaptureError.

    changes: for each of NUM_ROWS rows the elements that change with it. line: where the value is made, for messages.
    """
    axes = [(axis, size) for axis, size in enumerate(shape) if isinstance(size, Size) and ROWS in size.names]
    if not axes:
        if any(bool(changed.any()) for changed in changes):
            raise _coupled(shape, line, "all rows share one value")
        return None
    (axis, size), *others = axes
    if size.names != {ROWS}:
        raise CaptureError(
            f"a value of shape {_show(shape)}{f' at {line}' if line else ''} folds a free length into its rows; keep "
            "an axis for it, as nn.Linear does with [rows, length, features], or leave the length fixed."
        )
    fold = size({ROWS: 1})
    if others or any(size({ROWS: rows}) != fold * rows for rows in (2, NUM_ROWS)):
        raise _coupled(shape, line, "its size is not a multiple of the number of rows")
    candidates = [RowAxis(axis, before, fold // before) for before in range(1, fold + 1) if fold % before == 0]
    fitting = [rows for rows in candidates if all(_owns(rows, row, changed) for row, changed in enumerate(changes))]
    if not fitting:
        raise _coupled(shape, line, "changing one row changes another's values")
    if len(fitting) > 1:
        raise _coupled(shape, line, "its rows cannot be told apart")
    return fitting[0]


def _owns(rows: RowAxis, row: int, changed: Tensor) -> bool:
    """Whether all that changed lies in one row's place."""
    places = changed.unflatten(rows.axis, (rows.before, NUM_ROWS, rows.after))
    others = [other for other in range(NUM_ROWS) if other != row]
    return not bool(places.index_select(rows.axis + 1, torch.tensor(others, device=changed.device)).any())


def _coupled(shape: Shape, line: str, why: str) -> CoupledRows:
    return CoupledRows(
        f"a value of shape {_show(shape)}{f' at {line}' if line else ''} mixes rows: {why}. A row's answer must not "
        "depend on the other rows of its batch: batch norm needs running statistics, and nothing may reduce over rows."
    )


def _show(shape: Shape) -> str:
    return "[" + ", ".join(str(size) if isinstance(size, int) else f"{'·'.join(size.names)}…" for size in shape) + "]"
