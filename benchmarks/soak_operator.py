"""What is done to a server during a soak: new versions, a broken one, unloading, floods, failures."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from serving_nets import NETS
from soak_asks import Asker
from soak_forms import Sent
from soak_judge import Judge
from soak_truth import POOL, Question

from mcdrop_models.publishing.torch import publish

_FLOOD, _PAUSE_S, _HEARD_S = 40, 1.0, 10.0


def publish_version(bundles: Path, model: str, seed: int = 0) -> int:
    """A new version: the digits network, with the weights of a seed."""
    torch.manual_seed(seed)
    example = torch.rand(8, *NETS["digits"].shape, generator=torch.Generator().manual_seed(2))
    return publish(NETS["digits"].build().eval(), example, name=model, task="classification", root=bundles).version


class Operator:
    """Does one thing after another, and says which refusals are due meanwhile."""

    def __init__(self, folder: Path, asker: Asker, judge: Judge) -> None:
        self._folder, self._asker, self._judge = folder, asker, judge
        self._bundles, self._seeds = folder / "bundles", itertools.count(1)
        self.once_through = threading.Event()

    def work(self, ended: threading.Event) -> None:
        """Until the end. The thread that computes is killed once: after a second time it would stay dead."""
        usual = (self.new_version, self.fail, self.flood, self.unload_and_load, self.broken_version)
        for action in itertools.chain(usual, (self.die,), itertools.cycle(usual)):
            if ended.wait(_PAUSE_S):
                return
            start = time.monotonic()
            try:
                wrong = action()
            except Exception as error:  # noqa: BLE001 - it is one more thing that went wrong
                wrong = f"{type(error).__name__}: {error}"
            name = f"operator: {action.__name__.replace('_', ' ')}"
            self._judge.keep(name, "failed" if wrong else "done", wrong, time.monotonic() - start)
            if action == self.die:
                self.once_through.set()

    def new_version(self) -> str:
        """It is served soon, and nobody is refused meanwhile."""
        version = publish_version(self._bundles, "digits", next(self._seeds))
        return self._until(
            lambda: self._entry("digits", version).get("state") == "READY", f"version {version} is not served"
        )

    def broken_version(self) -> str:
        """Its weights are not those of its digest: it is listed with the reason, and never served."""
        newest = max(int(path.name) for path in (self._bundles / "digits").iterdir() if path.name.isdecimal())
        copied = self._folder / "copied"
        shutil.copytree(self._bundles / "digits" / str(newest), copied)
        weights = copied / "weights.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        copied.rename(self._bundles / "digits" / str(newest + 1))
        return self._until(
            lambda: "digest" in self._entry("digits", newest + 1).get("reason", ""),
            "nothing is said of a broken version",
        )

    def unload_and_load(self) -> str:
        """Who asks meanwhile is told that it is out of service."""
        with self._judge.due(503):
            for verb in ("unload", "load"):
                asked = self._asker.whole(Sent(f"/v2/repository/models/other/{verb}", b"", {}), 200)
                if asked.status != 200:
                    return f"{verb} is answered {asked.status}: {asked.body[:120]!r}"
                time.sleep(0.5)
        return ""

    def flood(self) -> str:
        """More than may wait: some are computed, and the others told when to come again."""
        statuses: list[int] = []
        form = self._asker.forms["json"]

        def ask(number: int) -> None:
            question = Question("digits", 0, POOL, 32, number % 2)
            statuses.append(self._judge.judge("flood", partial(self._asker.asked, question, form)))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(_FLOOD)]
        with self._judge.due(429):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return "" if {200, 429} <= set(statuses) else f"the answers were {sorted(set(statuses))}, not 200 and 429"

    def fail(self) -> str:
        """One request fails; its neighbours do not."""
        with self._judge.due(500):
            return self._obeyed("fail")

    def die(self) -> str:
        """Those who wait are told; the thread starts again, and the server is ready."""
        with self._judge.due(503):
            wrong = self._obeyed("die")
            return wrong or self._until(self._ready, "it is not ready again")

    def _obeyed(self, what: str) -> str:
        file = self._folder / what
        file.touch()
        return self._until(lambda: not file.exists(), f"nothing obeyed {what!r}")

    def _until(self, happened: Callable[[], bool], otherwise: str) -> str:
        until = time.monotonic() + _HEARD_S
        while time.monotonic() < until:
            if happened():
                return ""
            time.sleep(0.1)
        return f"{otherwise} after {_HEARD_S:g} s"

    def _ready(self) -> bool:
        return self._asker.whole(Sent("/healthz/ready", b"", {}), 200, method="GET").status == 200

    def _entry(self, model: str, version: int) -> dict[str, str]:
        """What the server's list says of a version; empty where it is not in it."""
        asked = self._asker.whole(Sent("/v2/repository/index", b"", {}), 200)
        entries: list[dict[str, str]] = json.loads(asked.body) if asked.status == 200 else []
        return next((one for one in entries if (one["name"], one["version"]) == (model, str(version))), {})
