"""The models that a server holds: loaded, verified and timed.

One version of each name is current. A newer version replaces it once it is loaded, and never if it is refused. A
request keeps the model that it began with. Beyond a limit of bytes, the least recently used model is dropped and loaded
again on demand.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcdrop.errors import Unloaded
from mcdrop.inference.cost import RowCost, measure_row_cost
from mcdrop_models.bundle.repository import FILE_NAMES, Repository
from mcdrop_models.errors import InvalidBundle, UnknownModel
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import TuningCache
from mcdrop_models.onnx.runtime.options import Backends

_log = logging.getLogger("mcdrop")
ModelKey = tuple[str, int]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A predictor in memory.

    Attributes:
        predictor: The predictor.
        cost: What its rows cost on this machine.
    """

    predictor: Predictor
    cost: RowCost

    @property
    def name(self) -> str:
        """The name that the model was published under."""
        return self.predictor.manifest.name

    @property
    def version(self) -> int:
        """The version of the model."""
        return self.predictor.version


@dataclass(frozen=True)
class Verdict:
    """What is known about a version that is not loaded.

    Attributes:
        reason: Why it is refused; empty if nothing is known against it.
        stamps: When each of its files had last changed.
    """

    reason: str
    stamps: tuple[int, ...]


@dataclass(frozen=True)
class VersionState:
    """The state of a version.

    Attributes:
        name: The name of the model.
        version: The version.
        state: Whether it is loaded, being loaded, refused or not in memory.
        reason: Why it is refused; empty otherwise.
    """

    name: str
    version: int
    state: Literal["ready", "loading", "refused", "unloaded"]
    reason: str = ""


