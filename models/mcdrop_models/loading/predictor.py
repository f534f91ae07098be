"""A bundle in memory, checked and ready to answer."""

from dataclasses import dataclass
from functools import cached_property

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dropout_core.engine.engine import Engine
from dropout_core.engine.network import Network
from dropout_core.engine.plan import Plan
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.errors import CoupledRows, InvalidInput, NonFiniteOutput, NoVariance
from dropout_core.estimate.estimate import Estimate, estimated
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, num_rows
from dropout_core.graph.program import Input, Program
from dropout_core.verify import agree, verify
from mcdrop_models.bundle.contents import (
    PROBE_MEAN,
    PROBE_VARIANCE,
    free_specs,
    position_specs,
    probe_names,
    site_specs,
)
from mcdrop_models.bundle.manifest import Manifest, OutputScaling
from mcdrop_models.bundle.program_json import program_from_json
from mcdrop_models.bundle.repository import BundleFiles, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.index_bounds import check_indices, table_rows
from mcdrop_models.loading.networks import available_networks, choose_network
from mcdrop_models.loading.tunings import TuningCache
from mcdrop_models.onnx.runtime.options import Backends

# Another machine's kernels round otherwise; other weights, noise or scaling are far outside this.
_KNOWN_ANSWER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Predictor:
    """One published version of a model, verified. Serves many threads: nothing in it changes.

    probe: the rows it was published with, by input.
    """

    manifest: Manifest
    version: int
    program: Program
    engine: Engine
    probe: NamedTensors

    @cached_property
    def _table_rows(self) -> dict[str, int]:
        return table_rows(self.program)

    @staticmethod
    def load(
        repository: Repository,
        name: str,
        version: int,
        device: str = "cpu",
        tunings: TuningCache | None = None,
        backends: Backends | None = None,
    ) -> "Predictor":
        """Load and verify a version: digests, operators, row independence, variance, known answer.

        tunings: where the engine's choices are kept that are measured on this machine; None: usual ones. backends: who
        may compute; None: who the bundle says.

        Raises UnknownModel, or InvalidBundle with the reason.
        """
        files = repository.read(name, version)
        try:
            return _verified(files, version, torch.device(device), tunings, backends or Backends())
        except InvalidBundle:
            raise
        except (CoupledRows, NoVariance, InvalidInput) as error:
            raise InvalidBundle(f"{name}/{version} is refused: {error}") from error
        except Exception as error:  # a hostile program may make torch and Python raise anything
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InvalidBundle(
                f"the program of {name}/{version} does not run: {type(error).__name__}: {reason}"
            ) from error

    @staticmethod
    def newest(
        repository: Repository,
        name: str,
        device: str = "cpu",
        tunings: TuningCache | None = None,
        backends: Backends | None = None,
    ) -> "Predictor":
        """The newest version that can be served, loaded. Raises UnknownModel, or InvalidBundle with the reasons."""
        reasons = []
        for version in repository.versions(name):
            try:
                return Predictor.load(repository, name, version, device, tunings, backends)
            except InvalidBundle as error:
                reasons.append(f"version {version}: {error}")
        if not reasons:
            raise repository.unknown(name, None)
        raise InvalidBundle(f"{name} cannot be served. {' '.join(reasons)}")

    @property
    def nbytes(self) -> int:
        """The bytes of the weights."""
        weights = sum(weight.nbytes for weight in self.program.weights.values())
        return weights + self.engine.network.nbytes

    def predict(self, inputs: Tensor | NamedTensors, plan: Plan, keep_draws: bool = False) -> Estimate:
        """The estimate of each row of the inputs [B, *F], in the caller's unit.

        inputs: by name; a tensor stands for the only one. Raises InvalidInput for inputs that do not fit, or
        NonFiniteOutput, naming the row.
        """
        by_name = inputs_by_name(self.program.graph, inputs)
        self.refuse_unknown(by_name)
        estimate = self.estimate(by_name, plan, keep_draws)
        finite = finite_rows(estimate)
        if not bool(finite.all()):
            raise self.non_finite(int((~finite).nonzero()[0]))
        return estimate

    def estimate(
        self, inputs: NamedTensors, plan: Plan, keep_draws: bool = False, places: Tensor | None = None
    ) -> Estimate:
        """The estimate of rows of one or of several requests, whether it is finite or not.

        places: int64 [B], where each row stands in its request. Raises InvalidInput.
        """
        placed = {name: x.to(self.program.device) for name, x in inputs.items()}
        places = None if places is None else places.to(self.program.device)
        weights, output = self.program.weights, self.manifest.output
        try:
            estimate = estimated(self.engine, weights, placed, plan, output, keep_draws, places)
        except IndexError as error:  # of a table reached another way; of an axis it is a fault of ours
            if not str(error).startswith("index"):
                raise
            raise InvalidInput(f"{self.manifest.name} has no entry for a number among the inputs: {error}.") from error
        return in_callers_unit(estimate, self.manifest.output_scaling)

    def refuse_unknown(self, inputs: NamedTensors) -> None:
        """Raise InvalidInput for a number that a table of the network has no row for."""
        check_indices(inputs, self._table_rows)

    def non_finite(self, row: int) -> NonFiniteOutput:
        """The error of a row whose answer is not finite."""
        return NonFiniteOutput(
            f"{self.manifest.name} answers row {row} with NaN or infinity; is it in the range of its training?"
        )


