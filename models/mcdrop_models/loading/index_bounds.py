"""The numbers that integer inputs may hold: the rows of the tables they are looked up in.

On a GPU a number outside a table ends the process's use of the device, so it is looked for before.
"""

from collections.abc import Mapping

import torch

from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Operation, Program, Ref


def table_rows(program: Program) -> dict[str, int]:
    """By input, the rows of the smallest table that it indexes itself."""
    names, rows = {spec.name for spec in program.graph.inputs}, dict[str, int]()
    for node in program.graph.nodes:
        if not isinstance(node, Operation) or node.target is not torch.ops.aten.embedding.default:
            continue
        table, indices = node.args[:2]
        if isinstance(indices, Ref) and indices.name in names and table.name in program.weights:
            size = len(program.weights[table.name])
            rows[indices.name] = min(size, rows.get(indices.name, size))
    return rows


def check_indices(inputs: NamedTensors, rows: Mapping[str, int]) -> None:
    """Raise InvalidInput for a number that a table has no row for."""
    for name, size in rows.items():
        values = inputs[name]
        outside = (values < 0) | (values >= size)
        if bool(outside.any()):
            row = int(outside.flatten(1).any(1).nonzero()[0])
            raise InvalidInput(
                f"{name} of row {row} holds {int(values[outside][0])}; the network knows 0 … {size - 1}. Send those."
            )
