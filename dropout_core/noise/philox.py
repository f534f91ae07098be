"""Noise as a pure function: (seed, site, pass, coordinates) decide one draw, and nothing else does.

A tensor's size, a chunk or a device have no effect: a sequence of length 20 contains the draws of length 5, passes 0 …
29 of 100 are the passes of 30, and CPU and GPU agree to the bit (integer arithmetic only).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"). Noise
version 1:

* the key of a site is the first 64 bits of philox(key=seed, counter=(site, VERSION, stream, 0));
* the counter of a draw is (pass, w1, w2, w3); the 96 bits w hold the coordinates, the last one divided by 4;
* four neighbours along the last coordinate are the four words of one counter.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.noise.limits import MAX_SEED

VERSION = 1

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LANES = 4
_HALF_BITS = 48
_MAX_RANK = 6
_FEW = 4096  # coordinates that are worth keeping for the next seed


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return Philox4x32-10 of one counter.

    Args:
        key: Two 32-bit words.
        counter: Four 32-bit words.

    Returns:
        Four 32-bit words.

    References:
        Salmon et al. 2011, section 3.3.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in _round_keys(key):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & _WORD, (left >> 32) ^ c3 ^ k1, left & _WORD
    return c0, c1, c2, c3


def philox_words(key: tuple[int, int], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Return Philox4x32-10 of many counters.

    Words c0, c2 and words c1, c3 take each step together, in half the operations. The product wraps in int64; its high
    word survives.

    Args:
        key: Two 32-bit words.
        counter: Four int64 tensors of 32-bit words that broadcast.

    Returns:
        int64 [*shape, 4].
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    even, odd = torch.stack([c0, c2]), torch.stack([c1, c3])
    column = (2, *[1] * c0.dim())
    multipliers, *steps = _constants(c0.device)
    multipliers = multipliers.reshape(column)
    round_keys = torch.stack([step + word for step, word in zip(steps, key, strict=True)], dim=1).bitwise_and_(_WORD)
    for round_key in round_keys.reshape(_ROUNDS, *column):
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_and_(_WORD).bitwise_xor_(odd).bitwise_xor_(round_key)
        odd = product.bitwise_and_(_WORD)
    return torch.stack([even[0], odd[0], even[1], odd[1]], dim=-1)


def words(
    seed: int, site: int, passes: Tensor, shape: Sequence[int], *, rows: Tensor | None = None, stream: int = 0
) -> Tensor:
    """Return random 32-bit words for one site.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site in the program.
        passes: int64 [t], pass numbers.
        shape: Sizes of the coordinates, at most six.
        rows: int64 [b], values of a first coordinate.
        stream: Number of another use under the same seed and site.

    Returns:
        int64 [t, *shape] or [t, b, *shape], each 0 … 2^32 − 1.

    Raises:
        InvalidInput: The seed is out of range.
    """
    outer = () if rows is None else (len(rows),)
    if 0 in (*outer, *shape) or passes.numel() == 0:
        return torch.empty((len(passes), *outer, *shape), dtype=torch.int64, device=passes.device)
    sizes = tuple(shape) or (1,)
    blocks = (*sizes[:-1], math.ceil(sizes[-1] / _LANES))
    few = rows is None and math.prod(blocks) <= _FEW
    w1, w2, w3 = (_kept_coordinates if few else _coordinates)(blocks, rows, passes.device)
    first = passes.reshape(-1, *[1] * (w1.dim() - 1))
    lanes = philox_words(_site_key(seed, site, stream), (first, w1, w2, w3))
    return lanes.flatten(-2)[..., : sizes[-1]].reshape(len(passes), *outer, *shape)


def keep_mask(seed: int, site: int, passes: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Return Bernoulli(1 − p) draws.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site.
        passes: int64 [t], pass numbers.
        shape: Sizes of the coordinates.
        p: Drop probability, 0 … 1, resolved to 2^-32.

    Returns:
        bool [t, *shape], True where a unit is kept.
    """
    return words(seed, site, passes, shape) >= drop_threshold(p)


