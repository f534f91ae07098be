"""Active learning over HTTP: train on 20 labels, publish, ask the server what to label next, and again.

Scikit-learn's digits, whose labels play the human. The server needs nothing but the folder that is published to.

Run: pip install 'mcdrop[train]', then mcdrop serve --bundles bundles, and beside it python examples/active_learning.py
"""

from pathlib import Path
from typing import Annotated

import httpx
import torch
import torch.nn.functional as F
import typer
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dropout_core.layers import Dropout
from mcdrop import Client, publish

NAME, TESTED_ON, EPOCHS = "digits-labelled", 497, 300


def main(
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    bundles: Annotated[Path, typer.Option(help="The folder it serves.")] = Path("bundles"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of ten labels.")] = 10,
) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.data))
    x, y = torch.from_numpy(digits.data).float()[order] / 16, torch.from_numpy(digits.target)[order]
    test, labelled, pool = torch.arange(len(x)).split([TESTED_ON, 20, len(x) - TESTED_ON - 20])
    with Client(url) as client:
        for _ in range(rounds):
            model = train(x[labelled], y[labelled])
            accuracy = (model(x[test]).argmax(1) == y[test]).double().mean()
            version = publish(model, x[labelled], name=NAME, task="classification", root=bundles).version
            print(f"version {version}: {len(labelled)} labels, accuracy {accuracy:.3f}")
            # a server that watches its folder finds it by itself, a moment later
            httpx.post(f"{url}/v2/repository/models/{NAME}/load", timeout=60).raise_for_status()
            chosen = client.rank(NAME, x[pool].numpy(), k=10, score="mutual_information", version=version).indices
            labelled = torch.cat([labelled, pool[chosen]])
            pool = pool[~torch.isin(pool, labelled)]


def train(x: Tensor, y: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    typer.run(main)
