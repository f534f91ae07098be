"""Which layers the output of a network comes from, and what each of them reads.

The order in which modules are registered says nothing about the order in which they run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_stack

import torch
from torch import nn

from dropout_core.surgery.roles import Role

_NOT_THE_CALLERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "<eval_with_key>")

# The calls a value comes from, with nothing between that has a role: by number, and whether the axes are still theirs.
Sources = dict[int, bool]


@dataclass(frozen=True)
class ModuleCall:
    """One run of a module, or of a function that does what a layer does.

    place: the module's path, or the function's line. what: the module, or the function's name. sources: of its inputs.
    axes: how many its output has, where that is known.
    """

    place: str
    what: nn.Module | str
    role: Role
    sources: Sources
    axes: int | None = None


@dataclass
class Flow:
    """All calls in the order they run, and where the output comes from."""

    calls: list[ModuleCall] = field(default_factory=list)
    output: Sources = field(default_factory=dict)

    def layers(self, sources: Sources) -> Sources:
        """The nearest layers with weights, back through activations and dropouts."""
        found: Sources = {}
        for number, same_axes in sources.items():
            call = self.calls[number]
            beyond = {number: True} if call.role == "weights" else self.layers(call.sources)
            merge_sources(found, {layer: same and same_axes for layer, same in beyond.items()})
        return found

    def last(self) -> set[int]:
        """The calls that reach the output without a layer with weights in between, and no other way.

        The second part is for sums: by skip connections, earlier blocks reach the output, too.
        """
        near = self._back(self.output, lambda call: call.role != "weights")
        layers = [self.calls[number] for number in near if self.calls[number].role == "weights"]
        return near.difference(*(self._back(layer.sources, lambda _: True) for layer in layers))

    def readers(self, number: int) -> list[ModuleCall]:
        """Who reads what a call returns."""
        return [call for call in self.calls if number in call.sources]

    def _back(self, sources: Sources, through: Callable[[ModuleCall], bool]) -> set[int]:
        """All calls before; those that `through` refuses are there, but not what is before them."""
        found, front = set[int](), set(sources)
        while front:
            found |= front
            front = {n for each in front if through(self.calls[each]) for n in self.calls[each].sources} - found
        return found


def merge_sources(into: Sources, more: Sources) -> None:
    """Add sources; of those that come on two ways the axes are the same when they are on both."""
    for number, same_axes in more.items():
        into[number] = same_axes and into.get(number, True)


def callers_line() -> str:
    """The innermost line of the caller's own code that is running, such as "net.py:12"."""
    places = ((frame.f_code.co_filename, line) for frame, line in walk_stack(None))
    return next((f"{file}:{line}" for file, line in places if not file.startswith(_NOT_THE_CALLERS)), "")


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All modules in one mode, and then in their own again."""
    modes = {module: module.training for module in model.modules()}
    try:
        # Not by model.train, which some networks make keep parts of themselves in eval mode.
        for module in modes:
            module.training = training
        yield
    finally:
        for module, own in modes.items():
            module.training = own
