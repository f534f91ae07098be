"""How passes draw their noise."""

from dataclasses import dataclass
from typing import Literal, get_args

from dropout_core.errors import InvalidInput

Sampling = Literal["balanced", "iid"]
Sharing = Literal["shared", "independent"]
BRANCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Scheme:
    """The noise of a run, beside its seed.

    sampling: "iid" draws each pass on its own; "balanced" drops a unit ⌊16p⌋ or ⌈16p⌉ times in each block of 16 passes
    (dropout_core.noise.balanced), which has the same law in each pass and a smaller Monte Carlo error. masks:
    "shared" runs
    one sampled network for each pass, the same for all rows; "independent" gives each row masks of its own, keyed by
    its place in the request. branches: how many passes share the noise of all sites but the last ones, 1, 2, 4, 8 or
    16. Raises InvalidInput for anything else.
    """

    sampling: Sampling = "iid"
    masks: Sharing = "shared"
    branches: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("sampling", get_args(Sampling)), ("masks", get_args(Sharing))):
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; choose {' or '.join(map(repr, allowed))}.")
        if self.branches not in BRANCHES:
            raise InvalidInput(f"branches is {self.branches}; choose {', '.join(map(str, BRANCHES))}.")


DEFAULT = Scheme("balanced")


def scheme_of(
    sampling: Sampling | None = None,
    masks: Sharing | None = None,
    branches: int | None = None,
    default: Scheme = DEFAULT,
) -> Scheme:
    """A scheme from what callers give; None for what the default says."""
    return Scheme(
        default.sampling if sampling is None else sampling,
        default.masks if masks is None else masks,
        default.branches if branches is None else branches,
    )
