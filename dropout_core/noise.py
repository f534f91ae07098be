"""Noise as a pure function: one draw is decided by (seed, site, pass, coordinates) and by nothing else.

Never by a tensor's size, a chunk or a device: a sequence of length 20 contains the draws of length 5, passes
0 … 29 of 100 are the passes of 30, and CPU and GPU agree to the bit (integer arithmetic only).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
Noise version 1:

* the key of a site is the first 64 bits of philox(key=seed, counter=(site, VERSION, 0, 0));
* the counter of a draw is (pass, w1, w2, w3); the 96 bits w hold the coordinates, the last one divided by 4;
* four neighbours along the last coordinate are the four words of one counter.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput

VERSION = 1
MAX_SEED = 2**63 - 1

Word = TypeVar("Word", int, Tensor)

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LANES = 4
_HALF_BITS = 48
_MAX_RANK = 6


def philox(key: tuple[int, int], counter: tuple[Word, Word, Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Philox4x32-10: four 32-bit words for each counter.

    key: two words. counter: four words, as Python integers or as int64 tensors that broadcast together. Returns
    four words of the same kind.
    Source: Salmon et al. 2011, section 3.3. The 64-bit product wraps in int64; its high word survives the wrap.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left = c0 * _MULTIPLIERS[0]
        right = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((right >> 32) & _WORD) ^ c1 ^ k0,
            right & _WORD,
            ((left >> 32) & _WORD) ^ c3 ^ k1,
            left & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(seed: int, site: int, passes: Tensor, shape: Sequence[int]) -> Tensor:
    """Random 32-bit words for one site.

    seed: 0 … 2^63 − 1. site: its index in the Program. passes: int64 [t], the pass numbers wanted.
    shape: the sizes of the coordinates, at most six of them. Returns int64 [t, *shape], each 0 … 2^32 − 1.
    """
    sizes = tuple(shape) or (1,)
    if 0 in sizes or passes.numel() == 0:
        return torch.empty((len(passes), *shape), dtype=torch.int64, device=passes.device)
    blocks = (*sizes[:-1], math.ceil(sizes[-1] / _LANES))
    w1, w2, w3 = _coordinates(blocks, passes.device)
    first = passes.reshape(-1, *[1] * len(blocks))
    lanes = torch.stack(torch.broadcast_tensors(*philox(_site_key(seed, site), (first, w1, w2, w3))), dim=-1)
    return lanes.flatten(-2)[..., : sizes[-1]].reshape(len(passes), *shape)


def keep_mask(seed: int, site: int, passes: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Bernoulli(1 − p) draws: True where a unit is kept.

    p: the drop probability, 0 … 1, resolved to 2^-32. Returns bool [t, *shape].
    """
    if not 0.0 <= p <= 1.0:
        raise InvalidInput(f"the drop probability is {p}; it must lie between 0 and 1.")
    return words(seed, site, passes, shape) >= round(p * 2**32)


def uniform(seed: int, site: int, passes: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform draws in [0, 1), float64 [t, *shape], a multiple of 2^-32 each."""
    return words(seed, site, passes, shape).double() * 2.0**-32


def normal(seed: int, site: int, passes: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal draws, float64 [t, *shape]: Φ⁻¹ of the middle of the interval of 2^-32 that a word names.

    The largest is 6.34. They follow the order of the words, and agree between devices to rounding.
    """
    drawn: Tensor = torch.special.ndtri((words(seed, site, passes, shape).double() + 0.5) * 2.0**-32)
    return drawn


def _site_key(seed: int, site: int) -> tuple[int, int]:
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"the seed is {seed}; it must lie between 0 and 2^63 - 1.")
    first, second, _, _ = philox((seed & _WORD, seed >> 32), (site, VERSION, 0, 0))
    return first, second


def _coordinates(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The 96-bit coordinate words: two halves of 48 bits, each shared evenly by its coordinates.

    The width of a field depends on the number of coordinates only, never on their sizes.
    """
    if len(sizes) > _MAX_RANK:
        raise InvalidInput(f"a site has {len(sizes)} coordinates; noise is defined for at most {_MAX_RANK}.")
    padded = (*[1] * (len(sizes) % 2), *sizes)
    half = len(padded) // 2
    bits = min(32, _HALF_BITS // half)
    if max(padded) > 2**bits:
        raise InvalidInput(f"a site of shape {sizes} is longer than 2^{bits} along one axis.")
    axes = torch.meshgrid(*[torch.arange(n, device=device) for n in padded], indexing="ij")
    high, low = _pack(axes[:half], bits), _pack(axes[half:], bits)
    shape = (1, *sizes)
    w1, w2, w3 = high >> 16, ((high & 0xFFFF) << 16) | (low >> 32), low & _WORD
    return w1.reshape(shape), w2.reshape(shape), w3.reshape(shape)


def _pack(fields: Sequence[Tensor], bits: int) -> Tensor:
    packed = torch.zeros_like(fields[0])
    for field in fields:
        packed = (packed << bits) | field
    return packed
