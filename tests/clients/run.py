"""Clients that need environments of their own, each asking a server: make test-clients."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from dropout_core.mc.plan import Plan
from models.predictor import Predictor
from models.publish import publish
from models.repository import Repository
from tests.processes import serving
from tests.service import nets

_NAMES = ("mean", "mutual_information", "passes_used")
_PASSES, _SEED = 40, 5
_HERE = Path(__file__).parent


def main(environments: Path) -> int:
    """How many checks failed. environments: a folder for each client, with its own python."""
    torch.set_num_threads(1)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _publish(folder / "bundles")
        _write_wanted(folder)
        with serving(folder / "bundles") as server:
            server.wait_ready()
            for environment in sorted(environments.iterdir()):
                lines = _ask(environment, server.url, folder)
                passed += sum(line.startswith("passed ") for line in lines)
                failed += sum(line.startswith("failed ") for line in lines)
    print(f"{passed} passed, {failed} failed")  # noqa: T201
    return failed


def _publish(root: Path) -> None:
    network = nets.seeded(nets.Classifier, 2)
    publish(network, nets.images(4), name="digits", task="classification", root=root, passes=_PASSES, seed=_SEED)


def _write_wanted(folder: Path) -> None:
    """Rows, and the engine's answer to them."""
    predictor, rows = Predictor.load(Repository(folder / "bundles"), "digits", 1), nets.images(5, seed=11)
    estimate = predictor.predict(rows, Plan(_PASSES, _SEED, predictor.manifest.scheme))
    wanted = {name: estimate.measure(name).numpy() for name in _NAMES}
    np.savez(folder / "wanted.npz", rows=rows.numpy(), **wanted)


def _ask(environment: Path, url: str, folder: Path) -> list[str]:
    """The lines that a client's script prints. One that ends without having told why has failed as well."""
    script = _HERE / f"{environment.name}_asks.py"
    ended = subprocess.run(
        [environment / "bin" / "python", script, url, folder], capture_output=True, text=True, check=False
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("passed ", "failed "))]
    if ended.returncode and not any(line.startswith("failed ") for line in lines):
        lines.append(f"failed to run: {ended.stderr[-2000:]}")
    for line in lines:
        print(f"{environment.name}: {line}", flush=True)  # noqa: T201
    return lines


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
