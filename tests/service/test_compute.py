import asyncio
import threading

import pytest
import torch

from dropout_core.errors import InvalidInput
from service.compute import Compute, device_of


def test_work_is_done_by_one_thread_in_the_order_it_was_asked():
    compute, done = Compute(threads=1), []

    async def many():
        await asyncio.gather(
            *(compute.run(lambda number=n: done.append((number, threading.get_ident()))) for n in range(50))
        )

    asyncio.run(many())
    compute.close()

    assert [number for number, _ in done] == list(range(50))
    assert len({thread for _, thread in done}) == 1
    assert done[0][1] != threading.get_ident()


def test_the_event_loop_goes_on_meanwhile():
    compute = Compute(threads=1)

    async def other_work_first():
        finish = threading.Event()
        waiting = asyncio.create_task(compute.run(lambda: finish.wait(60)))
        await asyncio.sleep(0)
        finish.set()  # never reached, were the loop blocked
        return await waiting

    assert asyncio.run(other_work_first())
    compute.close()


def test_an_error_of_the_work_is_the_callers():
    compute = Compute(threads=1)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(compute.run(lambda: 1 // 0))
    assert asyncio.run(compute.run(lambda: "and then it goes on")) == "and then it goes on"
    compute.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_operator_may_use_as_many_threads_as_were_set(threads):
    before = torch.get_num_threads()
    compute = Compute(threads)
    try:
        assert asyncio.run(compute.run(torch.get_num_threads)) == threads
    finally:
        compute.close()
        torch.set_num_threads(before)


def test_closing_drops_what_waits_and_does_not_wait_for_what_runs():
    compute, started, finish, done = Compute(threads=1), threading.Event(), threading.Event(), []

    async def close_while_busy():
        running = asyncio.create_task(compute.run(lambda: (started.set(), finish.wait(60), done.append("ran"))))
        while not started.is_set():
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(compute.run(lambda: done.append("waited")))
        await asyncio.sleep(0)
        compute.close()
        assert done == []
        finish.set()
        await running
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(close_while_busy())
    assert done == ["ran"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert (device_of("auto"), device_of("cpu")) == ("cpu", "cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InvalidInput, match=f"the device is {name}, and torch finds no GPU"):
            device_of(name)


def test_of_two_gpus_the_first_is_taken_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    assert device_of("cpu") == "cpu"
    assert torch.backends.cudnn.allow_tf32
    found = {name: device_of(name) for name in ("auto", "cuda", "cuda:1")}
    assert found == {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(InvalidInput, match="the device is cuda:2; torch finds cuda:0 to cuda:1"):
        device_of("cuda:2")
