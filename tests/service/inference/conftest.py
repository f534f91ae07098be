import pytest

from mcdrop.inference import batcher as batching
from mcdrop.inference.batcher import Batcher
from tests.support.queue_desk import ROOMY, Clock


@pytest.fixture
def serve():
    """Makes batchers, which are closed in the end."""
    made = []

    def make(desk, bounds=ROOMY, **more):
        made.append((desk, Batcher(desk, bounds, **more)))
        return made[-1][1]

    yield make
    for desk, batcher in made:
        batcher.close()
        desk.finish(100)


@pytest.fixture
def clock(monkeypatch):
    """In the place of the time that a batcher sees."""
    clock = Clock()
    monkeypatch.setattr(batching, "time", clock)
    return clock
