"""The rates of the dropouts a network has."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate
from dropout_core.layers.selection import rates_of
from dropout_core.surgery.changes import RateChange, child_path, paths_of
from dropout_core.surgery.functions import note_functions
from dropout_core.surgery.report import Notes, Report, described
from dropout_core.surgery.roles import is_dropout

Rates = float | Mapping[str, float] | Callable[[str, nn.Module], float]


def set_rates(model: nn.Module, rates: Rates) -> Report:
    """Set drop probabilities, in place.

    rates:

    * a number: that of every layer with one rate, of torch's and this library's;
    * {path: p}: of the layers named and of no other. The path of a layer with one rate will do; a rate among several
      has its name behind, as in "lstm.p_recurrent", and so have those inside torch's attention and recurrent layers,
      as in "encoder.self_attn.dropout";
    * a function (path, layer) → p of the layers with one rate.

    Learned rates are left alone, and functions inside a forward, which are listed where torch.fx can trace the network.
    Other libraries' layers are not known. A schedule that drives the same layers sets its own rates at its next step.

    Raises InvalidInput, and changes nothing, for a rate outside 0 … 1 or the layer's own bounds, and for a name that is
    no rate.
    """
    notes, changes, known = Notes("set_rates"), list[RateChange](), set[str]()
    for layer, paths in paths_of(model).items():
        attributes = rates_of(layer)
        if not attributes and is_dropout(layer):
            notes.left(", ".join(paths), described(layer), "it has no rate of its own, or learns it")
        for attribute in attributes:
            keys = [child_path(path, attribute) for path in paths] + (paths if attributes == ("p",) else [])
            known.update(keys)
            changes += _changes(_Rate(layer, attribute, paths, keys), rates, notes)
    if isinstance(rates, Mapping) and (unknown := [name for name in rates if name not in known]):
        raise InvalidInput(f"the model has no rates {unknown}; it has {sorted(known)}.")
    return notes.report(changes, note_functions(model, notes))


@dataclass(frozen=True)
class _Rate:
    """A drop probability that can be set, the paths of its layer, and the names it goes by."""

    layer: nn.Module
    attribute: str
    paths: list[str]
    names: list[str]


def _changes(rate: _Rate, rates: Rates, notes: Notes) -> Iterator[RateChange]:
    """What to do to a rate, if anything, and a note of it."""
    alone = rate.attribute == "p"
    path = ", ".join(rate.paths if alone else (child_path(each, rate.attribute) for each in rate.paths))
    value: Any = None
    why_not = ""
    if isinstance(rates, Mapping):
        value, why_not = _of_names(rate, rates), "it is not named"
    elif not alone:
        why_not = f"it is set by name only: {{{rate.names[0]!r}: …}}"
    else:
        value = rates(rate.paths[0], rate.layer) if callable(rates) else rates
    now = getattr(rate.layer, rate.attribute)
    if why_not and value is None:
        notes.left(path, described(rate.layer), why_not)
    elif checked_rate(value, path) == now:
        notes.left(path, described(rate.layer), f"it is {now} already")
    else:
        notes.changed(path, described(rate.layer), f"{rate.attribute}={float(value)}")
        yield RateChange(path, rate.layer, rate.attribute, float(value))


def _of_names(rate: _Rate, rates: Mapping[str, float]) -> float | None:
    """What a dictionary says of a rate. Raises InvalidInput where it says two things."""
    said = [rates[name] for name in rate.names if name in rates]
    if len(set(said)) > 1:
        raise InvalidInput(
            f"{', '.join(rate.paths)} is one layer, and the rates {said} are given for it; one is wanted."
        )
    return said[0] if said else None
