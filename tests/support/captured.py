"""The networks of nets.py and the layers of cases.py, captured once for all tests."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.graph.program import Program
from tests.support.cases import Case
from tests.support.nets import Twin


@dataclass(frozen=True)
class Captured:
    net: Twin
    program: Program
    engine: Engine

    def rows(self, count: int) -> Tensor:
        """Rows of standard normal inputs, the same at each call; longer batches begin with the shorter ones."""
        generator = torch.Generator().manual_seed(1)
        return torch.stack([torch.randn(self.net.row, generator=generator) for _ in range(count)]).to(self.net.dtype)

    def outputs(self, x: Tensor, passes: int, seed: int = 0) -> Tensor:
        """All passes over rows that fit in one chunk, [T, B, C]."""
        return torch.cat(
            [
                chunk.outputs
                for chunk in self.engine.run(self.program.weights, x, PassOptions(passes, seed, sampling="iid"))
            ]
        )


def made(kind: type[nn.Module], *args: object) -> nn.Module:
    """A network with weights drawn under one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args)


def classifier() -> nn.Module:
    """Four features, three classes."""
    return made(lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)))


@cache
def captured(kind: type[Twin]) -> Captured:
    """A twin in eval mode and what capture makes of it, once for all tests."""
    net = made(kind).to(kind.dtype).eval()
    example = torch.randn(4, *kind.row, generator=torch.Generator().manual_seed(0)).to(kind.dtype)
    program = capture(net, example)
    return Captured(net, program, Engine(program))


@cache
def captured_layer(case: Case) -> tuple[nn.Module, Program]:
    """A layer in float64 and training mode with its output flattened, and its capture, once for all tests."""
    net = nn.Sequential(case.layer(), nn.Flatten())
    return net, capture(net, case.rows(2))
