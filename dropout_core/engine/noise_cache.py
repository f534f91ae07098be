"""A bounded cache of the noise of passes and of the weights thinned by it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from dropout_core.engine.masks import Masks
from dropout_core.engine.network import PassGroup, Section
from dropout_core.engine.options import PassOptions
from dropout_core.engine.thinning import Thinned, thinned
from dropout_core.engine.tuning import Tuning

_MASK_BYTES = 32 * 2**20
_THINNED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Thin:
    """The thinned chains of a section, and the weights of which they were made: these must keep their addresses."""

    chains: Mapping[str, Thinned]
    weights: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of the thinned weights."""
        return sum(chain.nbytes for chain in self.chains.values())


class NoiseCache:
    """Makes groups of noise for many threads, and keeps the most recent ones.

    Args:
        tuning: From how many rows on thinning pays.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._masks: Cache[Masks] = Cache(_MASK_BYTES)
        self._thinned: Cache[_Thin] = Cache(_THINNED_BYTES)

    def make(
        self,
        weights: Mapping[str, Tensor],
        part: Section,
        options: PassOptions,
        passes: range,
        num_rows: int,
        *,
        keep: bool,
        alone: bool,
    ) -> PassGroup:
        """Return the noise of some passes, with thinned weights if there are enough rows for them.

        Args:
            weights: Weights by name.
            part: The section of the suffix.
            options: How the passes draw.
            passes: The passes.
            num_rows: Number of rows.
            keep: Whether another run may need them again.
            alone: Whether passes run one at a time.

        Returns:
            The noise.
        """
        key = (options.noise_key, passes)
        make = partial(Masks, options, passes)
        again = keep and self._masks.get(key) is not None
        masks = self._masks.get_or_make(key, make) if keep else make()
        shared = options.masks == "shared"
        shut = part.shut(masks, len(passes)) if alone and shared and part.gates else ()
        if not part.chains or not shared:
            return PassGroup(masks, shut=shut)
        used = tuple(weights[name] for name in part.weights)
        thin_key = (*key, part.name, *map(_version, used))
        thin = self._thinned.get(thin_key)
        known = again or thin is not None  # what is wanted a second time will be wanted a third time
        if num_rows < (self._tuning.thin_rows if known else self._tuning.thin_rows_cold):
            return PassGroup(masks, shut=shut)
        if thin is None:
            make_thin = partial(_thin, weights, part, masks, len(passes), used)
            thin = self._thinned.get_or_make(thin_key, make_thin) if keep else make_thin()
        return PassGroup(masks, thin.chains, shut)


@torch.inference_mode()
def _thin(weights: Mapping[str, Tensor], part: Section, masks: Masks, count: int, used: tuple[Tensor, ...]) -> _Thin:
    return _Thin({chain.name: thinned(chain, weights, masks, count) for chain in part.chains}, used)


def _version(weight: Tensor) -> tuple[int, int]:
    """Return a value that changes with every change of a weight that torch's autograd sees."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


class Sized(Protocol):
    """A value that knows its size, which may grow after it was made."""

    @property
    def nbytes(self) -> int:
        """The bytes held."""
        ...


Value = TypeVar("Value", bound=Sized)


_MAX_VALUES = 16  # all their sizes are added up whenever one is made


class Cache(Generic[Value]):
    """The most recently used values, within a bound of bytes. It serves many threads.

    Args:
        max_bytes: The bound.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key.

        Args:
            key: The key.

        Returns:
            The value, or None if it is not kept.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, and make it if it is not kept. If two threads make it at once, both get the first.

        Args:
            key: The key.
            make: Makes the value.

        Returns:
            The value.
        """
        value = self.get(key)
        if value is not None:
            return value
        made = make()
        with self._lock:
            value = self._values.setdefault(key, made)
            self._trim()
        return value

    def _trim(self) -> None:
        """Forget the oldest values beyond the bound."""
        total = sum(value.nbytes for value in self._values.values())
        while total > self._max_bytes or len(self._values) > _MAX_VALUES:
            _, oldest = self._values.popitem(last=False)
            total -= oldest.nbytes
