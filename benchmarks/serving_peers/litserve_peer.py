"""LitServe with the loop, batching as its documentation shows it.

Run: python litserve_peer.py NET PORT PASSES
"""

import sys
from typing import Any

import litserve
import torch
from loop import living, passes, summary
from torch import Tensor

NET, PORT, PASSES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_MOST_REQUESTS, _WAIT_S = 64, 0.01


class Api(litserve.LitAPI):
    """Requests hold any number of rows, so a batch is their rows one after another."""

    def setup(self, device: str) -> None:
        self.model = living(NET).to(device)

    def decode_request(self, request: dict[str, Any]) -> Tensor:
        return torch.tensor(request["inputs"])

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs

    def predict(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
        found = summary(passes(self.model, torch.cat(x), PASSES))
        parts = {name: values.split([len(one) for one in x]) for name, values in found.items()}
        return [{name: values[i] for name, values in parts.items()} for i in range(len(x))]

    def unbatch(self, output: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        return output

    def encode_response(self, output: dict[str, Tensor]) -> dict[str, Any]:
        return {name: values.tolist() for name, values in output.items()}


if __name__ == "__main__":
    api = Api(max_batch_size=_MOST_REQUESTS, batch_timeout=_WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False)
