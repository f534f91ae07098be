"""Balanced noise: in every block of 16 passes a unit's draws fall one into each sixteenth of their range.

Each draw alone has the law of an independent one, so a unit of rate p is dropped with probability p in every pass; but
in a block it is dropped ⌊16p⌋ or ⌈16p⌉ times. Between passes the noise is stratified (a Latin hypercube, McKay,
Beckman, Conover 1979), which takes from the Monte Carlo error all that is a sum over units.

One word decides a unit's block. Of it, a permutation of the sixteen strata, and a place within a stratum that all
passes of the block share. The permutations are x → σ(a·x + b) over the field of 16 elements, a ≠ 0: to any two passes
they give any two strata equally often, so every pair of passes is exchangeable, and a squared error, which depends on
pairs only, is what it is under all 16! of them.
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
    """Random 32-bit words for one site, stratified over each block of 16 passes.

    passes: consecutive. Otherwise as dropout_core.noise.philox.words. Returns int64 [t, *shape] or [t, b, *shape].
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
    """The permutation 0 … 239 of each unit in each block, and its place 0 … 2^28 − 1 within a stratum.

    Returns two int64 tensors [n, *shape] or [n, b, *shape].
    """
    numbers = torch.arange(blocks.start, blocks.stop, device=device)
    scaled = words(seed, site, numbers, shape, rows=rows, stream=STREAM) * NUM_PERMUTATIONS
    return scaled >> 32, (scaled & 0xFFFFFFFF) >> (32 - _STRATUM_BITS)


def table_words() -> Tensor:
    """The words of a block at the lowest and at the highest place of each stratum, int64 [16, 480].

    Column i is permutation i at the lowest place, column 240 + i the same at the highest.
    """
    low = _strata(torch.device("cpu")) << _STRATUM_BITS
    return torch.cat([low, low | (2**_STRATUM_BITS - 1)], dim=1)


def columns(permutation: Tensor, place: Tensor, threshold: int) -> Tensor:
    """The column of table_words that lies on the same side of a threshold as the words of a unit, int32.

    threshold: 0 … 2^32. A step at it, taken of the table, gives each unit's draws for the sixteen passes.
    """
    above: Tensor = place >= threshold % 2**_STRATUM_BITS
    return permutation.add(above, alpha=NUM_PERMUTATIONS).int()


@cache
def _strata(device: torch.device) -> Tensor:
    """[16, 240]: the stratum of pass x under permutation (a − 1) · 16 + b. Copied to a device once."""
    return torch.tensor(
        [[_SIGMA[_times(a, x) ^ b] for a in range(1, BLOCK) for b in range(BLOCK)] for x in range(BLOCK)],
        device=device,
    )


def _times(a: int, b: int) -> int:
    """The product of two elements of the field of 16."""
    product = 0
    for bit in range(4):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in (6, 5, 4):
        product ^= (_POLYNOMIAL << (bit - 4)) * (product >> bit & 1)
    return product
