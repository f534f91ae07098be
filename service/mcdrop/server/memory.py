"""Keep a server's memory from creeping up, and the garbage collector from stopping it."""

import ctypes
import gc
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


def leave_to_stay() -> None:
    """Leave out of the collector's rounds what there is by now, and stays: torch's modules, and the bundles.

    A full round over their 400 000 objects stops every request for 0.15 s, and under load one is due each second.
    """
    gc.collect()
    gc.freeze()
