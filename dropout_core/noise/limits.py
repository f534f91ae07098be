"""Bounds of the noise that values without tensors share."""

BLOCK = 16
"""Passes of a balanced block: a unit's draws fall one into each sixteenth of their range."""

MAX_SEED = 2**63 - 1
