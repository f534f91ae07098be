"""What is faster on this machine: measured (dropout_core.engine.tune), or a guess until then."""

from dataclasses import dataclass

NEVER = 2**31


@dataclass(frozen=True)
class Tuning:
    """Choices that change the time of an answer, and its last digits, and nothing else.

    thin_rows, thin_rows_cold: from how many rows on thinned passes are faster than dense ones, when their weights are
    kept from an earlier run and when they are not. chunk_bytes: what the largest value of a chunk may fill; None: as
    much as suits most networks. The guess for the rows is that of two layers of 512 units.
    """

    thin_rows: int = 16
    thin_rows_cold: int = 64
    chunk_bytes: int | None = None
