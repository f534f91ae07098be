"""What the endpoints of one app share."""

from dataclasses import dataclass
from typing import Annotated, cast

import anyio.to_thread
from fastapi import Depends, Request

from models.predictor import Predictor
from service.catalogue import Catalogue
from service.compute import Compute
from service.query import Limits
from service.settings import Settings

# A body this small is parsed on the event loop: handing it to a thread would cost more.
SMALL_BODY_BYTES = 16 * 2**10


@dataclass
class State:
    """The parts of a running server. `started`: the bundles there were at start have been tried."""

    settings: Settings
    catalogue: Catalogue
    compute: Compute
    started: bool = False

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return Limits(self.settings.max_passes, self.settings.max_samples, self.settings.max_length)

    async def predictor(self, name: str, version: int | None) -> Predictor:
        """A predictor; one that is not in memory is loaded off the event loop."""
        found = self.catalogue.find(name, version)
        return found if found is not None else await anyio.to_thread.run_sync(self.catalogue.get, name, version)


def _state(request: Request) -> State:
    return cast("State", request.app.state.mcdrop)


Shared = Annotated[State, Depends(_state)]
