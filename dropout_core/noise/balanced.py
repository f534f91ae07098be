"""Balanced noise: in every block of 16 passes, a unit has one draw in each sixteenth of the range.

Each draw alone has the law of an independent one, so a unit with rate p is dropped with probability p in every pass;
but in a block it is dropped ⌊16p⌋ or ⌈16p⌉ times. Between passes the noise is stratified (a Latin hypercube; McKay,
Beckman, Conover 1979), which removes from the Monte Carlo error everything that is a sum over units.

One word decides a unit's block: a permutation of the sixteen strata, and a place within a stratum that all passes of
the block share. The permutations are x → σ(a·x + b) over the field of 16 elements with a ≠ 0. They give any two passes
any two strata equally often, so every pair of passes is exchangeable, and a squared error, which depends on pairs
only, is the same as under all 16! permutations.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from dropout_core.noise.limits import BLOCK
from dropout_core.noise.philox import words

STREAM = 1
NUM_PERMUTATIONS = 240
_STRATUM_BITS = 28
# The order of the strata. A fixed one at random: in their own order the first eight are a subgroup of the field, and
# a unit of rate ½ would know 30 ways to fall instead of 240.
_SIGMA = (11, 2, 14, 7, 0, 9, 5, 12, 3, 15, 8, 1, 10, 6, 13, 4)
_POLYNOMIAL = 0b10011  # x⁴ + x + 1, which is irreducible


def balanced_words(
    seed: int,
    site: int,
    passes: range,
    shape: Sequence[int],
    *,
    rows: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return random 32-bit words for one site, stratified over each block of 16 passes.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site.
        passes: Consecutive passes.
        shape: Sizes of the coordinates.
        rows: int64 [b], values of a first coordinate.
        device: Device of the words.

    Returns:
        int64 [t, *shape] or [t, b, *shape].
    """
    blocks = range(passes.start // BLOCK, -(-passes.stop // BLOCK))
    permutation, place = block_words(seed, site, blocks, shape, rows=rows, device=device)
    strata = _strata(permutation.device).index_select(1, permutation.flatten())
    drawn = (strata.reshape(BLOCK, *permutation.shape) << _STRATUM_BITS) | place
    ordered: Tensor = drawn.transpose(0, 1).flatten(0, 1)
    return ordered[passes.start - blocks.start * BLOCK : passes.stop - blocks.start * BLOCK]


def block_words(
    seed: int,
    site: int,
    blocks: range,
    shape: Sequence[int],
    *,
    rows: Tensor | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the permutation of each unit in each block, and its place within a stratum.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site.
        blocks: Numbers of blocks.
        shape: Sizes of the coordinates.
        rows: int64 [b], values of a first coordinate.
        device: Device of the words.

    Returns:
        Permutations 0 … 239 and places 0 … 2^28 − 1, int64 [n, *shape] or [n, b, *shape].
    """
    numbers = torch.arange(blocks.start, blocks.stop, device=device)
    scaled = words(seed, site, numbers, shape, rows=rows, stream=STREAM) * NUM_PERMUTATIONS
    return scaled >> 32, (scaled & 0xFFFFFFFF) >> (32 - _STRATUM_BITS)


def table_words() -> Tensor:
    """Return the words of a block at the lowest and at the highest place of each stratum.

    Column i is permutation i at the lowest place, and column 240 + i the same permutation at the highest.

    Returns:
        int64 [16, 480].
    """
    low = _strata(torch.device("cpu")) << _STRATUM_BITS
    return torch.cat([low, low | (2**_STRATUM_BITS - 1)], dim=1)


def columns(permutation: Tensor, place: Tensor, threshold: int) -> Tensor:
    """Return the column of `table_words` that lies on the same side of a threshold as the words of a unit.

    A step function at the threshold, applied to the table, gives each unit's draws for the sixteen passes.

    Args:
        permutation: Permutations of units.
        place: Their places within a stratum.
        threshold: 0 … 2^32.

    Returns:
        int32.
    """
    above: Tensor = place >= threshold % 2**_STRATUM_BITS
    return permutation.add(above, alpha=NUM_PERMUTATIONS).int()


@cache
def _strata(device: torch.device) -> Tensor:
    """Return [16, 240]: the stratum of pass x under permutation (a − 1) · 16 + b. Copied to a device once."""
    return torch.tensor(
        [[_SIGMA[_times(a, x) ^ b] for a in range(1, BLOCK) for b in range(BLOCK)] for x in range(BLOCK)],
        device=device,
    )


def _times(a: int, b: int) -> int:
    """Return the product of two elements of the field of 16."""
    product = 0
    for bit in range(4):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in (6, 5, 4):
        product ^= (_POLYNOMIAL << (bit - 4)) * (product >> bit & 1)
    return product
