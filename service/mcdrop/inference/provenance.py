"""What an answer says beside its numbers, as headers and as members of a .npz file: written here and read here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Provenance:
    """What was run: enough to repeat it.

    labels, quantiles, defer_above: names of columns, levels, and thresholds by measure; empty where there are none.
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
        """The run without its names and levels."""
        return {name: getattr(self, name) for name in _KINDS}

    @property
    def members(self) -> dict[str, Any]:
        """The run as members of a .npz file, to stand beside the measures."""
        lists = {
            "labels": self.labels,
            "quantile_levels": self.quantiles,
            "defer_measures": tuple(self.defer_above),
            "defer_thresholds": tuple(self.defer_above.values()),
        }
        return {**self.facts, **{name: values for name, values in lists.items() if values}}

    @property
    def headers(self) -> dict[str, str]:
        """The run without its names and levels as headers of HTTP."""
        model = {"Mcdrop-Model": f"{self.model}/{self.version}"}
        return model | {f"Mcdrop-{name.capitalize()}": str(self.facts[name]) for name in _KINDS if name not in _NAMED}

    @staticmethod
    def taken(members: dict[str, NDArray[Any]]) -> "Provenance":
        """The run, taken out of the members of a file. Raises KeyError or ValueError where it is not there."""
        facts = {name: kind(members.pop(name)) for name, kind in _KINDS.items()}
        lists = ("labels", "quantile_levels", "defer_measures", "defer_thresholds")
        labels, levels, measures, thresholds = (members.pop(name).tolist() if name in members else [] for name in lists)
        above = dict(zip(measures, thresholds, strict=True))
        return Provenance(**facts, labels=tuple(labels), quantiles=tuple(levels), defer_above=above)

    @staticmethod
    def told(headers: Mapping[str, str]) -> "Provenance":
        """The run that headers tell. Raises KeyError or ValueError where they do not."""
        model, _, version = headers["mcdrop-model"].rpartition("/")
        others = {name: kind(headers[f"mcdrop-{name}"]) for name, kind in _KINDS.items() if name not in _NAMED}
        return Provenance(model=model, version=int(version), **others)


# The rows that are for a human, among the measures.
DEFER = "defer"
# The facts, and what each is.
_KINDS: dict[str, Any] = {
    "model": str, "version": int, "passes": int, "seed": int, "sampling": str, "masks": str, "branches": int,
    "noise": int,
}  # fmt: skip
# Those of one header.
_NAMED = {"model", "version"}
