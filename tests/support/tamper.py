"""What an attacker with write access to a repository can do: change anything, and update every digest."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from mcdrop_models.bundle.manifest import manifest_digest, sha256
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE


@dataclass
class Bundle:
    """The parts of a bundle: its manifest and program as JSON, its tensors by name."""

    manifest: dict[str, Any]
    program: dict[str, Any]
    tensors: dict[str, Tensor]

    @staticmethod
    def of(folder: Path) -> "Bundle":
        return Bundle(
            json.loads((folder / MANIFEST_FILE).read_bytes()),
            json.loads((folder / PROGRAM_FILE).read_bytes()),
            safetensors.torch.load((folder / WEIGHTS_FILE).read_bytes()),
        )

    def copy(self) -> "Bundle":
        return Bundle(copy.deepcopy(self.manifest), copy.deepcopy(self.program), dict(self.tensors))

    def prepend(self, *nodes: dict[str, Any]) -> None:
        """Insert nodes before all others; the input passes through the last of them."""
        original = self.program["inputs"][0]["name"]
        for node in self.program["nodes"]:
            text = json.dumps(node).replace(json.dumps({"ref": original}), json.dumps({"ref": nodes[-1]["name"]}))
            node.update(json.loads(text))
        self.program["nodes"][:0] = nodes

    def append(self, *nodes: dict[str, Any]) -> None:
        """Append nodes after all others; the last of them is the output."""
        self.program["nodes"] += nodes
        self.program["output"] = nodes[-1]["name"]

    def write(self, root: Path, program: bytes | None = None, weights: bytes | None = None) -> Path:
        """Write it as version 1 of its name with matching digests. `program` and `weights` replace these files."""
        program = json.dumps(self.program).encode() if program is None else program
        weights = safetensors.torch.save(self.tensors) if weights is None else weights
        fields = {**self.manifest, "program": sha256(program), "weights": sha256(weights)}
        fields["digest"] = manifest_digest(fields)
        folder = root / "net" / "1"
        folder.mkdir(parents=True)
        (folder / MANIFEST_FILE).write_text(json.dumps(fields))
        (folder / PROGRAM_FILE).write_bytes(program)
        (folder / WEIGHTS_FILE).write_bytes(weights)
        return folder


def operation(name: str, target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return an operation of program.json."""
    return {"name": name, "target": target, "args": list(args), "kwargs": kwargs}


def ref(name: str) -> dict[str, str]:
    """Return an argument that reads another node."""
    return {"ref": name}
