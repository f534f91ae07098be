"""Label configurations of the rows picked so far, each with its posterior over the passes.

The probability of a configuration is kept as a posterior over the passes, w_t = P(t | y), which neither underflows nor
needs a logarithm of zero. All configurations of positive probability are held while they fit; beyond, they are drawn.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dropout_core.acquire.probabilities import normalized
from dropout_core.noise.philox import uniform

# a counter site of its own: a network's sites count from 0
_SITE = 2**32 - 2


class Configurations:
    """Label configurations of the picked rows: their probabilities [M] and their posteriors over the passes [M, T].

    Args:
        probs: Class probabilities of the pool, [T, B, C].
        seed: Seed of the drawn configurations.
        num_samples: Number of configurations to hold.
    """

    def __init__(self, probs: Tensor, seed: int, num_samples: int) -> None:
        self.picks: list[int] = []
        self._probs, self._seed, self._num_samples = probs, seed, num_samples
        self._num_passes = len(probs)
        self._drawn_from: Tensor | None = None
        self._start(1)

    def information(self) -> float:
        """Return I(y; t) of the picked rows, in nats."""
        left = torch.special.entr(self.posteriors).sum(-1) @ self.masses
        return min(max(math.log(self._num_passes) - float(left), 0.0), math.log(self._num_passes))

    def extend(self) -> None:
        """Add the labels of the last pick to the configurations."""
        if self._drawn_from is not None:
            self._draw(len(self.picks) - 1)
        elif len(self.masses) * self._probs.shape[-1] <= self._num_samples:
            self._enumerate()
        else:
            each = math.ceil(self._num_samples / self._num_passes)
            self._start(each * self._num_passes)
            self._drawn_from = torch.arange(self._num_passes, device=self._probs.device).repeat(each)
            for number in range(len(self.picks)):
                self._draw(number)

    def pieces(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the configurations in pieces.

        Args:
            size: Largest number of configurations in a piece.

        Yields:
            Probabilities [m] and posteriors [m, T].
        """
        yield from zip(self.masses.split(size), self.posteriors.split(size), strict=True)

    def _start(self, size: int) -> None:
        even = torch.ones(size, self._num_passes, dtype=torch.float64, device=self._probs.device)
        self.masses, self.posteriors = even[:, 0] / size, even / self._num_passes

    def _enumerate(self) -> None:
        labels = normalized(self._probs[:, self.picks[-1]])
        joint = (self.posteriors[:, None, :] * labels.T).flatten(0, 1)
        evidence = joint.sum(-1)
        masses = self.masses.repeat_interleave(labels.shape[-1]) * evidence
        alive = masses > 0
        self.masses, self.posteriors = masses[alive], joint[alive] / evidence[alive, None]

    def _draw(self, number: int) -> None:
        labels = normalized(self._probs[:, self.picks[number]])
        below = labels.cumsum(-1)
        position = torch.tensor([number], device=labels.device)
        u = uniform(self._seed, _SITE, position, (len(self.masses),))[0]
        # the first class whose cumulated probability is above u: one of probability 0 is never drawn
        drawn = ((below / below[:, -1:])[self._drawn_from] <= u[:, None]).sum(-1)
        joint = self.posteriors * labels.T[drawn]
        self.posteriors = joint / joint.sum(-1, keepdim=True)


def entropy_terms(p: Tensor) -> Tensor:
    """Return −p log p, and 0 at p = 0: the values of `special.entr` in half its time.

    Args:
        p: Probabilities, of any shape.

    Returns:
        The terms in nats, in the shape of `p`.
    """
    return p.clamp_min(torch.finfo(p.dtype).tiny).log_().mul_(p).neg_()
