"""Bounds of integer inputs that index a table, such as the vocabulary of an embedding.

On a GPU an index outside of its table makes the device unusable for the whole process, so indices are checked before.
"""

from collections.abc import Mapping

import torch

from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Operation, Program, Ref


def table_rows(program: Program) -> dict[str, int]:
    """Return the number of rows of the smallest table that each input indexes itself.

    Args:
        program: The network.

    Returns:
        A number of rows by input. Inputs that index no table are left out.
    """
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
    """Check that integer inputs lie inside the tables that they index.

    Args:
        inputs: Rows by input.
        rows: The number of rows of the table, by input.

    Raises:
        InvalidInput: A number is outside of its table.
    """
    for name, size in rows.items():
        values = inputs[name]
        outside = (values < 0) | (values >= size)
        if bool(outside.any()):
            row = int(outside.flatten(1).any(1).nonzero()[0])
            raise InvalidInput(
                f"{name} of row {row} holds {int(values[outside][0])}, but the network knows 0 … {size - 1}."
            )
