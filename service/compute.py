"""One thread computes, so that requests queue rather than slow each other down; the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Compute:
    """The compute thread of a server."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(1, "compute", initializer=torch.set_num_threads, initargs=(threads,))

    async def run(self, work: Callable[[], T]) -> T:
        """The result of some work, done after what was asked before it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Finish what runs; drop what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)
