"""Where in a network dropout may stand, and which kind suits what stands there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.spatial import SpatialDropout1d, SpatialDropout2d, SpatialDropout3d
from dropout_core.layers.standard import AlphaDropout, Dropout
from dropout_core.surgery.changes import Kind, Side, beside, child_path, named, paths_of
from dropout_core.surgery.flow import Flow, ModuleCall
from dropout_core.surgery.roles import role_of

_USUAL: Mapping[int, Kind] = {0: Dropout, 1: SpatialDropout1d, 2: SpatialDropout2d, 3: SpatialDropout3d}
_HAS_ONE = "already, {}; set_rates sets its rate"


@dataclass(frozen=True)
class Place:
    """A module beside which dropout may stand, or a function; the kind that suits it; why it is to be left alone."""

    path: str
    what: nn.Module | str
    kind: Kind | None
    why_not: str = ""


def usual(space: int, activation: nn.Module | None = None) -> Kind:
    """The kind for units (space 0) and for maps of so many axes; SELU's mean and variance are to be kept."""
    if isinstance(activation, nn.SELU):
        return nn.FeatureAlphaDropout if space else AlphaDropout
    return _USUAL[space]


def space_of(what: nn.Module | str) -> int:
    """Over how many axes a convolution runs; 0 for any other layer."""
    if isinstance(what, _ConvNd):
        return len(what.kernel_size)
    match = re.fullmatch(r"conv(?:_transpose)?(\d)d", what) if isinstance(what, str) else None
    return int(match[1]) if match else 0


def heads(flow: Flow) -> Iterator[Place]:
    """The last layers with weights. Raises InvalidInput where one is not linear."""
    for number in sorted(flow.last()):
        call = flow.calls[number]
        if call.role != "weights":
            continue
        if not isinstance(call.what, nn.Linear | _ConvNd):
            what = call.what if isinstance(call.what, str) else type(call.what).__name__
            raise InvalidInput(
                f"the output comes from {what} at {call.place!r}, which is no nn.Linear or convolution that is called "
                "as a module. Give an example, which shows what runs inside, or name modules: names=[...]."
            )
        before = _all_drop([flow.calls[each] for each in call.sources], "after")
        yield Place(
            call.place, call.what, usual(space_of(call.what)), before and f"a dropout stands before it {before}"
        )


def activations(model: nn.Module, flow: Flow, names: Sequence[str] | None) -> Iterator[Place]:
    """All activations, functions too, or those named. Raises InvalidInput for a name that is none, or is idle."""
    runs: dict[nn.Module, list[int]] = {}
    for number, call in enumerate(flow.calls):
        if call.role != "activation":
            continue
        if isinstance(call.what, nn.Module):
            runs.setdefault(call.what, []).append(number)
        elif names is None:
            yield Place(call.place, call.what, None, "a function inside a forward: only modules can be followed by one")
    paths = {module: ", ".join(each) for module, each in paths_of(model).items()}
    chosen = list(runs) if names is None else named(model, names)
    for module in chosen:
        if module not in runs:
            raise InvalidInput(f"{paths[module]!r} is no activation that is seen to run; give a kind to drop after it.")
        yield _after(flow, paths[module], module, runs[module])
    idle = [] if names is not None else [each for each in paths if role_of(each) == "activation" and each not in runs]
    for module in idle:
        yield Place(paths[module], module, None, "it is not seen to run; an example shows what runs inside torch's own")


def _after(flow: Flow, path: str, module: nn.Module, numbers: Sequence[int]) -> Place:
    """The place after an activation that runs once or several times."""
    followed = next((after for each in numbers if (after := _all_drop(flow.readers(each), "before"))), "")
    if not flow.last().isdisjoint(numbers):
        return Place(path, module, None, "it makes the output: no layer with weights comes after it")
    if followed:
        return Place(path, module, None, f"a dropout follows it {followed}")
    spaces = {_space_at(flow, flow.calls[number]) for number in numbers}
    space = spaces.pop() if len(spaces) == 1 else None
    return Place(path, module, None if space is None else usual(space, module))


def _space_at(flow: Flow, call: ModuleCall) -> int | None:
    """Over how many axes maps extend that a call gets, 0 for units, None where that cannot be told."""
    spaces = set[int | None]()
    for number, same_axes in flow.layers(call.sources).items():
        space = space_of(flow.calls[number].what)
        if call.axes is not None:
            spaces.add(space if call.axes == space + 2 else 0)
        else:
            spaces.add(space if same_axes or space == 0 else None)
    return spaces.pop() if len(spaces) == 1 else None


def _all_drop(calls: Sequence[ModuleCall], side: Side) -> str:
    """Where all of these are dropouts, or have one on that side: the place of the first; otherwise an empty string."""
    dropping = [
        call.place if call.role == "dropout" else child_path(call.place, f"dropout_{side}")
        for call in calls
        if call.role == "dropout" or (isinstance(call.what, nn.Module) and beside(call.what, side) is not None)
    ]
    return _HAS_ONE.format(dropping[0]) if dropping and len(dropping) == len(calls) else ""
