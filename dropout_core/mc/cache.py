"""A cache bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


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
