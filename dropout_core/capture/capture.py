"""nn.Module → Program.

The model is cloned (sharing its parameters, so the caller's model and its modes are never touched), put in training
mode except for layers with running statistics, exported with a dynamic number of rows and functionalised. That
switches on functional, attention and recurrent dropout too, and leaves batch norm alone.

Two captures under different seeds must agree: what differs was drawn on the host and would be frozen.
"""

import contextlib
import copy
import io
import random
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _NormBase

from dropout_core.capture.arguments import Inputs, bind, spread
from dropout_core.capture.comparisons import rewrite_comparisons
from dropout_core.capture.decompositions import DECOMPOSITIONS
from dropout_core.capture.dynamic import Axes, Dynamic, dimensions, free_axes, refuse_constant
from dropout_core.capture.live import Live, look
from dropout_core.capture.outputs import Result
from dropout_core.capture.probe import two_rows
from dropout_core.capture.rows import assign_rows
from dropout_core.capture.sites import find_sites, is_callers
from dropout_core.capture.translate import Translation, translate
from dropout_core.errors import CaptureError, DataDependent, HostRandomness, NoSite
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import ROWS, Program
from dropout_core.graph.split import split

_lock = threading.RLock()
_SEEDS = (20_260, 70_201)


@dataclass(frozen=True)
class _Asked:
    """What to capture: example inputs by name, their free axes, the output that matters and its axis of classes."""

    example: NamedTensors
    axes: Axes
    result: Result
    class_axis: int | None


def capture(
    model: nn.Module,
    example: Inputs,
    *,
    dynamic: Dynamic | None = None,
    result: Result = None,
    class_axis: int | None = None,
) -> Program:
    """Capture a network as a Program.

    model: takes tensors, rows first, and returns some, rows first. The model is left as it was. example: a tensor
    [b, *F], at least one row, a tuple of the first arguments of forward, or a mapping by their names; used for shapes,
    dtypes and devices, and to see which values belong to which row. dynamic: the axes in which other inputs may differ,
    such as {"ids": {1: "length"}}, or a torch.export.Dim with bounds for the name; without, only the rows. result: the
    name or the place of the output that matters, where forward returns several. class_axis: of that output, see
    dropout_core.capture.outputs; a Program answers with the classes last.
    Raises CaptureError (NoSite, UnknownRandomness, HostRandomness, DataDependent), CoupledRows or InvalidInput.
    """
    rows = two_rows(bind(model, example))
    asked = _Asked(rows, free_axes(dynamic, rows), result, class_axis)
    refuse_constant(asked.axes, rows)
    with torch.no_grad():
        first, drew = _translate(model, asked, _SEEDS[0])
        second, _ = _translate(model, asked, _SEEDS[1])
    _refuse_host_randomness(first, second, drew)
    if not split(first.graph).suffix:
        raise NoSite(
            "no random operator reaches the output, so every pass would agree. Give the model a dropout with a rate "
            "above 0, for example nn.Dropout(0.2) before its last layer, and train it so."
        )
    weights = weights_of(look(model), first.graph.weights, first.constants)
    graph = assign_rows(Program(first.graph, weights), first.shapes, rows)
    return Program(graph, weights)


