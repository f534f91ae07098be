"""The bundles in memory: loaded and verified when first wanted, newest good version by default."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import InvalidBundle, UnknownModel
from models.predictor import Predictor
from models.repository import MANIFEST, PROGRAM, WEIGHTS, Repository
from models.tunings import Tunings

Key = tuple[str, int]


@dataclass(frozen=True)
class Verdict:
    """Why a version is not served (empty where nothing is against it), and what its files looked like then."""

    reason: str
    stamps: tuple[int, ...]


@dataclass(frozen=True)
class State:
    """Where a version stands, and why it is refused."""

    name: str
    version: int
    state: Literal["ready", "refused", "unloaded"]
    reason: str = ""


class Catalogue:
    """Predictors by name and version. Safe for many threads; loading happens one at a time."""

    def __init__(self, repository: Repository, device: str = "cpu", tunings: Tunings | None = None) -> None:
        self.repository = repository
        self._device, self._tunings = device, tunings
        self._loaded: dict[Key, Predictor] = {}
        self._verdicts: dict[Key, Verdict] = {}
        self._loading = threading.Lock()

    def load_newest(self) -> list[Predictor]:
        """Load the newest good version of every name. What is refused is kept with its reason."""
        loaded = []
        for name in self.repository.names():
            try:
                loaded.append(self.get(name))
            except InvalidBundle:
                continue
        return loaded

    def loaded(self) -> list[Predictor]:
        """The predictors in memory, by name and version."""
        return [predictor for _, predictor in sorted(self._loaded.items())]

    def find(self, name: str, version: int | None = None) -> Predictor | None:
        """A predictor that is in memory already, or None. Reads a folder's listing and nothing else."""
        versions = self._versions(name, version)
        return self._loaded.get((name, versions[0])) if versions else None

    def get(self, name: str, version: int | None = None) -> Predictor:
        """A predictor, loaded when it is not yet.

        version: None is the newest that can be served. Raises UnknownModel, naming those there are, or InvalidBundle
        with the reason when none of the versions asked for can be served.
        """
        reasons = []
        for candidate in self._versions(name, version):
            try:
                return self._load(name, candidate)
            except InvalidBundle as error:
                reasons.append(f"version {candidate}: {error}")
        if reasons:
            raise InvalidBundle(f"{name} cannot be served. {' '.join(reasons)}")
        raise self._unknown(name, version)

    def states(self) -> list[State]:
        """Every version of every name, newest first. What is not loaded is looked at again when its files change."""
        versions = [(name, version) for name in self.repository.names() for version in self.repository.versions(name)]
        return [self._state(key) for key in versions]

    def _state(self, key: Key) -> State:
        if key in self._loaded:
            return State(*key, "ready")
        stamps, verdict = self._stamps(key), self._verdicts.get(key)
        if verdict is None or verdict.stamps != stamps:
            verdict = self._verdicts[key] = Verdict(self.repository.entry(*key).reason, stamps)
        return State(*key, "refused" if verdict.reason else "unloaded", verdict.reason)

    def _versions(self, name: str, version: int | None) -> list[int]:
        versions = self.repository.versions(name)
        return versions if version is None else [known for known in versions if known == version]

    def _load(self, name: str, version: int) -> Predictor:
        key = (name, version)
        if key in self._loaded:
            return self._loaded[key]
        with self._loading:
            if key in self._loaded:
                return self._loaded[key]
            stamps = self._stamps(key)
            verdict = self._verdicts.get(key)
            if verdict is not None and verdict.reason and verdict.stamps == stamps:
                raise InvalidBundle(verdict.reason)
            try:
                predictor = self._read(name, version)
            except InvalidBundle as error:
                self._verdicts[key] = Verdict(str(error), stamps)
                raise
            self._loaded[key] = predictor
            return predictor

    def _read(self, name: str, version: int) -> Predictor:
        try:
            return Predictor.load(self.repository, name, version, self._device, self._tunings)
        except OSError as error:
            raise InvalidBundle(f"{name}/{version} cannot be read: {error.strerror}.") from error

    def _stamps(self, key: Key) -> tuple[int, ...]:
        folder = self.repository.root / key[0] / str(key[1])
        return tuple(_stamp(folder / file) for file in (MANIFEST, PROGRAM, WEIGHTS))

    def _unknown(self, name: str, version: int | None) -> UnknownModel:
        if version is not None and (versions := self.repository.versions(name)):
            return UnknownModel(f"{name} has no version {version}; it has {', '.join(map(str, versions))}.")
        names = ", ".join(self.repository.names()) or "none: publish one with `mcdrop publish` or `mcdrop train`"
        return UnknownModel(f"there is no model {name!r}; there are {names}.")


def _stamp(path: Path) -> int:
    """When a file was last touched, its permissions included; 0 when nothing can be learned of it."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return 0
