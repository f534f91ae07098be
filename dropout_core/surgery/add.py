"""Dropout for a network: before its heads, after its activations, on its attention."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate
from dropout_core.surgery.attention import drop_attention
from dropout_core.surgery.changes import Beside, Kind, Side, beside, built, child_path, move, named
from dropout_core.surgery.flow import Flow
from dropout_core.surgery.fx_trace import trace_by_fx
from dropout_core.surgery.places import Place, activations, heads, space_of, usual
from dropout_core.surgery.report import Notes, Report, described
from dropout_core.surgery.run_trace import trace_by_running

Where = Literal["head", "activations", "attention"]


def add_dropout(
    model: nn.Module,
    p: float,
    where: Where = "head",
    *,
    names: Sequence[str] | None = None,
    kind: Kind | None = None,
    example: Tensor | tuple[Any, ...] | None = None,
) -> Report:
    """Give a network dropout with probability p. It is changed in place; the names of its weights stay as they are.

    where:

    * "head": before the last layer with weights, nn.Linear or a convolution; where several lead to the output with no
      other one after them, as in a network with several heads, before each;
    * "activations": after every activation module that runs, except the output's own;
    * "attention": nn.MultiheadAttention, in torch's transformer layers too, becomes one of ours
      (dropout_core.layers.MultiheadAttention) with the same weights. Where ours cannot stand in, as for rows that are
      not first, torch's own attribute `dropout` is set; the report says so.

    names: paths of modules, and then nothing is searched: the dropout stands before each of them ("head"), after each
    ("activations"; any module, given a kind), or in the attention at or below them. Of an nn.Sequential it is the first
    or the last module. A batch norm can hold none. A module whose forward runs whatever children it has would run the
    new one as well: name one inside it. One that is called past its hooks, as module.forward(x), does not drop.

    kind: a class, or a function of p that makes a layer, such as lambda p: DropBlock2d(p, 7); for attention one that
    makes an AttentionDropout. Without it units are dropped around linear layers, channels around convolutions, and
    after SELU the alpha form of either. A kind with parameters adds them to the model and its state_dict: tell the
    optimiser.

    example: an input, or a tuple of all inputs. What runs, and on what, is found by torch.fx, or, given an example, by
    running it once in eval mode: for networks that cannot be traced, and to look inside torch's own transformer layers.

    What has a dropout at its place already is left alone. What it means to drop in a network that was trained without
    dropout, the package says. Raises InvalidInput, and changes nothing, for a p outside 0 … 1, a path that leads
    nowhere, a network that cannot be traced, given no example, and where there is no place.
    """
    p = checked_rate(p)
    if where not in get_args(Where):
        known = ", ".join(repr(each) for each in get_args(Where))
        raise InvalidInput(f"where is {where!r}; it is one of {known}. Other places go by names=[...].")
    notes = Notes(f"add_dropout(p={p}, where={where!r})")
    if where == "attention":
        return notes.report(drop_attention(model, p, names, kind, notes))
    side: Side = "before" if where == "head" else "after"
    if names is not None and (side == "before" or kind is not None):
        places = [_named(path, module, side, kind) for path, module in zip(names, named(model, names), strict=True)]
    else:
        flow = _flow(model, example)
        places = list(heads(flow) if side == "before" else activations(model, flow, names))
    if not any(isinstance(place.what, nn.Module) for place in places):
        functions = ", ".join(f"{place.what} at {place.path}" for place in places)
        seen = f"; {functions} can hold none" if functions else ""
        raise InvalidInput(f"no {where} that dropout could be put {side} was found{seen}. Name modules: names=[...].")
    # A module may be named, or run, more than once.
    once = {place.what if isinstance(place.what, nn.Module) else place.path: place for place in places}.values()
    return notes.report([change for place in once for change in _changes(model, place, side, kind, p, notes)])


def _flow(model: nn.Module, example: Any) -> Flow:
    if example is not None:
        return trace_by_running(model, example)
    try:
        return trace_by_fx(model)
    except InvalidInput as error:
        raise InvalidInput(f"{error}. Give an example, which is run, or name modules: names=[...].") from error


def _changes(model: nn.Module, place: Place, side: Side, kind: Kind | None, p: float, notes: Notes) -> Iterator[Beside]:
    """What to do at a place, if anything, and a note of it."""
    if isinstance(place.what, str):
        notes.left(place.path, place.what, place.why_not)
        return
    module, chosen, why_not = place.what, kind or place.kind, place.why_not
    if beside(module, side) is not None:
        why_not = f"it has {child_path(place.path, f'dropout_{side}')} already; set_rates sets its rate"
    elif chosen is None and not why_not:
        why_not = "whether units or maps reach it cannot be told; give a kind or an example"
    if why_not or chosen is None:
        notes.left(place.path, described(module), why_not)
        return
    layer = built(chosen, p)
    change = Beside(place.path, module, side, layer)
    now = f"{described(layer)} {side} it, {child_path(place.path, change.name)}"
    notes.changed(place.path, described(module), now)
    move(layer, module, model)
    yield change


def _named(path: str, module: nn.Module, side: Side, kind: Kind | None) -> Place:
    """The place that a path names. Raises InvalidInput for what runs nothing itself, and where no kind is usual."""
    while type(module).forward is nn.Sequential.forward and len(module._modules) > 0:
        name, child = list(module._modules.items())[0 if side == "before" else -1]
        path, module = child_path(path, name), child  # type: ignore[assignment]
    if isinstance(module, _NormBase):
        raise InvalidInput(
            f"{path!r} is a {type(module).__name__}, which often is in eval mode by itself; a dropout that it holds "
            "would be, too. Name the module before or after it."
        )
    if type(module).forward in (nn.Module.forward, nn.Sequential.forward):
        raise InvalidInput(f"{path!r} is a {type(module).__name__} and runs nothing itself; name a module inside it.")
    suited = kind
    if kind is None:
        if not isinstance(module, nn.Linear | _ConvNd):
            raise InvalidInput(f"{path!r} is a {type(module).__name__}, beside which no kind is usual; give one.")
        suited = usual(space_of(module))
    return Place(path, module, suited)
