"""Parts of a server that fail, wait or count."""

import threading
from dataclasses import dataclass, field
from typing import Any

from models.errors import UnknownModel
from models.predictor import Predictor
from models.repository import Files, Repository
from service.catalogue import State

SECRET = "hunter2"


class NoEngine:
    """An engine that must not run."""

    def allowed(self, scheme):
        return scheme

    def run(self, *_: Any) -> Any:
        raise AssertionError("the network ran")


class NoCatalogue:
    """A catalogue whose every question fails with a secret in the message."""

    def load_newest(self) -> list[Predictor]:
        return []

    def loaded(self) -> list[Predictor]:
        return []

    def states(self) -> list[State]:
        return []

    def find(self, *_: Any) -> Predictor:
        raise RuntimeError(f"cannot open /srv/{SECRET}")

    get = find


@dataclass
class OneModel:
    """A catalogue of one predictor, which is loaded when somebody asks for it, or at start when that is let."""

    predictor: Predictor
    may_load: threading.Event = field(default_factory=threading.Event)
    held: list[Predictor] = field(default_factory=list)

    def load_newest(self) -> list[Predictor]:
        assert self.may_load.wait(60)
        self.held[:] = [self.predictor]
        return self.held

    def loaded(self) -> list[Predictor]:
        return self.held

    def states(self) -> list[State]:
        return [State(one.manifest.name, one.version, "ready") for one in self.held]

    def find(self, name: str, version: int | None = None) -> Predictor:
        return self.get(name, version)

    def get(self, name: str, version: int | None = None) -> Predictor:
        if (name, version or self.predictor.version) != (self.predictor.manifest.name, self.predictor.version):
            raise UnknownModel("there is another one")
        self.held[:] = [self.predictor]
        return self.predictor


class CountingRepository(Repository):
    """Counts the bundles that are read, and how many at once."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def read(self, name: str, version: int) -> Files:
        with self._lock:
            self.reads.append((name, version))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return super().read(name, version)
        finally:
            with self._lock:
                self.at_once -= 1


class UnreadableRepository(Repository):
    """A repository of another user: the newest versions may be listed and not read."""

    forbidden = True

    def read(self, name: str, version: int) -> Files:
        if self.forbidden and version == self.versions(name)[0]:
            raise PermissionError(13, "Permission denied", f"{self.root}/{name}/{version}/manifest.json")
        return super().read(name, version)
