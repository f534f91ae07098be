"""What a manifest says of a program, and the names of the probe among the weights."""

from collections.abc import Sequence

from dropout_core.graph.program import Program
from mcdrop_models.bundle.manifest import FreeSpec, InputSpec, SiteSpec

PROBE_INPUT, PROBE_MEAN, PROBE_VARIANCE = "probe/input", "probe/mean", "probe/variance"


def site_specs(program: Program) -> tuple[SiteSpec, ...]:
    """The sites of a Program as its manifest lists them."""
    sites = program.graph.sites
    return tuple(
        SiteSpec.model_validate(
            {"name": site.name, "module": site.module, "kind": site.kind, "rate": site.rate or None}
        )
        for site in sites
    )


def input_specs(program: Program) -> tuple[InputSpec, ...]:
    """The inputs of a Program as its manifest lists them."""
    inputs = program.graph.inputs
    return tuple(
        InputSpec.model_validate({"name": one.name, "shape": one.shape, "dtype": str(one.dtype).removeprefix("torch.")})
        for one in inputs
    )


def free_specs(program: Program) -> dict[str, FreeSpec] | None:
    """The free dimensions of a Program as its manifest lists them."""
    return {free.name: FreeSpec(least=free.least, most=free.most) for free in program.graph.free} or None


def position_specs(program: Program) -> tuple[int | str, ...] | None:
    """The positions of a Program's answers as its manifest lists them."""
    return tuple(size if isinstance(size, int) else str(size) for size in program.graph.positions) or None


def probe_names(names: Sequence[str]) -> dict[str, str]:
    """The names under which a bundle stores the probe of each input."""
    return {name: PROBE_INPUT if len(names) == 1 else f"{PROBE_INPUT}/{name}" for name in names}
