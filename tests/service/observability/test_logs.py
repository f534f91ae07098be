import io
import json
import logging
import re
import sys
from datetime import UTC, datetime

import anyio.to_thread
import pytest
from starlette.datastructures import Headers

from mcdrop.observability import logs
from mcdrop.observability.middleware import Exchange
from mcdrop.server.run import config_of
from mcdrop.settings import Settings
from tests.support.asgi import Served
from tests.support.events import answered
from tests.support.fakes import SECRET, NoCatalogue


def exchange_of(path="/v1/models/digits/predict", status=200, event=None, method="POST"):
    scope = {"method": method, "path": path, "client": ("10.0.0.7", 5)}
    return Exchange(scope, Headers({}), "mine", 1_000_000, 4_500_000, status, event)


@pytest.fixture
def lines(caplog, monkeypatch):
    """What was logged since, each as a formatter writes it."""
    caplog.set_level(logging.DEBUG, "mcdrop")

    def read(formatter=None):
        texts = [(formatter or logs.JsonLines()).format(record) for record in caplog.records]
        return texts if formatter else [json.loads(text) for text in texts]

    return read


@pytest.fixture
def told(quiet_again, monkeypatch):
    """What a configured server says: settings → a function that reads its lines."""

    def configure(tty=False, **settings):
        stream = io.StringIO()
        stream.isatty = lambda: tty
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(Settings(**settings))
        return lambda: stream.getvalue().splitlines()

    return configure


def test_the_line_of_a_request_says_all_of_it(lines):
    logs.log_exchange(exchange_of(event=answered(rows=3, passes=32)))

    (line,) = lines()
    datetime.fromisoformat(line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "mcdrop.access",
        "message": "POST /v1/models/digits/predict 200",
        "method": "POST",
        "path": "/v1/models/digits/predict",
        "status": 200,
        "model": "digits",
        "version": 2,
        "outcome": "success",
        "rows": 3,
        "passes": 32,
        "ms": 3.5,
        "client": "10.0.0.7",
    }


def test_the_line_of_a_request_about_no_model_says_what_there_is(lines):
    logs.log_exchange(exchange_of("/nowhere", 404))
    logs.log_exchange(exchange_of("/nowhere", None))

    found, cut_off = lines()
    assert set(found) == {"time", "level", "logger", "message", "method", "path", "status", "ms", "client"}
    assert (cut_off["status"], cut_off["message"], cut_off["level"]) == (None, "POST /nowhere -", "warning")


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [
        ("/v1/models", 200, "info"),
        ("/v1/models", 429, "info"),
        ("/v1/models", 500, "warning"),
        ("/healthz/ready", 200, "debug"),
        ("/healthz/ready", 503, "warning"),
        ("/v2/health/live", 200, "debug"),
        ("/metrics", 200, "debug"),
    ],
)
def test_failures_are_warnings_and_probes_that_went_well_are_for_debugging(lines, path, status, level):
    logs.log_exchange(exchange_of(path, status))

    assert [line["level"] for line in lines()] == [level]


def test_times_are_of_rfc_3339():
    record = logging.makeLogRecord({"created": datetime(2026, 11, 21, 3, 4, 5, 678_900, UTC).timestamp(), "msg": "x"})

    assert json.loads(logs.JsonLines().format(record))["time"] == "2026-11-21T03:04:05.678Z"
    assert logs.TextLines().format(record).startswith("2026-11-21T03:04:05.678Z ")


def test_a_text_line_says_nothing_twice(lines):
    logs.log_exchange(exchange_of(event=answered(rows=3, passes=32)))

    (line,) = lines(logs.TextLines())
    assert re.sub(r"^\S+ ", "", line) == (
        "INFO     POST /v1/models/digits/predict 200 "
        "model=digits version=2 outcome=success rows=3 passes=32 ms=3.5 client=10.0.0.7"
    )


@pytest.mark.parametrize("formatter", [logs.JsonLines(), logs.TextLines()], ids=["json", "text"])
def test_a_caller_forges_no_line_and_moves_no_cursor(lines, formatter):
    logs.log_exchange(exchange_of("/v1/\n2026 INFO all is well\x1b[2J\u2028\x85" + "x" * 1000, 404))

    (line,) = lines(formatter)
    assert line.isprintable()
    assert len(line) < 700


def _fail(message):
    raise ValueError(message)


def test_an_exception_is_one_field_of_one_line_and_in_text_lies_below(lines):
    with pytest.raises(ValueError, match="first") as caught:
        _fail("first\nsecond\x1b[2J")
    logging.getLogger("mcdrop").error("it failed", exc_info=caught.value)

    (document,), (text,) = lines(), lines(logs.TextLines())
    assert document["message"] == "it failed"
    assert document["exception"].startswith("Traceback (most recent call last):\n")
    assert document["exception"].endswith("ValueError: first\nsecond\x1b[2J")
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.endswith("ValueError: first\nsecond\\x1b[2J")