def drop_threshold(p: float) -> int:
    """Return the number below which a word drops its unit.

    Args:
        p: Drop probability, 0 … 1.

    Returns:
        The threshold, 0 … 2^32.
    """
    if not 0.0 <= p <= 1.0:
        raise InvalidInput(f"the drop probability is {p}; it must lie between 0 and 1.")
    return round(p * 2**32)


def uniform(seed: int, site: int, passes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return uniform draws in [0, 1), each a multiple of 2^-32.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site.
        passes: int64 [t], pass numbers.
        shape: Sizes of the coordinates.

    Returns:
        float64 [t, *shape].
    """
    return words(seed, site, passes, shape).double() * 2.0**-32


def normal(seed: int, site: int, passes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal draws.

    Args:
        seed: 0 … 2^63 − 1.
        site: Index of the site.
        passes: int64 [t], pass numbers.
        shape: Sizes of the coordinates.

    Returns:
        float64 [t, *shape].
    """
    return normal_of(words(seed, site, passes, shape))


def normal_of(drawn: Tensor) -> Tensor:
    """Return standard normal draws: Φ⁻¹ of the middle of the interval of 2^-32 that a word names.

    The largest is 6.34. They follow the order of the words, and agree between devices up to rounding.

    Args:
        drawn: Words.

    Returns:
        float64 of the same shape.
    """
    value: Tensor = torch.special.ndtri((drawn.double() + 0.5) * 2.0**-32)
    return value


def _site_key(seed: int, site: int, stream: int) -> tuple[int, int]:
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"the seed is {seed}; it must lie between 0 and 2^63 - 1.")
    first, second, _, _ = philox((seed & _WORD, seed >> 32), (site, VERSION, stream, 0))
    return first, second


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the multipliers, and what each round adds to either word of a key; copied to a device once."""
    steps = ([word * step for step in range(_ROUNDS)] for word in _WEYL)
    first, second = (torch.tensor(values, device=device) for values in steps)
    return torch.tensor(_MULTIPLIERS, device=device), first, second


def _round_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    steps = range(_ROUNDS)
    return [((key[0] + _WEYL[0] * step) & _WORD, (key[1] + _WEYL[1] * step) & _WORD) for step in steps]


def _coordinates(sizes: tuple[int, ...], rows: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 96-bit coordinate words: two halves of 48 bits, divided evenly among their coordinates.

    The width of a field depends on the number of coordinates and not on their sizes.
    """
    rank = len(sizes) + (rows is not None)
    if rank > _MAX_RANK:
        raise InvalidInput(f"a site has {rank} coordinates; noise is defined for at most {_MAX_RANK}.")
    axes = [torch.arange(size, device=device) for size in sizes]
    axes = axes if rows is None else [rows.to(device), *axes]
    shape = (1, *(len(axis) for axis in axes))
    if rank % 2:
        axes = [torch.zeros(1, dtype=torch.int64, device=device), *axes]
    half = len(axes) // 2
    bits = min(32, _HALF_BITS // half)
    if max(sizes) > 2**bits or (rows is not None and int(rows.max()) >= 2**bits):
        raise InvalidInput(f"a site of shape {shape[1:]} is longer than 2^{bits} along one axis.")
    grid = torch.meshgrid(*axes, indexing="ij")
    high, low = _pack(grid[:half], bits), _pack(grid[half:], bits)
    w1, w2, w3 = high >> 16, ((high & 0xFFFF) << 16) | (low >> 32), low & _WORD
    return w1.reshape(shape), w2.reshape(shape), w3.reshape(shape)


_kept_coordinates = lru_cache(maxsize=256)(_coordinates)


def _pack(fields: Sequence[Tensor], bits: int) -> Tensor:
    packed = fields[0]
    for field in fields[1:]:
        packed = (packed << bits) | field
    return packed
