import asyncio
import threading

import pytest

from mcdrop.wire.offload import SMALL_BYTES, json_cost, offload


@pytest.mark.parametrize(("more", "on_the_loop"), [(0, True), (1, False)], ids=["small", "large"])
def test_large_work_runs_in_a_thread_and_small_work_on_the_loop(more, on_the_loop):
    thread = asyncio.run(offload(threading.get_ident, SMALL_BYTES + more))

    assert (thread == threading.get_ident()) == on_the_loop


def test_an_error_of_the_work_is_raised_from_either_place():
    for size in (0, 2 * SMALL_BYTES):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(offload(lambda: 1 // 0, size))


def test_two_thousand_numbers_are_the_most_that_are_written_on_the_loop():
    assert json_cost(2048) == SMALL_BYTES
