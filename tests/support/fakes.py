"""Parts of a server that fail, wait or count."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from mcdrop.inference.catalogue import LoadedModel, VersionState
from mcdrop.inference.cost import RowCost
from mcdrop_models.bundle.repository import BundleFiles, Repository
from mcdrop_models.errors import UnknownModel
from mcdrop_models.loading.predictor import Predictor

SECRET = "hunter2"
CHEAP = RowCost(0.0, 1e-6)


class NoEngine:
    """An engine that must not run."""

    def allowed(self, scheme):
        return scheme

    def run(self, *_: Any) -> Any:
        raise AssertionError("the network ran")


class NoCatalogue:
    """A catalogue whose every question fails with a secret in the message."""

    def refresh(self) -> None:
        pass

    def loaded(self) -> list[LoadedModel]:
        return []

    def states(self) -> list[VersionState]:
        return []

    def find(self, *_: Any) -> LoadedModel:
        raise RuntimeError(f"cannot open /srv/{SECRET}")

    get = find


@dataclass
class OneModel:
    """A catalogue of one predictor, which is loaded when somebody asks for it, or at start when that is let.

    cost: what its rows are said to cost.
    """

    predictor: Predictor
    cost: RowCost = CHEAP
    may_load: threading.Event = field(default_factory=threading.Event)
    held: list[LoadedModel] = field(default_factory=list)

    def refresh(self) -> None:
        assert self.may_load.wait(60)
        self._load()

    def loaded(self) -> list[LoadedModel]:
        return self.held

    def states(self) -> list[VersionState]:
        return [VersionState(one.name, one.version, "ready") for one in self.held]

    def find(self, name: str, version: int | None = None) -> LoadedModel:
        return self.get(name, version)

    def get(self, name: str, version: int | None = None) -> LoadedModel:
        if (name, version or self.predictor.version) != (self.predictor.manifest.name, self.predictor.version):
            raise UnknownModel("there is another one")
        return self._load()

    def holding(self, _: LoadedModel) -> nullcontext[None]:
        return nullcontext()

    def _load(self) -> LoadedModel:
        if not self.held:
            self.held.append(LoadedModel(self.predictor, self.cost))
        return self.held[0]


class CountingRepository(Repository):
    """Counts the bundles that are read, and how many at once."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def read(self, name: str, version: int) -> BundleFiles:
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

    def read(self, name: str, version: int) -> BundleFiles:
        if self.forbidden and version == self.versions(name)[0]:
            raise PermissionError(13, "Permission denied", f"{self.root}/{name}/{version}/manifest.json")
        return super().read(name, version)
