"""Another kind of dropout at the same rates."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dropout_core.layers.classic import ClassicDropout
from dropout_core.layers.embedding import WordDropout
from dropout_core.layers.graph import DropEdge
from dropout_core.layers.path import DropPath
from dropout_core.layers.selection import rates_of
from dropout_core.surgery.changes import Instead, Kind, built, move, named, paths_of, slots_of, within
from dropout_core.surgery.functions import note_functions
from dropout_core.surgery.report import Change, Notes, Report, described
from dropout_core.surgery.roles import is_dropout


def replace_dropout(model: nn.Module, kind: Kind, where: Sequence[str] | None = None) -> Report:
    """Put another kind of dropout at the same p in the place of every dropout layer. The model is changed in place.

    kind: a class, or a function of p that makes a layer, such as lambda p: DropBlock2d(p, 7). One that is the identity
    in eval mode leaves the network's answers there as they are. A kind with parameters, as ConcreteDropout, which
    begins at p, adds them to the model and its state_dict: tell the optimiser. where: paths of dropouts, or of modules
    whose dropouts are meant.

    Torch's layers and this library's are replaced where they take one value and drop parts of it at one rate; a layer
    that is registered in several places becomes one new layer in all of them. A dropout in place (inplace=True) becomes
    one that is not, unless the kind is. Left alone, with the reason: learned rates, several rates, layers with weights,
    layers whose eval mode is not the identity, of tokens or of edges, and the dropout inside torch's attention and
    recurrent layers. Functions inside a forward are listed where torch.fx can trace the network. Other libraries'
    layers are not known.

    Raises InvalidInput, and changes nothing, for a path that leads nowhere, for a kind that makes no layer, or whose
    bounds a rate exceeds.
    """
    notes = Notes(f"replace_dropout(kind={getattr(kind, '__name__', kind)})")
    if where is not None:
        named(model, where)
    changes: list[Change] = []
    for layer, paths in paths_of(model).items():
        if where is not None and not any(within(path, where) for path in paths):
            continue
        if not is_dropout(layer) and not _drops_inside(layer):
            continue
        path, slots, reason = ", ".join(paths), slots_of(model, layer), _why_not(layer)
        if reason or not slots:
            notes.left(path, described(layer), reason or "it is the network itself")
            continue
        p: Any = layer.p
        new = built(kind, p)
        if type(new) is type(layer) and described(new) == described(layer):
            notes.left(path, described(layer), "it is so already")
            continue
        notes.changed(path, described(layer), described(new))
        move(new, layer, model)
        changes.append(Instead(path, slots, layer, new))
    remark = note_functions(model, notes) if where is None else ""
    return notes.report(changes, remark)


def _drops_inside(layer: nn.Module) -> bool:
    """Whether a layer of torch drops between its own weights."""
    return rates_of(layer) == ("dropout",) and bool(vars(layer)["dropout"])


def _why_not(layer: nn.Module) -> str:
    """Why a dropout cannot be replaced; an empty string where it can."""
    rates = rates_of(layer)
    reasons = {
        "it drops inside torch's own code; add_dropout(where='attention') or a Variational layer replaces it": rates
        == ("dropout",),
        "it has several rates": len(rates) > 1,
        "it has no rate of its own, or learns it": not rates,
        "it has weights, or a branch, of its own": any(True for _ in layer.children())
        or any(True for _ in layer.parameters()),
        "it drops tokens": isinstance(layer, WordDropout),
        "it drops edges": isinstance(layer, DropEdge),
        "its eval mode multiplies by 1 − p": isinstance(layer, ClassicDropout)
        or (isinstance(layer, DropPath) and layer.classic),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
