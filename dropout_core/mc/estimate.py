"""What T passes say about each row: an Estimate, and how passes are folded into one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.mc.engine import Chunk
from dropout_core.mc.measures import Kind, kind_of
from dropout_core.mc.moments import Statistics, concatenate, merge, moments_of
from dropout_core.mc.quantiles import quantiles


@dataclass(frozen=True)
class Estimate:
    """The measures of each row, as attributes: float64 tensors, rows first.

    Classification: mean, variance, std [B, C], predictive_entropy, expected_entropy, mutual_information,
    least_confidence, margin, vote_variation_ratio [B]. Regression: mean, variance, std, epistemic_variance and, where
    the network predicts a variance, aleatoric_variance [B, C]. UnknownMeasure lists them for any other name.
    """

    output: str
    passes: int
    seed: int
    method: str
    statistics: Statistics
    draws: Mapping[str, Tensor] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.measure(name)

    @property
    def kind(self) -> Kind:
        """The row of the output kind."""
        return kind_of(self.output)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures this estimate has."""
        return tuple(self.kind.measures)

    def measure(self, name: str) -> Tensor:
        """A measure by name. Raises UnknownMeasure, listing those there are."""
        if name not in self.kind.measures:
            raise UnknownMeasure(
                f"there is no measure {name!r} for {self.kind.task} from {self.output}; "
                f"there are {', '.join(self.measures)}."
            )
        return self.kind.measures[name](self.statistics)

    @property
    def samples(self) -> Tensor:
        """The passes themselves, [T, B, C]: class probabilities, or predicted means. Needs keep_draws."""
        if not self.draws:
            raise InvalidInput("the passes were not kept; ask for them with keep_draws=True.")
        return self.draws["value"]

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles of the predictive distribution, [Q, B, C]; of the mixture for regression. Needs keep_draws."""
        return quantiles({"value": self.samples, **self.draws}, levels)

    def rescaled(self, scale: Tensor, shift: Tensor) -> "Estimate":
        """The estimate of scale · y + shift, for regression: its moments and draws are scaled, not each pass."""
        if self.kind.task != "regression":
            raise InvalidInput("only a regression's outputs have a unit to scale to.")
        scale, shift = scale.double(), shift.double()
        zero, square = torch.zeros_like(scale), scale.square()
        by_name = {"value": (scale, shift), "aleatoric": (square, zero)}
        statistics = {name: moments.affine(*by_name[name]) for name, moments in self.statistics.items()}
        draws = {name: values * by_name[name][0] + by_name[name][1] for name, values in self.draws.items()}
        return replace(self, statistics=statistics, draws=draws)


def estimate_of(
    chunks: Iterable[Chunk], output: str, passes: int, seed: int, method: str, keep_draws: bool = False
) -> Estimate:
    """Fold chunks of passes into an Estimate.

    chunks: rows in order, passes in order within each. keep_draws: also hold all T · B · C numbers.
    """
    kind = kind_of(output)
    statistics: dict[int, Statistics] = {}
    kept: dict[int, list[Mapping[str, Tensor]]] = {}
    for chunk in chunks:
        values = kind.values(_columns(chunk.outputs))
        moments = moments_of(values)
        statistics[chunk.index] = merge(statistics[chunk.index], moments) if chunk.index in statistics else moments
        if keep_draws:
            kept.setdefault(chunk.index, []).append(
                {name: values[name] for name in ("value", "aleatoric") if name in values}
            )
    draws = _joined(list(kept.values())) if keep_draws else {}
    return Estimate(output, passes, seed, method, concatenate(list(statistics.values())), draws)


def _columns(outputs: Tensor) -> Tensor:
    """[t, b, C] from a network's outputs [t, b] or [t, b, C], detached from its run."""
    if outputs.dim() == 2:
        outputs = outputs.unsqueeze(-1)
    if outputs.dim() != 3:
        raise InvalidInput(
            f"the network answers {tuple(outputs.shape[2:])} for each row; return one number for each row, or one list."
        )
    return outputs.to(dtype=torch.float64, copy=True)


def _joined(rows: list[list[Mapping[str, Tensor]]]) -> Mapping[str, Tensor]:
    """Draws of several chunks: passes along axis 0, rows along axis 1."""
    names = rows[0][0]
    return {name: torch.cat([torch.cat([part[name] for part in passes]) for passes in rows], dim=1) for name in names}
