"""The kinds of requests of a soak: what each sends, and which answers are right."""

import contextlib
import http.client
import json
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from soak_forms import Form, Sent
from soak_truth import POOL, Question

HUNG_S = 30.0
_PIECES, _PAUSE_S = 8, 0.1
_NO_ANSWER = 0


@dataclass(frozen=True)
class Asked:
    """What was answered, and what is right: some statuses, and of 200 the engine's rows where there is a question."""

    status: int
    right: tuple[int, ...]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    question: Question | None = None
    form: Form | None = None


@dataclass(frozen=True)
class Asker:
    """Asks a server. too_long: more bytes than it takes."""

    port: int
    forms: Mapping[str, Form]
    random: random.Random
    too_long: int

    def question(self, rows: Iterable[int] = (1, 3, 16)) -> tuple[Question, Form]:
        """One of a few hundred, so that most of the engine's answers are known already, in any form."""
        model = self.random.choice(["digits", "digits", "other"])
        version = 1 if self.random.random() < 0.2 else None
        size = self.random.choice(tuple(rows))
        start = self.random.randrange(0, POOL - size + 1, 64)
        passes, seed = self.random.choice([8, 32]), self.random.choice([0, 7])
        form = self.forms[self.random.choice(sorted(self.forms))]
        return Question(model, start, size, passes, seed, version), form

    def whole(self, sent: Sent, *right: int, method: str = "POST") -> Asked:
        """A request in one piece. Raises TimeoutError where no answer comes in time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HUNG_S)
        with contextlib.closing(connection):
            connection.request(method, sent.path, sent.body, dict(sent.headers))
            return _answered(connection.getresponse(), right)

    def asked(self, question: Question, form: Form) -> Asked:
        """A question that must be answered."""
        return _with(self.whole(form.sent(question), 200), question, form)

    def in_pieces(self, sent: Sent, *right: int) -> Asked:
        """A request whose body comes slowly."""
        with socket.create_connection(("127.0.0.1", self.port), HUNG_S) as connection:
            connection.sendall(_head(sent, len(sent.body)))
            size = -(-len(sent.body) // _PIECES)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it answered before the end
                for at in range(0, len(sent.body), size):
                    connection.sendall(sent.body[at : at + size])
                    time.sleep(_PAUSE_S)
            return _read(connection, right)

    def left(self, sent: Sent, share: float, wait_s: float) -> Asked:
        """No answer is waited for: so much of the body is sent, and the connection closed."""
        with socket.create_connection(("127.0.0.1", self.port), HUNG_S) as connection:
            connection.sendall(_head(sent, len(sent.body)) + sent.body[: int(share * len(sent.body))])
            time.sleep(wait_s)
        return Asked(_NO_ANSWER, (_NO_ANSWER,))

    def announced(self, sent: Sent, length: int, *right: int) -> Asked:
        """A request that says how long its body is, of which nothing comes."""
        with socket.create_connection(("127.0.0.1", self.port), HUNG_S) as connection:
            connection.sendall(_head(sent, length))
            return _read(connection, right)


def good(asker: Asker) -> Asked:
    return asker.asked(*asker.question())


def large(asker: Asker) -> Asked:
    """More rows than one batch takes, where batches are short."""
    return asker.asked(*asker.question(rows=[POOL]))


def slow(asker: Asker) -> Asked:
    question, form = asker.question()
    return _with(asker.in_pieces(form.sent(question), 200), question, form)


def too_slow(asker: Asker) -> Asked:
    question, form = asker.question()
    return asker.in_pieces(_hurried(form.sent(question), 200), 408)


def too_late(asker: Asker) -> Asked:
    """Half a second's computing within 20 ms, of which reading may take all; or it is refused for what waits."""
    _, form = asker.question()
    return asker.whole(_hurried(form.sent(Question("digits", 0, POOL, 100, 3)), 20), 504, 408, 429)


def aborted(asker: Asker) -> Asked:
    question, form = asker.question(rows=[16, POOL])
    return asker.left(form.sent(question), asker.random.choice([0.0, 0.5, 1.0]), asker.random.choice([0.0, 0.01]))


def oversized(asker: Asker) -> Asked:
    question, form = asker.question()
    return asker.announced(form.sent(question), asker.too_long, 413)


def bad(asker: Asker) -> Asked:
    path, body, status = asker.random.choice(_BAD)
    return asker.whole(Sent(path, body, {"Content-Type": "application/json"}), status)


_PREDICT = "/v1/models/digits/predict"
_ROW = [[0.5] * 8] * 8
_BAD: tuple[tuple[str, bytes, int], ...] = (
    (_PREDICT, b'{"inputs": [[', 400),
    (_PREDICT, b"[1]", 422),
    (_PREDICT, json.dumps({"inputs": [_ROW[:7]]}).encode(), 422),
    (_PREDICT, json.dumps({"inputs": [_ROW], "outputs": ["certainty"]}).encode(), 422),
    (_PREDICT, json.dumps({"inputs": [_ROW], "passes": 10**6}).encode(), 422),
    ("/v1/models/nothing/predict", json.dumps({"inputs": [_ROW]}).encode(), 404),
    ("/v1/models/digits/versions/999/predict", json.dumps({"inputs": [_ROW]}).encode(), 404),
    ("/v1/models", b"", 405),
    ("/v2/models/digits/infer", b"{", 400),
    ("/v2/models/digits/infer", b'{"inputs": []}', 400),
    ("/v2/models/nothing/infer", b'{"inputs": []}', 404),
)
# how often each comes
KINDS: dict[Callable[[Asker], Asked], int] = {
    good: 60, large: 4, slow: 3, too_slow: 3, too_late: 3, aborted: 10, oversized: 5, bad: 12,
}  # fmt: skip


def _hurried(sent: Sent, milliseconds: int) -> Sent:
    return Sent(sent.path, sent.body, {**sent.headers, "X-Request-Timeout-Ms": str(milliseconds)})


def _head(sent: Sent, length: int) -> bytes:
    fields = {"Host": "127.0.0.1", "Content-Length": str(length), **sent.headers}
    lines = [f"POST {sent.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def _read(connection: socket.socket, right: tuple[int, ...]) -> Asked:
    answer = http.client.HTTPResponse(connection, method="POST")
    answer.begin()
    return _answered(answer, right)


def _answered(answer: http.client.HTTPResponse, right: tuple[int, ...]) -> Asked:
    body = answer.read()
    return Asked(answer.status, right, body, {name.lower(): value for name, value in answer.getheaders()})


def _with(asked: Asked, question: Question, form: Form) -> Asked:
    return Asked(asked.status, asked.right, asked.body, asked.headers, question, form)
