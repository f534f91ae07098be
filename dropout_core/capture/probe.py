"""A few rows to look at a network with, made from the caller's own example so that they stay in its range."""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors, num_rows, select_rows
from dropout_core.noise.philox import uniform

NUM_ROWS = 3
_SEED = 7
_ATTEMPTS = 8


def two_rows(example: NamedTensors) -> dict[str, Tensor]:
    """At least two rows: a single one is doubled, since exporting one row would fix the number of rows to one.

    Every input is a tensor of its own: torch.export takes one that stands for two for the same input.
    """
    for name, value in example.items():
        if value.numel() == 0:
            raise InvalidInput(f"the example's {name} has shape {tuple(value.shape)}; give at least one row.")
    doubled = num_rows(example) == 1
    rows = {name: torch.cat([value, value]) if doubled else value for name, value in example.items()}
    return {name: value.detach() for name, value in rows.items()}


def probe_rows(example: NamedTensors) -> dict[str, Tensor]:
    """NUM_ROWS rows like the example's, pairwise different."""
    count = num_rows(example)
    repeats = -(-NUM_ROWS // count)
    probe = select_rows({name: torch.cat([value] * repeats) for name, value in example.items()}, slice(NUM_ROWS))
    for row in range(min(count, NUM_ROWS), NUM_ROWS):
        probe = perturbed(probe, row, row + NUM_ROWS)
    return probe


def perturbed(probe: NamedTensors, row: int, number: int | None = None) -> dict[str, Tensor]:
    """The probe with one row changed in every input that can be: at least in one.

    Floats are drawn anew in the probe's range, other values from the probe's. Beside other inputs, zeros and ones
    change places within their row: they may be a mask, and one that hides all makes a row NaN.

    number: of the draws; the row's otherwise.
    """
    changed = {
        name: _changed(value, row, _SEED + index, row if number is None else number, alone=len(probe) == 1)
        for index, (name, value) in enumerate(probe.items())
    }
    if all(torch.equal(changed[name], value) for name, value in probe.items()):
        raise InvalidInput(
            "the example's values are all alike, so its rows cannot be told apart; give rows that differ."
        )
    return changed


def _changed(probe: Tensor, row: int, seed: int, number: int, alone: bool) -> Tensor:
    changed, moved = probe.clone(), not alone and _may_be_a_mask(probe)
    for attempt in range(_ATTEMPTS):
        draws = uniform(seed, number, torch.tensor([attempt]), (probe[row].numel(),))[0].to(probe.device)
        anew = _moved(probe[row].flatten(), draws) if moved else _anew(probe, draws)
        changed[row] = anew.reshape(probe[row].shape)
        if not torch.equal(changed[row], probe[row]):
            break
    return changed


def _may_be_a_mask(probe: Tensor) -> bool:
    """Zeros and ones, or floats with an infinity, several for each row."""
    binary = bool(((probe == 0) | (probe == 1)).all())
    return probe[0].numel() > 1 and (binary or not bool(probe.isfinite().all()))


def _moved(values: Tensor, draws: Tensor) -> Tensor:
    """The values in another order; of those that all are one, or all False, one is changed, so that a mask is seen."""
    if bool((values == 1).all()) or (values.dtype == torch.bool and not bool(values.any())):
        return values.scatter(0, draws.argmax(0, keepdim=True), (values == 0).to(values.dtype))
    return values[draws.argsort()]


def _anew(probe: Tensor, draws: Tensor) -> Tensor:
    if probe.is_floating_point():
        low, high = probe.min(), probe.max()
        span = high - low if high > low else torch.ones_like(high)
        return low + span * draws.to(probe.dtype)
    return probe.flatten().sort(descending=True).values[(draws * probe.numel()).long()]
