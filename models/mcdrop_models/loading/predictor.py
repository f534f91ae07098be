"""A bundle in memory, verified and ready to predict."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.errors import CoupledRows, InvalidInput, NonFiniteOutput, NoVariance
from dropout_core.estimate.estimate import Estimate, run_passes
from dropout_core.graph.inputs import NamedTensors, inputs_by_name
from dropout_core.graph.program import Input, Program
from mcdrop_models.bundle.manifest import Manifest, OutputScaling
from mcdrop_models.bundle.repository import BundleFiles, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.index_bounds import check_indices, table_rows
from mcdrop_models.loading.networks import available_networks, choose_network
from mcdrop_models.loading.stored_network import check_answer, read_network
from mcdrop_models.loading.tunings import TuningCache
from mcdrop_models.onnx.runtime.options import Backends

RowsLike = Tensor | NDArray[Any]


@dataclass(frozen=True)
class Predictor:
    """One version of a bundle in memory, verified. Nothing in it changes, so that it serves many threads.

    Attributes:
        manifest: The manifest of the bundle.
        version: The version of the bundle.
        program: Its network.
        engine: Runs the passes.
        probe: The rows that the bundle was published with, by input.
    """

    manifest: Manifest
    version: int
    program: Program
    engine: Engine
    probe: NamedTensors

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

        Args:
            repository: The folder of bundles.
            name: The name of the bundle.
            version: Its version.
            device: The device that computes, such as "cuda:0".
            tunings: Keeps the choices of the engine that are measured on this machine. Without it nothing is measured,
                and the defaults are taken.
            backends: The backends that may compute. By default the one that the bundle names.

        Returns:
            The version in memory.

        Raises:
            UnknownModel: There is no such version.
            InvalidBundle: The version cannot be served; the message says why.
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
        """Load the newest version of a name that can be served.

        Args:
            repository: The folder of bundles.
            name: The name of the bundle.
            device: As in `load`.
            tunings: As in `load`.
            backends: As in `load`.

        Returns:
            The version in memory.

        Raises:
            UnknownModel: There is no such name.
            InvalidBundle: No version can be served; the message gives the reason of each.
        """
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
        """The size of the weights in bytes."""
        weights = sum(weight.nbytes for weight in self.program.weights.values())
        return weights + self.engine.network.nbytes

    def predict(
        self,
        x: RowsLike | tuple[RowsLike, ...] | Mapping[str, RowsLike],
        options: PassOptions | None = None,
        keep_draws: bool = False,
        **overrides: Unpack[PassOverrides],
    ) -> Estimate:
        """Return the estimate of each row, in the caller's unit.

        Args:
            x: The rows [B, *F], of numpy or torch. A network of several inputs takes a tuple, or a mapping by name.
                Numbers are converted to the dtype of the input where that loses no more than precision.
            options: The passes to run. By default the bundle's own options.
            keep_draws: Whether to keep the outputs of every pass, for `samples` and `quantiles`.
            **overrides: Fields of `PassOptions` that replace those of `options`: passes, seed, sampling, masks,
                branches, tolerance, min_passes.

        Returns:
            The measures of the rows: `estimate.mean` [B, C], `estimate.variance`, `estimate.mutual_information`, …

        Raises:
            InvalidInput: The rows do not fit the network, or an option has a value that it may not have.
            NonFiniteOutput: The answer to a row is not finite; the message names the row.
        """
        options = (options or self.manifest.pass_options).overridden(**overrides)
        inputs = inputs_by_name(self.program.graph, _as_tensors(x))
        inputs = {spec.name: _converted(spec, inputs[spec.name]) for spec in self.program.graph.inputs}
        self.check_indices(inputs)
        estimate = self.estimate(inputs, options, keep_draws)
        self.check_finite(finite_rows(estimate))
        return estimate

    def estimate(
        self, inputs: NamedTensors, options: PassOptions, keep_draws: bool = False, places: Tensor | None = None
    ) -> Estimate:
        """Return the estimate of rows of one or several requests, whether it is finite or not.

        Args:
            inputs: Rows by input, [B, *F] each.
            options: The passes to run.
            keep_draws: Whether to keep the outputs of every pass.
            places: The position of each row in its request, int64 [B]. By default the rows are one request.

        Returns:
            The measures of the rows.

        Raises:
            InvalidInput: The rows do not fit the network.
        """
        placed = {name: x.to(self.program.device) for name, x in inputs.items()}
        places = None if places is None else places.to(self.program.device)
        weights, output = self.program.weights, self.manifest.output
        try:
            estimate = run_passes(self.engine, weights, placed, options, output, keep_draws, places)
        except IndexError as error:  # of a table that is not indexed by an input itself; of an axis it is our fault
            if not str(error).startswith("index"):
                raise
            raise InvalidInput(f"{self.manifest.name} has no entry for a number among the inputs: {error}.") from error
        return rescale(estimate, self.manifest.output_scaling)

    def check_indices(self, inputs: NamedTensors) -> None:
        """Check that integer inputs lie inside the tables of the network that they index.

        Args:
            inputs: Rows by input.

        Raises:
            InvalidInput: A number is outside of its table.
        """
        check_indices(inputs, self._table_rows)

    def check_finite(self, finite: Tensor, rows: Tensor | None = None) -> None:
        """Check that the answer to every row is finite.

        Args:
            finite: Which rows have a finite answer, bool [B].
            rows: The numbers of the rows in the caller's request, int64 [B]. By default 0 … B − 1.

        Raises:
            NonFiniteOutput: An answer is NaN or infinite; the message names the first such row.
        """
        if not bool(finite.all()):
            index = int((~finite).nonzero()[0])
            raise self.non_finite_error(index if rows is None else int(rows[index]))

    def non_finite_error(self, row: int) -> NonFiniteOutput:
        """Return the error for a row whose answer is not finite.

        Args:
            row: The number of the row in the caller's request.

        Returns:
            The error.
        """
        return NonFiniteOutput(
            f"{self.manifest.name} answers row {row} with NaN or infinity. Check that the row is in the range of the "
            "training data."
        )

    @cached_property
    def _table_rows(self) -> dict[str, int]:
        return table_rows(self.program)


def finite_rows(estimate: Estimate) -> Tensor:
    """Return which rows of an estimate are finite.

    Args:
        estimate: The estimate of B rows.

    Returns:
        A mask of rows, bool [B].
    """
    return (estimate.statistics["value"].variance.isfinite() & estimate.variance.isfinite()).flatten(1).all(1)


def rescale(estimate: Estimate, scaling: OutputScaling | None) -> Estimate:
    """Return an estimate in the caller's unit.

    Args:
        estimate: The estimate in the network's unit.
        scaling: From the network's unit to the caller's; None where they are the same.

    Returns:
        The estimate in the caller's unit.
    """
    if scaling is None:
        return estimate
    device = estimate.statistics["value"].mean.device
    scale, shift = (
        torch.tensor(values, dtype=torch.float64, device=device) for values in (scaling.scale, scaling.shift)
    )
    return estimate.rescaled(scale, shift)


def _as_tensors(x: Any) -> Any:
    """Return rows as tensors, in the tuple or the mapping that they came in."""
    if isinstance(x, tuple):
        return tuple(map(_as_tensor, x))
    return {name: _as_tensor(rows) for name, rows in x.items()} if isinstance(x, Mapping) else _as_tensor(x)


def _as_tensor(rows: Any) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(rows))
    kind = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
    raise InvalidInput(f"the rows are {kind}; give a tensor or a numpy array of numbers, rows first.")


def _converted(spec: Input, rows: Tensor) -> Tensor:
    if rows.dtype == spec.dtype:
        return rows
    if torch.can_cast(rows.dtype, spec.dtype) and not rows.dtype.is_complex:
        converted = rows.to(spec.dtype)
        if spec.dtype.is_floating_point or torch.equal(converted.to(rows.dtype), rows):
            return converted
    raise InvalidInput(f"{spec.name} is {rows.dtype}, but the network takes {spec.dtype}. Convert it first.")


def _verified(
    files: BundleFiles, version: int, device: torch.device, tunings: TuningCache | None, backends: Backends
) -> Predictor:
    manifest = files.manifest
    stored = read_network(files, version, device)
    program, probe = stored.program, stored.probe
    networks = available_networks(files, program, backends)
    for network in networks.values():
        check_answer(manifest, stored, network)
    network = choose_network(files, program, probe, networks, tunings)
    engine = Engine(program, network=network)
    if tunings is not None:
        other = None if isinstance(network, TorchNetwork) else network
        engine = engine.tuned(tunings.get(manifest.digest, program, probe, other))
    return Predictor(manifest, version, program, engine, probe)
