"""Claim: the engine is never slower than the loop that people write, [model(x) for _ in range(32)].

The digits network, one intra-op thread, CPU time, the two in turn in one process, medians. The loop makes the passes
and nothing else; the engine's time holds every measure as well. Cold draws new masks each time, as a new seed does.

Run: python benchmarks/engine.py [--json FILE]
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import report
from timing import interleaved
from torch import Tensor, nn

from dropout_core.layers.base import RateLayer
from dropout_core.predict import predict
from mcdrop_models.architectures.cnn import SmallCNN
from mcdrop_models.recipes.digits import test_images

_PASSES = 32


def main(json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None, rounds: int = 31) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SmallCNN((8, 8), num_classes=10, brightest=16.0)
    images, _ = test_images()
    rows: list[dict[str, object]] = []
    for num_rows in (1, 32, 256):
        x = images[:num_rows]
        seeds = iter(range(10**6))
        timed = {
            "engine": lambda x=x, seeds=seeds: predict(model, x, passes=_PASSES, seed=next(seeds)).mutual_information,
            "loop": _loop(model, x),
        }
        cpu_s = interleaved(timed, rounds if num_rows < 256 else max(5, rounds // 4))
        for method, seconds in cpu_s.items():
            case = {"net": "digits", "rows": num_rows, "passes": _PASSES, "method": method, "cpu_s": seconds}
            rows.append({**case, "loop_over_it": cpu_s["loop"] / seconds})
    report("digits network, 1 thread, CPU seconds (cold seeds)", rows, json)


def _loop(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """What people write: dropout layers in training mode, T calls."""
    alive = SmallCNN((8, 8), num_classes=10, brightest=16.0)
    alive.load_state_dict(model.state_dict())
    alive.eval()
    for module in alive.modules():
        if isinstance(module, RateLayer):
            module.train()

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.stack([alive(x) for _ in range(_PASSES)])

    return run


if __name__ == "__main__":
    typer.run(main)
