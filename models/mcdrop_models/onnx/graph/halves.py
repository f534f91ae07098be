"""A network as two ONNX models whose noise is an input: what they are called by.

ONNX Runtime removes Dropout silently and draws no numbers by request, so that nothing in these models is random: a site
takes draws from outside (dropout_core.engine.masks), of several passes at once.
"""

from dataclasses import dataclass

import onnx

from dropout_core.graph.program import Site

PASSES, MASKS, OUTPUT = "passes", "masks", "output"
# Old enough for most runtimes, and new enough for operators on bits.
OPSET, IR_VERSION = 18, 8


@dataclass(frozen=True)
class Halves:
    """A network as two ONNX models: what no noise reaches, and the rest with its noise as inputs.

    prefix: None where nothing is to be computed before the first noise. Its inputs are the network's; its outputs are
    the values that cross, by their names in the graph. suffix: takes what crosses, of b rows, and `noise.<i>` for each
    site: t passes of draws as `Masks.draws` makes them, shared by the rows or one for each. It answers `output`,
    [t·b, *P, C], passes outermost. A free dimension that no crossing value tells it is the length of `size.<name>`.
    """

    prefix: onnx.ModelProto | None
    suffix: onnx.ModelProto


def noise_name(site: Site) -> str:
    """The input that takes a site's draws."""
    return f"noise.{site.index}"


def size_name(free: str) -> str:
    """The input whose length is the size of a free dimension."""
    return f"size.{free}"