def finite_rows(estimate: Estimate) -> Tensor:
    """Which rows have a finite answer, bool [B]."""
    return (estimate.statistics["value"].variance.isfinite() & estimate.variance.isfinite()).flatten(1).all(1)


def in_callers_unit(estimate: Estimate, scaling: OutputScaling | None) -> Estimate:
    """An estimate in the unit callers send and get."""
    if scaling is None:
        return estimate
    device = estimate.statistics["value"].mean.device
    scale, shift = (
        torch.tensor(values, dtype=torch.float64, device=device) for values in (scaling.scale, scaling.shift)
    )
    return estimate.rescaled(scale, shift)


def _fits(spec: Input, probe: Tensor) -> bool:
    """Whether a stored probe is rows of an input; the sizes of free dimensions are checked where it runs."""
    sizes = zip(probe.shape[1:], spec.shape, strict=False)
    of_shape = probe.dim() == len(spec.shape) + 1 and all(isinstance(b, str) or a == b for a, b in sizes)
    return of_shape and probe.dtype == spec.dtype


def _verified(
    files: BundleFiles, version: int, device: torch.device, tunings: TuningCache | None, backends: Backends
) -> Predictor:
    manifest = files.manifest
    try:
        stored = {name: tensor.to(device) for name, tensor in safetensors.torch.load(files.weights).items()}
    except SafetensorError as error:
        raise InvalidBundle(
            f"weights.safetensors of {manifest.name}/{version} is no safetensors file: {error}"
        ) from error
    probe_at = probe_names([spec.name for spec in manifest.inputs])
    missing = {*probe_at.values(), PROBE_MEAN, PROBE_VARIANCE} - set(stored)
    if missing:
        raise InvalidBundle(f"weights.safetensors of {manifest.name}/{version} lacks {', '.join(sorted(missing))}.")
    program = program_from_json(files.program, stored)
    probe = {name: stored[place] for name, place in probe_at.items()}
    _refuse_mismatch(manifest, program, probe)
    networks = available_networks(files, program, backends)
    for network in networks.values():
        _refuse_other_answer(manifest, program, network, stored, probe)
    network = choose_network(files, program, probe, networks, tunings)
    engine = Engine(program, network=network)
    if tunings is not None:
        other = None if isinstance(network, TorchNetwork) else network
        engine = engine.tuned(tunings.get(manifest.digest, program, probe, other))
    return Predictor(manifest, version, program, engine, probe)


def _refuse_other_answer(
    manifest: Manifest,
    program: Program,
    network: Network,
    stored: NamedTensors,
    probe: NamedTensors,
) -> None:
    """Raise for a network that is not alive, mixes rows, or answers the stored probe otherwise than published."""
    known = verify(program, Engine(program, network=network), probe, manifest.output).statistics["value"]
    if (len(known.mean), known.mean.shape[-1]) != (num_rows(probe), manifest.num_outputs):
        raise InvalidBundle(
            f"the network has {known.mean.shape[-1]} outputs; the manifest says {manifest.num_outputs}."
        )
    for name, value in ((PROBE_MEAN, known.mean), (PROBE_VARIANCE, known.variance)):
        if value.shape != stored[name].shape or not agree(value, stored[name], _KNOWN_ANSWER_TOLERANCE):
            raise InvalidBundle(f"the answer to the stored probe is not the one published ({name}).")


def _refuse_mismatch(manifest: Manifest, program: Program, probe: NamedTensors) -> None:
    inputs = program.graph.inputs
    got = [(spec.name, spec.shape, str(spec.dtype).removeprefix("torch.")) for spec in inputs]
    said = [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs]
    if got != said or manifest.free != free_specs(program):
        raise InvalidBundle(
            f"the program takes {got} and is free in {list(program.graph.free)}, the manifest says {said} and "
            f"{manifest.free}."
        )
    if manifest.positions != position_specs(program):
        raise InvalidBundle(
            f"the program answers positions {position_specs(program)}, the manifest says {manifest.positions}."
        )
    rows = {len(probe[spec.name]) if _fits(spec, probe[spec.name]) else 0 for spec in inputs}
    if len(rows) != 1 or rows == {0}:
        raise InvalidBundle(f"the stored probe is no rows of what the manifest says: {said}.")
    if manifest.sites != site_specs(program):
        raise InvalidBundle("the sites of the program are not those of the manifest.")
