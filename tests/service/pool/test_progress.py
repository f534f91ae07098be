"""How far a ranking is: a bar where a terminal is, nothing elsewhere."""

import io

from rich.console import Console

from mcdrop.cli import console


def drawn(monkeypatch, *, terminal):
    file = io.StringIO()
    now = [0.0]
    shown = Console(file=file, force_terminal=terminal, width=120, get_time=lambda: now[0])
    monkeypatch.setattr(console, "_err", shown)
    with console.rows() as on_rows:
        on_rows("targets", 7, 7)
        for done in (1000, 1500, 2000):  # the first thousand were done before
            on_rows("pool", done, 4000)
            now[0] += 1
    return file.getvalue()


def test_a_terminal_sees_rows_their_rate_and_what_is_left(monkeypatch):
    text = drawn(monkeypatch, terminal=True)
    assert "pool" in text
    assert "2000/4000" in text
    assert "500 rows/s" in text
    assert "0:00:04" in text
    assert "7/7" in text


def test_elsewhere_nothing_is_written(monkeypatch):
    assert drawn(monkeypatch, terminal=False) == ""
