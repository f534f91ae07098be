"""Claim: what the digits network has not seen gets visibly more uncertainty.

Held-out digits as they are, turned by 180 degrees, and replaced by noise of the same range.

Run: python benchmarks/uncertainty.py --bundles bundles [--json FILE]
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import report

from mcdrop.inference.catalogue import Catalogue
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.recipes.digits import test_images


def main(
    bundles: Annotated[Path, typer.Option(help="Folder with the digits bundle.")] = Path("bundles"),
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
) -> None:
    torch.set_num_threads(1)
    predictor = Catalogue(Repository(bundles)).get("digits")
    upright, classes = test_images()
    noise = torch.randint(0, 17, upright.shape, generator=torch.Generator().manual_seed(0)).float()
    rows: list[dict[str, object]] = []
    for name, images in {"upright": upright, "turned by 180°": upright.flip(1).flip(2), "noise": noise}.items():
        estimate = predictor.predict(images, replace(predictor.manifest.pass_options, passes=32, seed=0))
        correct = (estimate.mean.argmax(-1) == classes).double().mean()
        rows.append(
            {
                "images": name,
                "number": len(images),
                "accuracy": float(correct) if name != "noise" else float("nan"),
                "mutual_information": float(estimate.mutual_information.mean()),
                "predictive_entropy": float(estimate.predictive_entropy.mean()),
            }
        )
    report("digits, mean over images, nats, 32 passes", rows, json)


if __name__ == "__main__":
    typer.run(main)
