"""The provenance of a result, as HTTP headers and as members of a .npz file: written here and read by the client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcdrop.wire.npy import Array

# The name of the deferred rows among the measures.
DEFER = "defer"


@dataclass(frozen=True)
class Provenance:
    """What produced a result: enough to repeat it.

    Attributes:
        model: The name of the model.
        version: Its version.
        passes: The number of passes, or the most of a row with a tolerance.
        seed: The seed of the noise.
        sampling: How the noise of different passes relates.
        masks: Whether rows share the noise of a pass.
        branches: How many passes share all noise but that of the last sites.
        noise: The version of the noise.
        labels: The names of the outputs; may be empty.
        quantiles: The levels of the quantiles; may be empty.
        defer_above: The thresholds by measure; may be empty.
    """

    model: str
    version: int
    passes: int
    seed: int
    sampling: str
    masks: str
    branches: int
    noise: int
    labels: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    defer_above: Mapping[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """The single values by name: all but labels, levels and thresholds."""
        return {name: getattr(self, name) for name in _TYPES}

    @property
    def members(self) -> dict[str, Any]:
        """The provenance as members of a .npz file, beside the measures."""
        lists = {
            "labels": self.labels,
            "quantile_levels": self.quantiles,
            "defer_measures": tuple(self.defer_above),
            "defer_thresholds": tuple(self.defer_above.values()),
        }
        return {**self.facts, **{name: values for name, values in lists.items() if values}}

    @property
    def headers(self) -> dict[str, str]:
        """The single values as HTTP headers."""
        model = {"Mcdrop-Model": f"{self.model}/{self.version}"}
        return model | {f"Mcdrop-{name.capitalize()}": str(self.facts[name]) for name in _TYPES if name not in _MODEL}

    @staticmethod
    def from_members(members: dict[str, Array]) -> "Provenance":
        """Take the provenance out of the members of a file.

        Args:
            members: The arrays of the file. Those of the provenance are removed.

        Returns:
            The provenance.

        Raises:
            KeyError: A member is missing.
            ValueError: A member has another type.
        """
        facts = {name: kind(members.pop(name)) for name, kind in _TYPES.items()}
        lists = ("labels", "quantile_levels", "defer_measures", "defer_thresholds")
        labels, levels, measures, thresholds = (members.pop(name).tolist() if name in members else [] for name in lists)
        above = dict(zip(measures, thresholds, strict=True))
        return Provenance(**facts, labels=tuple(labels), quantiles=tuple(levels), defer_above=above)

    @staticmethod
    def from_headers(headers: Mapping[str, str]) -> "Provenance":
        """Return the provenance that headers describe.

        Args:
            headers: The headers of a response, with names in lower case.

        Returns:
            The provenance that headers describe.

        Raises:
            KeyError: A header is missing.
            ValueError: A header has another type.
        """
        model, _, version = headers["mcdrop-model"].rpartition("/")
        others = {name: kind(headers[f"mcdrop-{name}"]) for name, kind in _TYPES.items() if name not in _MODEL}
        return Provenance(model=model, version=int(version), **others)


_TYPES: dict[str, Any] = {
    "model": str, "version": int, "passes": int, "seed": int, "sampling": str, "masks": str, "branches": int,
    "noise": int,
}  # fmt: skip
# These share one header.
_MODEL = {"model", "version"}
