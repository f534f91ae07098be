"""Estimates: the measures of rows after T passes, and how passes are folded into them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dropout_core.engine.engine import Chunk, Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.estimate.fold import Fold
from dropout_core.graph.inputs import NamedTensors
from dropout_core.measures.measures import OutputMeasures, output_kind
from dropout_core.measures.moments import Statistics
from dropout_core.measures.precision import BLOCKS, CLUSTERS, PRECISION
from dropout_core.measures.quantiles import quantiles


@dataclass(frozen=True)
class Estimate:
    """The measures of each row, as attributes: float64 tensors with rows first.

    Classification has mean, variance, std [B, C], predictive_entropy, expected_entropy, mutual_information,
    least_confidence, margin and vote_variation_ratio [B]. Regression has mean, variance, std, epistemic_variance and,
    if the network predicts a variance, aleatoric_variance and gaussian_mutual_information [B, C]. Both have
    passes_used [B], standard_error of the mean [B, C] and mutual_information_standard_error [B]. With positions
    (pixels, tokens) everything but passes_used exists for each of them: [B, *P, C] and [B, *P]. Any other name raises
    UnknownMeasure, which lists the measures.

    Attributes:
        output: The kind of output, a key of `OUTPUT_KINDS`.
        passes: Number of passes, or the most with a tolerance.
        seed: Seed of the passes.
        method: "captured" or "loop".
        statistics: Moments over passes, by name.
        draws: Outputs of all passes, by name, if they were kept.
        prefix_s: Seconds that the prefix took.
    """

    output: str
    passes: int
    seed: int
    method: str
    statistics: Statistics
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    prefix_s: float = 0.0

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.measure(name)

    @property
    def kind(self) -> OutputMeasures:
        """The row of the output kind."""
        return output_kind(self.output)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures that this estimate has."""
        return tuple(self.kind.measures)

    def measure(self, name: str) -> Tensor:
        """Return a measure by name.

        Args:
            name: Name of the measure.

        Returns:
            The measure, rows first.

        Raises:
            UnknownMeasure: There is no such measure; the message lists all of them.
        """
        known = {**self.kind.measures, **PRECISION}
        if name not in known:
            raise UnknownMeasure(
                f"there is no measure {name!r} for {self.kind.task} from {self.output}; "
                f"there are {', '.join(self.measures)}, and of Monte Carlo itself {', '.join(PRECISION)}."
            )
        return known[name](self.statistics)

    @property
    def samples(self) -> Tensor:
        """The passes, [T, B, *P, C]: class probabilities, or predicted means. Needs `keep_draws`."""
        if not self.draws:
            raise InvalidInput("the passes were not kept; ask for them with keep_draws=True.")
        return self.draws["value"]

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles of the predictive distribution. Needs `keep_draws`.

        For regression they are those of the mixture over passes.

        Args:
            levels: Levels, each strictly between 0 and 1.

        Returns:
            [Q, B, *P, C].

        Raises:
            InvalidInput: Draws were not kept, or a level is out of range.
        """
        return quantiles({"value": self.samples, **self.draws}, levels)

    def rescaled(self, scale: Tensor, shift: Tensor) -> "Estimate":
        """Return the estimate of scale · y + shift, for regression. Moments and draws are scaled, not each pass.

        Args:
            scale: Factor of each target.
            shift: Summand of each target.

        Returns:
            The estimate in the other unit.
        """
        if self.kind.task != "regression":
            raise InvalidInput("only a regression's outputs have a unit to scale to.")
        scale, shift = scale.double(), shift.double()
        zero, square = torch.zeros_like(scale), scale.square()
        by_name = {
            "value": (scale, shift),
            "aleatoric": (square, zero),
            "log_aleatoric": (torch.ones_like(scale), square.log()),
        }
        by_name |= {prefix + "value": (scale, shift) for prefix in (BLOCKS, CLUSTERS)}
        statistics = {name: moments.affine(*by_name[name]) for name, moments in self.statistics.items()}
        draws = {name: values * by_name[name][0] + by_name[name][1] for name, values in self.draws.items()}
        return replace(self, statistics=statistics, draws=draws)


def fold_passes(
    chunks: Iterable[Chunk], output: str, passes: int, seed: int, method: str, keep_draws: bool = False
) -> Estimate:
    """Fold chunks of independent passes into an Estimate.

    Args:
        chunks: Outputs of passes: rows in order, and the passes of a row in order.
        output: The kind of output, a key of `OUTPUT_KINDS`.
        passes: Number of passes that were run.
        seed: Seed of the passes.
        method: How they were run: "captured" or "loop".
        keep_draws: Whether to hold the outputs of all passes too.

    Returns:
        The estimate.
    """
    fold = Fold(output_kind(output), keep_draws=keep_draws)
    for chunk in chunks:
        fold.add(chunk)
    return Estimate(output, passes, seed, method, fold.statistics(), fold.draws())


def run_passes(
    engine: Engine,
    weights: Mapping[str, Tensor],
    inputs: Tensor | NamedTensors,
    options: PassOptions,
    output: str,
    keep_draws: bool = False,
    places: Tensor | None = None,
) -> Estimate:
    """Run passes and fold them into an Estimate.

    Args:
        engine: The engine of the network.
        weights: The weights of the network, by name.
        inputs: Tensors [B, *F] by input name; a tensor stands for the only input.
        options: Which passes to run.
        output: The kind of output, a key of `OUTPUT_KINDS`.
        keep_draws: Whether to hold the outputs of all passes too, for samples and quantiles.
        places: int64 [B], the position of each row in its request, by which independent masks are drawn.

    Returns:
        The estimate.

    Raises:
        InvalidInput: The inputs do not fit, or draws are to be kept with a tolerance.
    """
    if keep_draws and options.tolerance is not None:
        raise InvalidInput("with a tolerance rows take different numbers of passes, so their draws cannot be kept.")
    fold = Fold(output_kind(output), options=engine.allowed(options), keep_draws=keep_draws)
    wanted = None if options.tolerance is None else fold.wanted
    prefix_s = 0.0
    for chunk in engine.run(weights, inputs, options, wanted, places):
        fold.add(chunk)
        prefix_s = chunk.prefix_s
    return Estimate(output, options.passes, options.seed, "captured", fold.statistics(), fold.draws(), prefix_s)
