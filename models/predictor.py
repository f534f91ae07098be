"""A bundle in memory, checked and ready to answer."""

from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dropout_core.errors import CoupledRows, InvalidInput, NonFiniteOutput, NoVariance
from dropout_core.mc.engine import Engine
from dropout_core.mc.estimate import Estimate, estimate_of
from dropout_core.mc.program import Program
from dropout_core.mc.verify import agree, verify
from models.errors import InvalidBundle
from models.manifest import Manifest, OutputScaling, SiteSpec
from models.program_json import from_json
from models.repository import Files, Repository

PROBE_INPUT, PROBE_MEAN, PROBE_VARIANCE = "probe/input", "probe/mean", "probe/variance"
# Another machine's kernels round otherwise; other weights, noise or scaling are far outside this.
_KNOWN_ANSWER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Predictor:
    """One published version of a model, verified. Serves many threads: nothing in it changes."""

    manifest: Manifest
    version: int
    program: Program
    engine: Engine
    probe: Tensor

    @staticmethod
    def load(repository: Repository, name: str, version: int, device: str = "cpu") -> "Predictor":
        """Load and verify a version: digests, operators, row independence, variance, known answer.

        Raises UnknownModel, or InvalidBundle with the reason.
        """
        files = repository.read(name, version)
        try:
            return _verified(files, version, torch.device(device))
        except InvalidBundle:
            raise
        except (CoupledRows, NoVariance, InvalidInput) as error:
            raise InvalidBundle(f"{name}/{version} is refused: {error}") from error
        except Exception as error:  # a hostile program may make torch and Python raise anything
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InvalidBundle(
                f"the program of {name}/{version} does not run: {type(error).__name__}: {reason}"
            ) from error

    def predict(self, x: Tensor, passes: int, seed: int, keep_draws: bool = False) -> Estimate:
        """The estimate of each row of x [B, *F], in the caller's unit. Raises NonFiniteOutput, naming the row."""
        x = x.to(self.program.device)
        chunks = self.engine.run(self.program.weights, x, passes, seed)
        estimate = estimate_of(chunks, self.manifest.output, passes, seed, "captured", keep_draws)
        finite = estimate.statistics["value"].variance.isfinite() & estimate.variance.isfinite()
        if not bool(finite.all()):
            row = int((~finite).flatten(1).any(1).nonzero()[0])
            raise NonFiniteOutput(
                f"{self.manifest.name} answers row {row} with NaN or infinity; is it in the range of its training?"
            )
        return in_callers_unit(estimate, self.manifest.output_scaling)


def site_specs(program: Program) -> tuple[SiteSpec, ...]:
    """The sites of a Program as its manifest lists them."""
    sites = program.graph.sites
    return tuple(
        SiteSpec.model_validate(
            {"name": site.name, "module": site.module, "kind": site.kind, "rate": site.rate or None}
        )
        for site in sites
    )


def in_callers_unit(estimate: Estimate, scaling: OutputScaling | None) -> Estimate:
    """An estimate in the unit callers send and get."""
    if scaling is None:
        return estimate
    device = estimate.statistics["value"].mean.device
    scale, shift = (
        torch.tensor(values, dtype=torch.float64, device=device) for values in (scaling.scale, scaling.shift)
    )
    return estimate.rescaled(scale, shift)


def _verified(files: Files, version: int, device: torch.device) -> Predictor:
    manifest = files.manifest
    try:
        stored = {name: tensor.to(device) for name, tensor in safetensors.torch.load(files.weights).items()}
    except SafetensorError as error:
        raise InvalidBundle(
            f"weights.safetensors of {manifest.name}/{version} is no safetensors file: {error}"
        ) from error
    missing = {PROBE_INPUT, PROBE_MEAN, PROBE_VARIANCE} - set(stored)
    if missing:
        raise InvalidBundle(f"weights.safetensors of {manifest.name}/{version} lacks {', '.join(sorted(missing))}.")
    program = from_json(files.program, stored)
    _refuse_mismatch(manifest, program, stored[PROBE_INPUT])
    engine = Engine(program)
    answer = verify(program, engine, stored[PROBE_INPUT], manifest.output)
    known = answer.statistics["value"]
    if known.mean.shape != (len(stored[PROBE_INPUT]), manifest.num_outputs):
        raise InvalidBundle(
            f"the network has {known.mean.shape[-1]} outputs; the manifest says {manifest.num_outputs}."
        )
    for name, value in ((PROBE_MEAN, known.mean), (PROBE_VARIANCE, known.variance)):
        if value.shape != stored[name].shape or not agree(value, stored[name], _KNOWN_ANSWER_TOLERANCE):
            raise InvalidBundle(f"the answer to the stored probe is not the one published ({name}).")
    return Predictor(manifest, version, program, engine, stored[PROBE_INPUT])


def _refuse_mismatch(manifest: Manifest, program: Program, probe: Tensor) -> None:
    (said,), (spec,) = manifest.inputs, program.graph.inputs
    got = (spec.name, spec.shape, str(spec.dtype).removeprefix("torch."))
    if (
        got != (said.name, said.shape, said.dtype)
        or probe.shape[1:] != spec.shape
        or probe.dtype != spec.dtype
        or not len(probe)
    ):
        raise InvalidBundle(f"the program takes {got}, the manifest says {(said.name, said.shape, said.dtype)}.")
    if manifest.sites != site_specs(program):
        raise InvalidBundle("the sites of the program are not those of the manifest.")
