"""The noise of groups of passes and the weights thinned by it: made when wanted, and kept within bounds of bytes."""

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
    """The thinned chains of a part, and the weights they were made of, so that no others take their addresses."""

    chains: Mapping[str, Thinned]
    weights: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of the thinned weights."""
        return sum(chain.nbytes for chain in self.chains.values())


class NoiseCache:
    """Makes groups, for many threads, and keeps what it made last."""

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
        """The noise of some passes, and the thinned weights of a part where so many rows are worth their making.

        keep: whether another run may want them again. alone: whether passes run one at a time.
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
    """Changes with every change of a weight that torch's autograd sees."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


class Sized(Protocol):
    """What knows its size; it may grow after it was made."""

    @property
    def nbytes(self) -> int:
        """The bytes held."""
        ...


Value = TypeVar("Value", bound=Sized)


_MAX_VALUES = 16  # all their sizes are added up whenever one is made


class Cache(Generic[Value]):
    """The few values used last, within a bound of bytes. It serves many threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, or None where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key. Two threads may make it at once; both then get the first."""
        value = self.get(key)
        if value is not None:
            return value
        made = make()
        with self._lock:
            value = self._values.setdefault(key, made)
            self._trim()
        return value

    def _trim(self) -> None:
        """Forget the oldest beyond the bound, sizes as they are now."""
        total = sum(value.nbytes for value in self._values.values())
        while total > self._max_bytes or len(self._values) > _MAX_VALUES:
            _, oldest = self._values.popitem(last=False)
            total -= oldest.nbytes
