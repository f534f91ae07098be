"""What is right: each answer against the engine's own rows, each refusal against what is due. And what came of all."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from soak_asks import HUNG_S, Asked
from soak_truth import Truth


class Judge:
    """Keeps what became of each kind of request. Safe for many threads."""

    def __init__(self, truth: Truth) -> None:
        self._truth, self._lock = truth, threading.Lock()
        self._due: list[tuple[int, float, float]] = []
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._slowest_s: defaultdict[str, float] = defaultdict(float)
        self.wrong: list[tuple[str, str]] = []

    @contextmanager
    def due(self, status: int, after_s: float = 1.0) -> Iterator[None]:
        """While something is done to the server, and until those who waited have heard of it, it may refuse so."""
        start = time.monotonic()
        begun = (status, start, float("inf"))
        with self._lock:
            self._due.append(begun)
        try:
            yield
        finally:
            with self._lock:
                self._due.remove(begun)
                self._due.append((status, start, time.monotonic() + after_s))

    def judge(self, kind: str, ask: Callable[[], Asked]) -> int:
        """Send a request and keep what became of it. Returns the status of its answer; 0 where none came."""
        start = time.monotonic()
        try:
            asked = ask()
            end = time.monotonic()
            status, wrong = asked.status, self._wrong(asked, start, end)
        except TimeoutError:
            end, status, wrong = time.monotonic(), 0, f"hung: no answer in {HUNG_S:g} s"
        except Exception as error:  # noqa: BLE001 - whatever an answer does to its reader is what is looked for
            end, status, wrong = time.monotonic(), 0, f"{type(error).__name__}: {error}"
        self.keep(kind, str(status or ("broken" if wrong else "left")), wrong, end - start)
        return status

    def keep(self, kind: str, outcome: str, wrong: str, seconds: float) -> None:
        """What became of something; wrong: empty where all is well."""
        with self._lock:
            self._outcomes[kind][outcome] += 1
            self._slowest_s[kind] = max(self._slowest_s[kind], seconds)
            self.wrong += [(kind, wrong)] if wrong else []

    def rows(self) -> list[dict[str, object]]:
        """A row for each kind."""
        wrong = Counter(kind for kind, _ in self.wrong)
        return [
            {
                "kind": kind,
                "requests": outcomes.total(),
                "outcomes": " ".join(f"{number}×{outcome}" for outcome, number in outcomes.most_common()),
                "slowest_s": self._slowest_s[kind],
                "wrong": wrong[kind],
            }
            for kind, outcomes in self._outcomes.items()
        ]

    def _wrong(self, asked: Asked, start: float, end: float) -> str:
        if asked.status not in asked.right:
            if not self._is_due(asked.status, start, end):
                return f"status {asked.status}, not {asked.right[0]}: {asked.body[:120]!r}"
            told = asked.headers.get("retry-after", "")
            return "429 says no Retry-After" if asked.status == 429 and not told.isdecimal() else ""
        if asked.status != 200 or asked.question is None or asked.form is None:
            return ""
        answer = asked.form.read(asked.body, asked.headers)
        if asked.question.version not in {None, answer.version}:
            return f"version {answer.version} answered for {asked.question.version}"
        differs = self._truth.differs(asked.question, answer.version, answer.measures)
        return f"wrong rows: {differs} of {asked.question}, version {answer.version}" if differs else ""

    def _is_due(self, status: int, start: float, end: float) -> bool:
        with self._lock:
            return any(status == due and start <= last and first <= end for due, first, last in self._due)