def test_half_a_character_loses_no_line():
    # Not logged: pytest sends what was logged to the process that reports it, which half a character ends.
    record = logging.makeLogRecord({"msg": "a\ud800", "levelname": "WARNING", "name": "mcdrop"})

    assert json.loads(logs.JsonLines().format(record).encode())["message"] == "a\ud800"
    logs.TextLines().format(record).encode()


def test_lines_of_a_request_carry_its_id_in_threads_too(bundles, server, lines):
    def speak():
        logging.getLogger("mcdrop").info("spoken")

    with Served(Settings(bundles=bundles), server.state.catalogue) as served:

        @served.app.get("/speak")
        async def _speaking() -> None:
            await anyio.to_thread.run_sync(speak)

        seen = []
        formatter = logs.JsonLines()
        handler = logging.Handler()
        handler.emit = lambda record: seen.append(json.loads(formatter.format(record)))
        logging.getLogger("mcdrop").addHandler(handler)
        served.get("/speak", headers={"X-Request-Id": "mine"})
        logging.getLogger("mcdrop").removeHandler(handler)

    assert [(line["message"], line["request_id"]) for line in seen if line["logger"].startswith("mcdrop")] == [
        ("spoken", "mine"),
        ("GET /speak 200", "mine"),
    ]


def test_bodies_keys_and_queries_are_in_no_line(bundles, server, lines):
    rows = [[[7654321.5] * 8] * 8]
    with Served(Settings(bundles=bundles, api_key="hunter2"), server.state.catalogue) as served:
        served.loaded()
        for key in ("hunter2", "wrong-hunter3"):
            headers = {"Authorization": f"Bearer {key}", "X-API-Key": key, "Cookie": key}
            served.post("/v1/models/digits/predict", {"inputs": rows}, headers=headers)
            served.get(f"/v1/models?token={key}", headers=headers)
        served.post("/v1/models/digits/predict", b"[7654321.5", headers={"X-API-Key": "hunter2"})

    text = json.dumps(lines()) + "".join(lines(logs.TextLines()))
    assert [line["status"] for line in lines() if line["logger"] == "mcdrop.access"] == [200, 200, 401, 401, 400]
    for secret in ("hunter2", "hunter3", "7654321", "token"):
        assert secret not in text


@pytest.mark.parametrize(
    ("tty", "log_format", "as_json"),
    [(False, "auto", True), (True, "auto", False), (True, "json", True), (False, "text", False)],
)
def test_the_format_follows_the_settings_and_the_terminal(told, tty, log_format, as_json):
    read = told(tty, log_format=log_format)

    logging.getLogger("mcdrop").info("hello")

    (line,) = read()
    assert line.startswith("{") is as_json
    assert "hello" in line


def test_the_level_is_of_our_own_lines_and_others_only_warn(told):
    for level, expected in (("debug", "abcdefh"), ("info", "bcdefh"), ("error", "df")):
        read = told(log_level=level)
        logging.getLogger("mcdrop").debug("a")
        logging.getLogger("mcdrop.access").info("b")
        logging.getLogger("uvicorn.error").info("c")
        logging.getLogger("mcdrop").error("d")
        logging.getLogger("mcdrop").warning("e")
        logging.getLogger("else").error("f")
        logging.getLogger("else").info("g")
        logging.getLogger("else").warning("h")
        assert "".join(json.loads(line)["message"] for line in read()) == expected


def test_to_configure_twice_says_nothing_twice(told):
    before, after = told(), told()

    logging.getLogger("mcdrop").info("hello")

    assert (len(before()), len(after())) == (0, 1)


def test_the_command_configures_them_and_uvicorn_says_nothing_in_its_own_way(mcdrop, monkeypatch):
    def run(app, settings):
        config = config_of(app, settings)
        logging.getLogger("mcdrop").info("%s %s", config.log_config, config.access_log)

    monkeypatch.setattr("mcdrop.server.app.create_app", lambda *_, **__: None)
    monkeypatch.setattr("mcdrop.server.run.run_server", run)

    code, out, said = mcdrop("serve", "--log-format", "json")

    assert (code, out, json.loads(said)["message"]) == (0, "", "None False")


def test_a_failure_of_ours_is_logged_with_its_id(bundles, caplog):
    with Served(Settings(bundles=bundles), NoCatalogue()) as failing:
        failing.get("/v1/models/digits", headers={"X-Request-Id": "mine"})
        assert failing.loaded()

    access = [record.fields for record in caplog.records if record.name == "mcdrop.access"]
    assert [one["status"] for one in access] == [500]
    assert SECRET not in json.dumps(access)
