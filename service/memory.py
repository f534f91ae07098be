"""Keep a server's memory from creeping up."""

import ctypes
import sys

_ARENA_MAX = -8  # glibc's malloc.h


def share_heap() -> None:
    """Let threads to come allocate from one heap, where the C library is glibc.

    It gives each thread one of its own otherwise, in which what another thread frees stays unused.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_ARENA_MAX, 1)
