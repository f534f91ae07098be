"""Which operators of an exported graph are random, and how each becomes a site with its noise handed in.

After functionalisation torch spells its dropouts, with b = bernoulli(template, keep), as

* `native_dropout(x, p, True)[0]`: a draw for each unit;
* `x · (b / keep)`: a dropout in place when the template has the shape of x, a feature dropout (1d, 2d, 3d) when it is
  [N, C, 1, …];
* `x · (b · a) + ((b − 1) · s + c)`: an alpha dropout, and a feature alpha dropout, likewise.

b alone, or `floor(keep + uniform)`, is a mask that the network scales itself, as stochastic depth is often written.
All other draws are spelled in the few ways of draws.py, and Boolean masks as comparisons.py has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def arguments_by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator call by name, whichever way they were given."""
    return {**{argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}, **kwargs}
