import gc
import subprocess
import sys

from mcdrop.server.memory import freeze_heap

# Threads that each allocate and free: the heaps there are then, as glibc's malloc_info counts them.
HEAPS = """
import ctypes, sys, threading
from mcdrop.server.memory import share_heap
if sys.argv[1] == "shared":
    share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
barrier = threading.Barrier(4)
def allocate():
    held = libc.malloc(1000)
    barrier.wait()
    libc.free(held)
threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


def heaps(how):
    done = subprocess.run([sys.executable, "-c", HEAPS, how], check=True, capture_output=True, text=True)
    return done.stdout.count("<heap nr=")


def test_threads_share_one_heap_where_they_would_have_had_their_own():
    assert heaps("own") > 1
    assert heaps("shared") == 1


def test_what_there_is_stays_out_of_the_collectors_rounds():
    before = gc.get_freeze_count()
    held = [{} for _ in range(1000)]
    try:
        freeze_heap()
        assert gc.get_freeze_count() >= before + len(held)
    finally:
        gc.unfreeze()
