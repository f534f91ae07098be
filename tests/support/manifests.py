"""A valid manifest, and the two files that it has digests of."""

from pathlib import Path
from typing import Any

from mcdrop_models.bundle.manifest import Manifest, seal_manifest, sha256
from mcdrop_models.bundle.repository import Repository

PROGRAM_BYTES, WEIGHTS_BYTES = b'{"schema": 1}', b"weights"


def sample_fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a valid manifest, without its digest."""
    return {
        "name": "net",
        "task": "regression",
        "output": "mean_and_log_variance",
        "num_outputs": 2,
        "labels": ("low", "high"),
        "inputs": ({"name": "x", "shape": (4,), "dtype": "float32"},),
        "output_scaling": {"scale": (2.0, 0.5), "shift": (0.0, -1.0)},
        "sites": ({"name": "drop", "module": "trunk.1", "kind": "dropout", "rate": 0.5},),
        "passes": 32,
        "seed": 0,
        "program": sha256(PROGRAM_BYTES),
        "weights": sha256(WEIGHTS_BYTES),
        "metrics": {"rmse": 1.5},
        "provenance": {"torch": "2"},
        **changes,
    }


def sample_manifest(**changes: Any) -> Manifest:
    """Return a valid manifest with its digest."""
    return seal_manifest(sample_fields(**changes))


def put(root: Path, **changes: Any) -> int:
    """Publish a sample and return its version. Its files match their digests; its program is empty."""
    return Repository(root).publish(sample_manifest(**changes), PROGRAM_BYTES, WEIGHTS_BYTES)