class Catalogue:
    """Models by name and version. Safe for many threads; models are loaded one at a time.

    Args:
        repository: The bundles.
        device: Where to load the weights.
        tunings: Where measured choices are kept; None measures nothing.
        max_bytes: The most bytes of weights in memory; None sets no limit.
        backends: The backends to use; None lets each bundle decide.
    """

    def __init__(
        self,
        repository: Repository,
        device: str = "cpu",
        tunings: TuningCache | None = None,
        max_bytes: int | None = None,
        backends: Backends | None = None,
    ) -> None:
        self.repository = repository
        self._device, self._tunings, self._max_bytes, self._backends = device, tunings, max_bytes, backends
        self._loaded: dict[ModelKey, LoadedModel] = {}  # the least recently used first
        self._current: dict[str, int] = {}
        self._closed: set[str] = set()
        self._verdicts: dict[ModelKey, Verdict] = {}
        self._being_loaded: ModelKey | None = None
        self._held: Counter[LoadedModel] = Counter()
        self._loading, self._changed = threading.Lock(), threading.Condition()

    def loaded(self) -> list[LoadedModel]:
        """Return the models in memory, sorted by name and version."""
        with self._changed:
            return [model for _, model in sorted(self._loaded.items())]

    def find(self, name: str, version: int | None = None) -> LoadedModel | None:
        """Return a model that is in memory, or None. Reads no file.

        Args:
            name: The name of the model.
            version: The version; None for the current one.

        Returns:
            A model that is in memory, or None.
        """
        with self._changed:
            key = (name, self._current.get(name, 0) if version is None else version)
            model = self._loaded.pop(key, None)
            if model is not None:
                self._loaded[key] = model
            return model

    def get(self, name: str, version: int | None = None) -> LoadedModel:
        """Return a model, and load it if it is not in memory.

        Args:
            name: The name of the model.
            version: The version; None for the current one, or the newest that can be served if none is current.

        Returns:
            A model.

        Raises:
            UnknownModel: There is no such model. The message names those there are.
            Unloaded: An operator took the model out of service.
            InvalidBundle: The bundle is refused. The message has the reason.
        """
        with self._loading:
            self._refuse_closed(name)
            found = self.find(name, version)
            if found is not None:
                return found
            if version is not None:
                return self._load_version(name, version)
            if name in self._current:
                with suppress(UnknownModel, InvalidBundle):  # removed or changed since: another version may work
                    return self._load_version(name, self._current[name])
            return self._load_newest(name)

    def expect(self, name: str, version: int | None) -> None:
        """Refuse a model that `get` cannot load, without waiting for a model that is being loaded.

        Args:
            name: The name of the model.
            version: The version; None for the current one.

        Raises:
            UnknownModel: There is no such model.
            Unloaded: An operator took the model out of service.
        """
        versions = self.repository.versions(name)
        if not versions or (version is not None and version not in versions):
            raise self.repository.unknown(name, version)
        self._refuse_closed(name)

    def load(self, name: str) -> LoadedModel:
        """Put a model into service, and make its newest valid version current.

        Args:
            name: The name of the model.

        Returns:
            The model.

        Raises:
            UnknownModel: There is no such model.
            InvalidBundle: No version can be served.
        """
        with self._loading:
            model = self._load_newest(name)
            self._closed.discard(name)
            return model

    def refresh(self) -> None:
        """Load new versions in the repository, and drop those that were removed. Unloaded models stay unloaded."""
        names = self.repository.names()
        for name in sorted({*names, *self._current} - self._closed):
            with self._loading:
                versions = self.repository.versions(name)
                self._forget_gone(name, versions)
                wanted = next((version for version in versions if self._may_load(name, version)), 0)
                if not wanted:
                    self._forget(name)
                elif wanted != self._current.get(name):
                    with suppress(InvalidBundle, UnknownModel):
                        self._load_newest(name)

    def unload(self, name: str, patience_s: float) -> None:
        """Take a model out of service, and wait for the requests that hold it.

        Args:
            name: The name of the model.
            patience_s: The most seconds to wait.

        Raises:
            UnknownModel: There is no such model.
        """
        with self._loading:
            if not self.repository.versions(name) and name not in self._current:
                raise self.repository.unknown(name, None)
            self._closed.add(name)
            gone = self._forget(name)
        with self._changed:
            self._changed.wait_for(lambda: not any(self._held[model] for model in gone), patience_s)

    @contextmanager
    def holding(self, model: LoadedModel) -> Iterator[None]:
        """Hold a model while a request needs it.

        Args:
            model: The model.
        """
        with self._changed:
            self._held[model] += 1
        try:
            yield
        finally:
            with self._changed:
                self._held[model] -= 1
                if not self._held[model]:
                    del self._held[model]
                    self._changed.notify_all()

    def states(self) -> list[VersionState]:
        """Return the state of every version of every model, the newest first. Changed files are looked at again."""
        versions = [(name, version) for name in self.repository.names() for version in self.repository.versions(name)]
        return [self._state(key) for key in versions]

    def _state(self, key: ModelKey) -> VersionState:
        if key in self._loaded:
            return VersionState(*key, "ready")
        if key == self._being_loaded:
            return VersionState(*key, "loading")
        stamps, verdict = self._stamps(key), self._verdicts.get(key)
        if verdict is None or verdict.stamps != stamps:
            verdict = self._judge(key, self.repository.entry(*key).reason, stamps)
        return VersionState(*key, "refused" if verdict.reason else "unloaded", verdict.reason)

    def _load_newest(self, name: str) -> LoadedModel:
        """Load the newest valid version, and make it current."""
        reasons = []
        for version in self.repository.versions(name):
            try:
                model = self._load_version(name, version)
            except InvalidBundle as error:
                reasons.append(f"version {version}: {error}")
            else:
                self._make_current(model)
                return model
        if reasons:
            raise InvalidBundle(f"{name} cannot be served. {' '.join(reasons)}")
        raise self.repository.unknown(name, None)

    def _load_version(self, name: str, version: int) -> LoadedModel:
        if version not in self.repository.versions(name):
            raise self.repository.unknown(name, version)
        key = (name, version)
        found = self.find(name, version)
        if found is not None:
            return found
        if not self._may_load(name, version):
            raise InvalidBundle(self._verdicts[key].reason)
        stamps = self._stamps(key)
        self._being_loaded = key
        try:
            model = self._read(name, version)
        except InvalidBundle as error:
            self._judge(key, str(error), stamps)
            raise
        finally:
            self._being_loaded = None
        with self._changed:
            self._loaded[key] = model
            self._make_room()
        return model

    def _judge(self, key: ModelKey, reason: str, stamps: tuple[int, ...]) -> Verdict:
        """Remember why a version is refused, and log it."""
        if reason:
            _log.warning("%s/%s is not served: %s", *key, reason)
        verdict = self._verdicts[key] = Verdict(reason, stamps)
        return verdict

    def _refuse_closed(self, name: str) -> None:
        if name in self._closed:
            raise Unloaded(f"{name} was unloaded; an operator can load it: POST /v2/repository/models/{name}/load.")

    def _may_load(self, name: str, version: int) -> bool:
        """Return whether nothing is known against a version, or its files have changed since."""
        verdict = self._verdicts.get((name, version))
        return verdict is None or not verdict.reason or verdict.stamps != self._stamps((name, version))

    def _read(self, name: str, version: int) -> LoadedModel:
        try:
            predictor = Predictor.load(self.repository, name, version, self._device, self._tunings, self._backends)
        except OSError as error:
            raise InvalidBundle(f"{name}/{version} cannot be read: {error.strerror}.") from error
        if self._max_bytes is not None and predictor.nbytes > self._max_bytes:
            raise InvalidBundle(
                f"{name}/{version} has {predictor.nbytes} bytes of weights; this server holds up to {self._max_bytes}."
            )
        try:
            return LoadedModel(predictor, measure_row_cost(predictor))
        except Exception as error:  # a hostile program may raise anything on rows other than the probe
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InvalidBundle(f"{name}/{version} does not run: {type(error).__name__}: {reason}") from error

    def _make_current(self, model: LoadedModel) -> None:
        with self._changed:
            before = self._current.get(model.name)
            self._current[model.name] = model.version
            if before is not None and before != model.version:
                self._loaded.pop((model.name, before), None)

    def _make_room(self) -> None:
        """Drop the least recently used models. The one loaded last fits alone, so it stays."""
        while self._max_bytes is not None and self._held_bytes() > self._max_bytes:
            del self._loaded[next(iter(self._loaded))]

    def _held_bytes(self) -> int:
        return sum(model.predictor.nbytes for model in self._loaded.values())

    def _forget(self, name: str) -> list[LoadedModel]:
        with self._changed:
            self._current.pop(name, None)
            return [self._loaded.pop(key) for key in list(self._loaded) if key[0] == name]

    def _forget_gone(self, name: str, versions: Collection[int]) -> None:
        """Drop versions that are loaded but no longer in the repository, other than the current one."""
        with self._changed:
            kept = {*versions, self._current.get(name)}
            for key in [key for key in self._loaded if key[0] == name and key[1] not in kept]:
                del self._loaded[key]

    def _stamps(self, key: ModelKey) -> tuple[int, ...]:
        folder = self.repository.root / key[0] / str(key[1])
        return tuple(_stamp(folder / file) for file in FILE_NAMES)


def _stamp(path: Path) -> int:
    """Return when a file or its permissions last changed; 0 if that cannot be read."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return 0
