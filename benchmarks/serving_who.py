"""Who answers: mcdrop's server, the engine without one, and the peers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from asking import PASSES
from served import Server, free_port, served
from serving_nets import NETS, seeded
from wire import Form, oip_json, plain_json

from mcdrop_models.publishing.torch import publish

_HERE = Path(__file__).parent
_PEERS: dict[str, tuple[str, Form]] = {
    "fastapi": ("/health", plain_json),
    "litserve": ("/health", plain_json),
    "mlserver": ("/v2/models/{net}/ready", oip_json),
}


@dataclass(frozen=True)
class Timed:
    """Of one answer: processor seconds, the mean, and seconds, the median."""

    cpu_s: float
    wall_s: float


# of a network and so many rows, measured for some seconds
Engine = Callable[[str, int, float], Timed]


def published(nets: tuple[str, ...], folder: Path) -> None:
    """Bundles of the networks, in folder/bundles."""
    for net in nets:
        example = torch.rand(8, *NETS[net].shape, generator=torch.Generator().manual_seed(2))
        publish(seeded(net), example, name=net, task="classification", root=folder / "bundles")


def ours(folder: Path) -> AbstractContextManager[Server]:
    """`mcdrop serve`, once its bundles are loaded and their choices measured, which are kept in folder/cache."""
    port = free_port()
    command = [Path(sys.executable).with_name("mcdrop"), "serve", "--bundles", folder / "bundles", "--port", str(port)]
    environment = {"MCDROP_CACHE": str(folder / "cache"), "MCDROP_THREADS": "1", "MCDROP_TUNE": "1"}
    return served(command, port, "/healthz/ready", folder / "mcdrop.log", environment)


@contextmanager
def alone(folder: Path) -> Iterator[Engine]:
    """The engine in a process of its own, with the choices that the server measured."""
    command = [sys.executable, _HERE / "alone.py", folder / "bundles", folder / "cache"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
        asked, said = process.stdin, process.stdout

        def timed(net: str, rows: int, seconds: float) -> Timed:
            asked.write(json.dumps({"net": net, "rows": rows, "passes": PASSES, "seconds": seconds}) + "\n")
            asked.flush()
            return Timed(**json.loads(said.readline()))

        yield timed
        asked.close()


def peers_in(folder: Path | None) -> tuple[dict[str, Path], list[str]]:
    """The Python of each peer, and the names of those that are missing."""
    pythons = {name: folder / name / "bin" / "python" for name in _PEERS} if folder is not None else {}
    found = {"fastapi": Path(sys.executable)} | {name: path for name, path in pythons.items() if path.exists()}
    return found, [name for name in _PEERS if name not in found]


def peer(name: str, python: Path, net: str, folder: Path) -> tuple[AbstractContextManager[Server], Form]:
    """A peer that serves a network, and the form that it reads."""
    port, (ready, form) = free_port(), _PEERS[name]
    settings = folder / f"{name}-{net}"
    settings.mkdir()
    command = [python, _HERE / "serving_peers" / f"{name}_peer.py", net, str(port), str(PASSES)]
    environment = {"PYTHONPATH": f"{_HERE}:{_HERE / 'serving_peers'}:{_HERE.parent}", "PEER_FOLDER": str(settings)}
    return served(command, port, ready.format(net=net), settings / "log", environment), form
