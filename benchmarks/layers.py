"""Claim: a layer costs in training what its nearest counterpart costs elsewhere.

One training step (forward and backward) of each layer and of its counterpart in torch, torchvision, timm or
torch-geometric, in turn in one process, one intra-op thread, CPU time, medians. `realised` is the share of the output
that is 0, where the layer zeroes anything; p is 0.1 throughout, and blocks are 7 wide.

torch alone is enough. For the others: pip install --no-deps torchvision timm, and pip install torch-geometric; those
that are not there are left out by name.

Run: python benchmarks/layers.py [--json FILE]
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from machine import report
from rich.console import Console
from timing import interleaved
from torch import Tensor, nn

from dropout_core import layers
from dropout_core.layers.graph import drop_edge_index

P = 0.1
VECTORS, IMAGES, SEQUENCES = (256, 1024), (32, 64, 28, 28), (32, 50, 64)
Step = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Pair:
    """A layer, its counterpart (None: not installed), and the shape of their input."""

    name: str
    ours: Step
    counterpart: str
    theirs: Step | None
    shape: tuple[int, ...]
    tokens: bool = False


def main(json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None, rounds: int = 21) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for pair in pairs():
        if pair.theirs is None:
            Console().print(f"{pair.counterpart} is not installed: {pair.name} is not compared with it.")
            continue
        x = torch.randint(1, 1000, pair.shape) if pair.tokens else torch.randn(pair.shape)
        cpu_s = interleaved({"ours": _step(pair.ours, x), "theirs": _step(pair.theirs, x)}, rounds)
        rows.append(
            {
                "layer": pair.name,
                "counterpart": pair.counterpart,
                "ours_ms": 1e3 * cpu_s["ours"],
                "theirs_ms": 1e3 * cpu_s["theirs"],
                "ours_over_theirs": cpu_s["ours"] / cpu_s["theirs"],
                "realised": _realised(pair.ours, x),
                "their_realised": _realised(pair.theirs, x),
            }
        )
    report(f"a training step at p = {P}, 1 thread, CPU time", rows, json)


def pairs() -> list[Pair]:
    return [*_of_units(), *_of_maps(), *_of_weights(), *_of_sequences(), *_of_graphs()]


def _of_units() -> list[Pair]:
    eighths = [unit // 8 for unit in range(1024)]
    activated = nn.Sequential(nn.ReLU(), nn.Dropout(P))
    torchs = ("nn.Dropout", nn.Dropout(P), VECTORS)
    return [
        Pair("Dropout", layers.Dropout(P), *torchs),
        Pair("ClassicDropout", layers.ClassicDropout(P), *torchs),
        Pair("AlphaDropout", layers.AlphaDropout(P), "nn.AlphaDropout", nn.AlphaDropout(P), VECTORS),
        Pair("GaussianDropout", layers.GaussianDropout(P), *torchs),
        Pair("ConcreteDropout", layers.ConcreteDropout(P), *torchs),
        Pair("AdaptiveDropout", layers.AdaptiveDropout(nn.ReLU()), "nn.ReLU, nn.Dropout", activated, VECTORS),
        Pair("GroupDropout", layers.GroupDropout(eighths, P), *torchs),
    ]


def _of_maps() -> list[Pair]:
    vision, timm = _torchvision("torchvision.ops"), _torchvision("timm.layers")
    torchs = ("nn.Dropout2d", nn.Dropout2d(P), IMAGES)
    blocks, branch = layers.DropBlock2d(P, 7), nn.Conv2d(64, 64, 3, padding=1)
    return [
        Pair("SpatialDropout2d", layers.SpatialDropout2d(P), *torchs),
        Pair("ConcreteSpatialDropout", layers.ConcreteSpatialDropout(P), *torchs),
        Pair("DropBlock2d", blocks, "torchvision", vision and (lambda x: vision.drop_block2d(x, P, 7)), IMAGES),
        Pair("DropBlock2d", blocks, "timm", timm and timm.DropBlock2d(P, 7, couple_channels=False), IMAGES),
        Pair("DropPath", layers.DropPath(P), "torchvision", vision and vision.StochasticDepth(P, "row"), IMAGES),
        Pair("DropPath", layers.DropPath(P), "timm", timm and timm.DropPath(P), IMAGES),
        Pair("StochasticDepth, per batch", layers.StochasticDepth(branch, P, per="batch"), "x + branch(x)",
             lambda x: x + branch(x), IMAGES),
    ]  # fmt: skip


def _of_weights() -> list[Pair]:
    linear, sizes = nn.Linear(1024, 1024), (1024, 1024)
    return [
        Pair("DropConnectLinear, per row", layers.DropConnectLinear(*sizes, P), "nn.Linear", linear, VECTORS),
        Pair("DropConnectLinear, per batch", layers.DropConnectLinear(*sizes, P, per="batch"), "F.dropout(weight)",
             lambda x: F.linear(x, F.dropout(linear.weight, P), linear.bias), VECTORS),
        Pair("VariationalLinear", layers.VariationalLinear(*sizes, P), "nn.Linear", linear, VECTORS),
    ]  # fmt: skip


def _of_sequences() -> list[Pair]:
    lstm, attention = nn.LSTM(64, 64, batch_first=True), nn.MultiheadAttention(64, 4, P, batch_first=True)
    everywhere = layers.VariationalLSTM(64, 64, p_input=P, p_recurrent=P, p_output=P)

    def attend(x: Tensor) -> Tensor:
        return attention(x, x, x, need_weights=False)[0]

    return [
        Pair("EmbeddingDropout", layers.EmbeddingDropout(1000, 64, P), "nn.Embedding", nn.Embedding(1000, 64), (32, 50),
             tokens=True),
        Pair("WordDropout", layers.WordDropout(P, 0), "torch.where",
             lambda x: torch.where(torch.rand(x.shape) < P, 0, x), (32, 50), tokens=True),
        Pair("LockedDropout", layers.LockedDropout(P), "nn.Dropout", nn.Dropout(P), SEQUENCES),
        Pair("VariationalLSTM, no rate", layers.VariationalLSTM(64, 64), "nn.LSTM", lstm, SEQUENCES),
        Pair("VariationalLSTM", everywhere, "nn.LSTM", lstm, SEQUENCES),
        Pair("MultiheadAttention", layers.MultiheadAttention(64, 4, P), "nn.MultiheadAttention", attend, SEQUENCES),
        Pair("MultiheadAttention, guided", layers.MultiheadAttention(64, 4, P, guided=True), "nn.MultiheadAttention",
             attend, SEQUENCES),
    ]  # fmt: skip


def _of_graphs() -> list[Pair]:
    geometric, edges = _module("torch_geometric.utils"), torch.randint(0, 2000, (2, 20_000))

    def edges_left(undirected: bool) -> Step:
        return lambda _: drop_edge_index(edges, P, undirected=undirected)

    return [
        Pair("drop_edge_index, directed", edges_left(undirected=False), "torch-geometric",
             geometric and (lambda _: geometric.dropout_edge(edges, P)), (1,)),
        Pair("drop_edge_index", edges_left(undirected=True), "torch-geometric, force_undirected",
             geometric and (lambda _: geometric.dropout_edge(edges, P, force_undirected=True)), (1,)),
        Pair("FeatureDropout", layers.FeatureDropout(P), "nn.Dropout", nn.Dropout(P), SEQUENCES),
        Pair("DropNode", layers.DropNode(P), "nn.Dropout1d", nn.Dropout1d(P), SEQUENCES),
    ]  # fmt: skip


def _step(layer: Step, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        given = x.clone().requires_grad_() if x.is_floating_point() else x
        y = _first(layer(given))
        if y.requires_grad:
            y.backward(torch.ones_like(y))

    return step


def _realised(layer: Step, x: Tensor) -> float:
    """The share of zeros over 20 draws."""
    with torch.no_grad():
        return sum(float((_first(layer(x)) == 0).double().mean()) for _ in range(20)) / 20


def _first(y: Any) -> Tensor:
    return y[0] if isinstance(y, tuple) else y


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _torchvision(name: str) -> Any:
    """Its compiled operators are not needed here; where they cannot be loaded, they are only declared."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            return _module(name)
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")


if __name__ == "__main__":
    typer.run(main)
