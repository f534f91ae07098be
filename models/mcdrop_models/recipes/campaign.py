"""Simulate active learning with known labels, to compare how many labels each strategy needs.

In each round a network is trained from scratch on the labelled rows, measured, and used to choose the next rows. For
one seed every strategy starts with the same labelled rows, the same pool and the same weights in each round, so that
the curves differ only by the choices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropout_core.acquire import rank
from dropout_core.acquire.vocabulary import Selector
from dropout_core.errors import InvalidInput
from dropout_core.predict import predict
from mcdrop_models.recipes.training import BATCH, Labelled, fit


@dataclass(frozen=True)
class Strategy:
    """A selector, and the exact score that it uses; None for a selector without a score."""

    score: str | None
    selector: Selector = "top_k"


STRATEGIES: Mapping[str, Strategy] = {
    "random": Strategy("random"),
    "predictive_entropy": Strategy("predictive_entropy"),
    "margin": Strategy("margin"),
    "mutual_information": Strategy("mutual_information"),
    "power": Strategy("mutual_information", "power"),
    "softrank": Strategy("mutual_information", "softrank"),
    "batchbald": Strategy("mutual_information", "batchbald"),
    "k_centre": Strategy(None, "k_centre"),
    "badge": Strategy(None, "badge"),
}


@dataclass(frozen=True)
class Campaign:
    """The settings of a simulation; the defaults are those of `mcdrop simulate`.

    Attributes:
        initial: Labels of each class at the start.
        batch: Rows labelled in a round.
        labels: Number of labels at which to stop, including the initial ones.
        pool: Number of rows to choose from.
        repeat: Copies of each row in the pool, with a little noise; 1 for no copies.
        passes: Number of passes, T.
        epochs: Epochs of training in each round.
    """

    initial: int = 2
    batch: int = 10
    labels: int = 120
    pool: int = 600
    repeat: int = 1
    passes: int = 32
    epochs: int = 80

    def __post_init__(self) -> None:
        for name in ("initial", "batch", "labels", "pool", "repeat", "passes", "epochs"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; at least 1 is wanted.")

    def check(self, data: Labelled) -> None:
        """Check that the data has enough rows.

        Args:
            data: The data.

        Raises:
            InvalidInput: The data has too few rows.
        """
        start = self.initial * data.num_classes
        if not start < self.labels:
            raise InvalidInput(f"{self.labels} labels are wanted and {start} there at the start; ask for more.")
        if start + self.pool > len(data.x):
            raise InvalidInput(
                f"there are {len(data.x)} rows, {start} labelled at the start; a pool of at most "
                f"{len(data.x) - start} is left."
            )
        if self.labels - start > self.pool * self.repeat:
            raise InvalidInput(f"a pool of {self.pool * self.repeat} rows has not {self.labels - start} labels to buy.")


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    Attributes:
        labels: Size of the training set, including the initial labels.
        distinct: Number of its rows that are not copies of another.
        accuracy: Accuracy of the mean of T passes on the test rows.
    """

    labels: int
    distinct: int
    accuracy: float


def play(data: Labelled, strategy: Strategy, campaign: Campaign, seed: int) -> Iterator[Point]:
    """Simulate a strategy and yield one point per round. The random state of the caller is preserved.

    Args:
        data: The data.
        strategy: The strategy.
        campaign: The settings.
        seed: Seed of the start, the pool and the training.

    Yields:
        The points of the learning curve.

    Raises:
        InvalidInput: The data has too few rows.
    """
    campaign.check(data)
    start, origin = _drawn(data, campaign, seed)
    pool = _copies(data.x[origin], campaign, seed)
    chosen: list[int] = []
    with torch.random.fork_rng(devices=[]):
        model = data.network()
    while True:
        rows = torch.tensor(chosen, dtype=torch.int64)
        sources = torch.cat([start, origin[rows]])
        train_seed = seed * 1_000_003 + len(chosen)
        _retrain(model, data, torch.cat([data.x[start], pool[rows]]), data.y[sources], campaign.epochs, train_seed)
        yield Point(len(sources), len(sources.unique()), _accuracy(model, data, campaign.passes))
        wanted = min(campaign.batch, campaign.labels - len(sources))
        if not wanted:
            return
        ranking = rank(
            model,
            pool,
            k=wanted,
            score=strategy.score,
            selector=strategy.selector,
            passes=campaign.passes,
            seed=train_seed,
            exclude=chosen,
            labelled=torch.cat([data.x[start], pool[rows]]) if strategy.selector == "k_centre" else None,
        )
        chosen += ranking.indices.tolist()


def labels_to(curve: Sequence[Point], accuracy: float) -> float:
    """Return the fewest labels that reach an accuracy.

    Args:
        curve: The learning curve.
        accuracy: The accuracy.

    Returns:
        A number of labels; infinite if the curve does not reach it.
    """
    return next((float(point.labels) for point in curve if point.accuracy >= accuracy), math.inf)


def _drawn(data: Labelled, campaign: Campaign, seed: int) -> tuple[Tensor, Tensor]:
    """The rows labelled at the start, as many of each class; and which row of the data each of the pool is."""
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    classes = data.y[order]
    first = torch.cat([(classes == one).nonzero()[: campaign.initial, 0] for one in range(data.num_classes)])
    rest = torch.ones(len(order), dtype=torch.bool)
    rest[first] = False
    return order[first], order[rest][: campaign.pool].repeat(campaign.repeat)


def _copies(x: Tensor, campaign: Campaign, seed: int) -> Tensor:
    """The rows of the pool: where they stand in it several times, with noise of a tenth of the data's deviation."""
    if campaign.repeat == 1:
        return x
    return x + 0.1 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def _retrain(model: nn.Module, data: Labelled, x: Tensor, y: Tensor, epochs: int, seed: int) -> None:
    """Train from scratch, in the same module: so that it is captured once."""
    rows = torch.arange(math.ceil(len(x) / BATCH) * BATCH) % len(x)  # a last batch of few rows would disturb the rest
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.load_state_dict(data.network().state_dict())
        fit(model, x[rows], y[rows], nn.CrossEntropyLoss(), epochs, data.weight_decay, on_epoch=lambda *_: None)


def _accuracy(model: nn.Module, data: Labelled, passes: int) -> float:
    right = predict(model, data.x_test, passes=passes).mean.argmax(-1) == data.y_test
    return float(right.double().mean())