def clone(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares its parameters and has buffers of its own."""
    memo = {id(parameter): parameter for parameter in model.parameters()}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"the model cannot be copied: {error}. Hold no locks, files or graphs as attributes."
        ) from error


def stochastic(model: nn.Module) -> nn.Module:
    """Put a model in training mode, except for the layers with running statistics. Returns it."""
    model.train()
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.training = False  # its own mode only: a child of it may drop
    return model


def weights_of(live: Live, names: Iterable[str], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a graph by name, from the model as it is now; its constants as they were."""
    return {
        name: live.tensors[name.removeprefix("weights/")].detach() if name.startswith("weights/") else constants[name]
        for name in names
    }


@contextlib.contextmanager
def preserved_randomness(seed: int) -> Iterator[None]:
    """Seed torch, random and numpy (where it is loaded), and restore all three afterwards. One thread at a time."""
    numpy = sys.modules.get("numpy")
    with _lock, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        host, array = random.getstate(), numpy.random.get_state() if numpy else None
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(host)
            if numpy:
                numpy.random.set_state(array)


def _translate(model: nn.Module, asked: _Asked, seed: int) -> tuple[Translation, bool]:
    """One capture, and whether the forward drew from random or numpy."""
    copied = stochastic(clone(model))
    with preserved_randomness(seed):
        before = _host_state()
        exported = _export(copied, asked)
        owners = {name.rpartition(".")[0] for name in exported.graph_signature.buffers_to_mutate.values()}
        if owners:
            exported = _with_still_buffers(copied, asked, owners, exported)
        drew = _host_state() != before
    if exported.graph_signature.buffers_to_mutate:
        changed = ", ".join(exported.graph_signature.buffers_to_mutate.values())
        raise CaptureError(f"the forward changes the buffers {changed} even in eval mode; make it leave them alone.")
    return translate(exported, list(asked.example), asked.axes, asked.result, asked.class_axis), drew


def _with_still_buffers(
    model: nn.Module, asked: _Asked, owners: set[str], exported: ExportedProgram
) -> ExportedProgram:
    """The export with the modules that change their buffers in eval mode, and they alone: their children may drop."""
    for owner in owners:
        model.get_submodule(owner).training = False
    still = _export(model, asked)
    if len(find_sites(still.graph)[0]) < len(find_sites(exported.graph)[0]):
        names = ", ".join(sorted(owner or "the network itself" for owner in owners))
        raise CaptureError(
            f"a module that changes its buffers in training mode drops as well (one of: {names}), and eval mode "
            "switches off both. Put the dropout in a module of its own, such as nn.Dropout."
        )
    return still


def _export(model: nn.Module, asked: _Asked) -> ExportedProgram:
    given = spread(model, asked.example)
    shapes = dict(spread(model, dimensions(asked.axes, asked.example)).arguments)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            traced = torch.export.export(model, given.args, given.kwargs, dynamic_shapes=shapes, strict=False)
            functional: ExportedProgram = traced.run_decompositions(DECOMPOSITIONS)
    except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode as error:
        raise DataDependent(
            f"the forward decides on the value of a tensor{_place(error)}, which cannot be captured. Decide on tensors "
            "instead: torch.where(condition, a, b), or multiply by a dropout's output, such as "
            "F.dropout(torch.ones(x.shape[0], 1), p, training=True). On a live model predict(..., method='loop') works."
        ) from error
    except Exception as error:
        raise CaptureError(f"torch.export refused the model{_place(error)}: {_reason(error)}") from error
    rewrite_comparisons(functional.graph)
    return functional


def _reason(error: Exception) -> str:
    """Torch's reason in a line, and what to do about it where it is a size."""
    text = str(error).strip()
    lines = text.splitlines() or [type(error).__name__]
    violated = [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]
    fixed = re.search(r"You marked (\w+) as dynamic but your code specialized it", text)
    if fixed and fixed[1] == ROWS:
        advice = " The forward fixes the number of rows: write x.shape[0] or -1 where it has a number or len(x)."
    elif fixed:
        advice = (
            f" The forward fixes the {fixed[1]}: write x.shape[1] or -1 where it has a number; torch's recurrent "
            "layers fix it themselves, those of dropout_core.layers do not. Or leave it out of dynamic."
        )
    elif violated:
        fixes = " ".join(text.partition("Suggested fixes:")[2].strip().partition("\n\n")[0].split())
        advice = f" Give other bounds in dynamic{f': torch suggests {fixes}' if fixes else ', as a torch.export.Dim'}."
    elif "must be tuple of ints" in text and "FakeTensor" in text:  # pack_padded_sequence reads the lengths
        advice = (
            " Packed sequences cannot be captured: give padded ones and their lengths to the recurrent layers of "
            "dropout_core.layers, such as VariationalLSTM."
        )
    else:
        advice = ""
    return f"{(violated or lines)[0].partition(' If you')[0]}{advice}"


def _place(error: BaseException) -> str:
    """Where in the caller's code an export failed, such as " at net.py:12"."""
    place, trace = "", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if is_callers(path) and path != __file__:
            place = f" at {path}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _host_state() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else ()
    return (random.getstate(), *(item.tobytes() if hasattr(item, "tobytes") else item for item in state))


def _refuse_host_randomness(first: Translation, second: Translation, drew: bool) -> None:
    place = first.first_difference(second)
    if place is not None or drew:
        raise HostRandomness(
            f"the forward draws random numbers outside torch's graph{f', at {place}' if place else ''}: a capture "
            "would freeze them, and every pass would use the same. Draw them with a torch dropout inside the forward, "
            "or use predict(..., method='loop') on the live model."
        )
