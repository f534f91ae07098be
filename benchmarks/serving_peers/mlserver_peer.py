"""MLServer with the loop, its adaptive batching on.

Run: python mlserver_peer.py NET PORT PASSES; in the environment: PEER_FOLDER, a folder for its files of settings.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
from loop import living, passes, summary
from mlserver import MLModel
from mlserver.cli.main import main
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

_MOST_REQUESTS, _WAIT_S = 64, 0.01


class Loop(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self.model, self.passes = living(extra["net"]), extra["passes"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]).astype("float32"))
        found = summary(passes(self.model, x, self.passes))
        outputs = [NumpyCodec.encode_output(name, values.numpy()) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def _settings(net: str, port: int, times: int, folder: Path) -> None:
    ports = [_free_port() for _ in range(2)]
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": ports[0], "metrics_port": ports[1]}
    model = {
        "name": net,
        "implementation": "mlserver_peer.Loop",
        "max_batch_size": _MOST_REQUESTS,
        "max_batch_time": _WAIT_S,
        "parameters": {"extra": {"net": net, "passes": times}},
    }
    (folder / "settings.json").write_text(json.dumps({**server, "debug": False}))
    (folder / "model-settings.json").write_text(json.dumps(model))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    where = Path(os.environ["PEER_FOLDER"])
    _settings(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), where)
    sys.argv = ["mlserver", "start", str(where)]
    main()
