"""Choices that are faster on this machine: measured by `dropout_core.engine.tune`, or guessed until then."""

from dataclasses import dataclass

NEVER = 2**31


@dataclass(frozen=True)
class Tuning:
    """Choices that change the time of an answer and its last digits, and nothing else.

    The guess for the rows is that of two layers of 512 units.

    Attributes:
        thin_rows: Number of rows from which on thinned passes are faster, if their weights are kept from an earlier
            run.
        thin_rows_cold: The same if they are not.
        chunk_bytes: Bytes that the largest value of a chunk may fill; None for a size that suits most networks.
    """

    thin_rows: int = 16
    thin_rows_cold: int = 64
    chunk_bytes: int | None = None
