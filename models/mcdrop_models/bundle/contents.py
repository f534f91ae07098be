"""The facts of a Program that its manifest repeats, and the names of the stored tensors that are not weights."""

from collections.abc import Sequence
from typing import Any

from dropout_core.graph.program import Program
from mcdrop_models.bundle.manifest import FreeSpec, InputSpec, SiteSpec

PROBE_INPUT, PROBE_MEAN, PROBE_VARIANCE = "probe/input", "probe/mean", "probe/variance"


def program_facts(program: Program) -> dict[str, Any]:
    """Return the fields of a manifest that follow from its Program.

    Args:
        program: The network.

    Returns:
        Its inputs, free, positions and sites, by the name of the field.

    Raises:
        pydantic.ValidationError: A manifest cannot describe this Program.
    """
    graph = program.graph
    inputs = (
        {"name": spec.name, "shape": spec.shape, "dtype": str(spec.dtype).removeprefix("torch.")}
        for spec in graph.inputs
    )
    sites = (
        {"name": site.name, "module": site.module, "kind": site.kind, "rate": site.rate or None} for site in graph.sites
    )
    return {
        "inputs": tuple(map(InputSpec.model_validate, inputs)),
        "free": {free.name: FreeSpec(least=free.least, most=free.most) for free in graph.free} or None,
        "positions": tuple(size if isinstance(size, int) else str(size) for size in graph.positions) or None,
        "sites": tuple(map(SiteSpec.model_validate, sites)),
    }


def probe_names(names: Sequence[str]) -> dict[str, str]:
    """Return the name under which a bundle stores the probe of each input.

    Args:
        names: The names of the inputs.

    Returns:
        The name of a stored tensor, by input.
    """
    return {name: PROBE_INPUT if len(names) == 1 else f"{PROBE_INPUT}/{name}" for name in names}
