"""A few rows to look at a network with, made from the caller's own example so that they stay in its range."""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.noise import uniform

NUM_ROWS = 3
_SEED = 7
_ATTEMPTS = 8


def two_rows(example: Tensor) -> Tensor:
    """At least two rows: a single one is doubled, since exporting one row would fix the number of rows to one."""
    if not isinstance(example, Tensor):
        raise InvalidInput(f"the example is a {type(example).__name__}; give one tensor, rows first.")
    if example.dim() == 0 or example.numel() == 0:
        raise InvalidInput(f"the example has shape {tuple(example.shape)}; give at least one row.")
    example = example.detach()
    return torch.cat([example, example]) if example.shape[0] == 1 else example


def probe_rows(example: Tensor) -> Tensor:
    """NUM_ROWS rows like the example's, pairwise different."""
    repeats = -(-NUM_ROWS // example.shape[0])
    probe = torch.cat([example] * repeats)[:NUM_ROWS]
    for row in range(min(example.shape[0], NUM_ROWS), NUM_ROWS):
        probe = perturbed(probe, row, row + NUM_ROWS)
    return probe


def perturbed(probe: Tensor, row: int, number: int | None = None) -> Tensor:
    """The probe with one row changed: floats are drawn anew in the probe's range, other values are shuffled.

    number: of the draws; the row's otherwise.
    """
    changed = probe.clone()
    for attempt in range(_ATTEMPTS):
        draws = uniform(_SEED, row if number is None else number, torch.tensor([attempt]), (probe[row].numel(),))
        changed[row] = _anew(probe, draws[0].to(probe.device)).reshape(probe[row].shape)
        if not torch.equal(changed[row], probe[row]):
            return changed
    raise InvalidInput("the example's values are all alike, so its rows cannot be told apart; give rows that differ.")


def _anew(probe: Tensor, draws: Tensor) -> Tensor:
    if probe.is_floating_point():
        low, high = probe.min(), probe.max()
        span = high - low if high > low else torch.ones_like(high)
        return low + span * draws.to(probe.dtype)
    return probe.flatten().sort(descending=True).values[(draws * probe.numel()).long()]
