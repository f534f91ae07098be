"""The requests of a benchmark, as files, and whether a server reads them."""

import http.client
import json
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from served import Server
from serving_nets import NETS
from wire import Form, Question, rows_of

PASSES = 32
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Asking:
    """Rows to a network in one form."""

    net: str
    rows: int
    form: str

    def __str__(self) -> str:
        return f"{self.net} B = {self.rows} {self.form}"


def written(asking: Asking, form: Form, folder: Path, input_name: str = "x") -> Path:
    """The file of a request."""
    file = folder / f"{asking.net}-{asking.rows}-{asking.form.replace(' ', '-')}.http"
    if not file.exists():
        rows = rows_of(NETS[asking.net].shape, asking.rows)
        file.write_bytes(form(Question(asking.net, input_name, rows, PASSES)))
    return file


def refusal(server: Server, request: Path) -> str:
    """What a server answers that does not read a request; empty where it does."""
    with socket.create_connection(("127.0.0.1", server.port), _PATIENCE_S) as connection:
        connection.sendall(request.read_bytes())
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        body = answer.read()
    return "" if answer.status == 200 else f"{answer.status} {body[:120].decode(errors='replace')}"


def input_name(server: Server, net: str) -> str:
    """The name of the input of a model that mcdrop serves."""
    with urllib.request.urlopen(f"{server.url}/v1/models/{net}", timeout=_PATIENCE_S) as answer:  # noqa: S310 - loopback
        return str(json.load(answer)["inputs"][0]["name"])
