"""One thread computes, so that requests queue rather than slow each other down; the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from dropout_core.errors import InvalidInput

T = TypeVar("T")


def device_of(setting: str) -> str:
    """The device a setting means: "auto" is a GPU where there is one.

    On a GPU convolutions keep all of float32's digits: with TF32 they would answer the stored probes otherwise.
    Raises InvalidInput where one is asked for and there is none.
    """
    if setting == "cpu" or not torch.cuda.is_available():
        if setting == "cuda":
            raise InvalidInput("the device is cuda, and torch finds no GPU; say cpu, or install torch's CUDA build.")
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


class Compute:
    """The compute thread of a server."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._executor = ThreadPoolExecutor(1, "compute", initializer=torch.set_num_threads, initargs=(threads,))

    async def run(self, work: Callable[[], T]) -> T:
        """The result of some work, done after what was asked before it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Drop what waits. What runs is not waited for: nobody is left to take its result."""
        self._executor.shutdown(wait=False, cancel_futures=True)
