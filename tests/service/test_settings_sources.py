"""Where settings come from: flags, variables, the file; and the places that list them."""

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from mcdrop.cli.flags import default_of
from mcdrop.observability import logs
from mcdrop.settings import CommonSettings, Settings
from tests.service.conftest import assert_refused
from tests.support import settings_table

# What is written in a variable, and what it means: never the default.
GIVEN = {
    "bundles": ("/some/where", Path("/some/where")),
    "device": ("cuda:1", "cuda:1"),
    "threads": ("2", 2),
    "backend": ("onnx", "onnx"),
    "onnx_max_bytes": ("1048576", 2**20),
    "cache": ("/some/where/else", Path("/some/where/else")),
    "tune": ("0", False),
    "api_key": ("secret", SecretStr("secret")),
    "keys": ("/keys.json", Path("/keys.json")),
    "host": ("::1", "::1"),
    "port": ("9000", 9000),
    "allow_anonymous": ("1", True),
    "open_health": ("0", False),
    "open_metrics": ("1", True),
    "cors_origins": ("https://a.org, http://b:80", ("https://a.org", "http://b:80")),
    "tls_certificate": ("/chain.pem", Path("/chain.pem")),
    "tls_key": ("/key.pem", Path("/key.pem")),
    "max_body_bytes": ("10", 10),
    "max_passes": ("20", 20),
    "max_samples": ("30", 30),
    "max_length": ("40", 40),
    "max_timeout_ms": ("50", 50),
    "max_queue": ("60", 60),
    "max_pending_ms": ("70", 70),
    "batch_ms": ("80", 80),
    "max_loaded_bytes": ("90", 90),
    "watch": ("0", False),
    "drain_ms": ("0", 0),
    "log_format": ("json", "json"),
    "log_level": ("error", "error"),
    "traces": ("1", True),
}
TEXTS = {name: text for name, (text, _) in GIVEN.items()}
VALUES = {name: value for name, (_, value) in GIVEN.items()}
SECRETS = {"api_key"}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file of settings, which the environment names."""

    def write(text):
        path = tmp_path / "mcdrop.toml"
        path.write_text(text)
        monkeypatch.setenv("MCDROP_CONFIG", str(path))
        return path

    return write


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The settings with which servers would have been started: none is."""
    found = []
    monkeypatch.setattr(logs, "configure", lambda settings: None)
    monkeypatch.setattr("mcdrop.server.app.create_app", lambda settings, on_ready: settings)
    monkeypatch.setattr("mcdrop.server.run.run_server", lambda app, settings: found.append(settings))
    return found


@pytest.fixture
def serve(mcdrop, started):
    """Runs `mcdrop serve` up to where a server would start; returns its settings."""

    def run(*flags):
        assert mcdrop("serve", *flags) == (0, "", "")
        return started.pop()

    return run


def flags_of(texts):
    """The same on a command line."""
    for name, text in texts.items():
        flag = name.replace("_", "-")
        if isinstance(VALUES[name], bool):
            yield f"--{'' if VALUES[name] else 'no-'}{flag}"
        else:
            yield from (f"--{flag}", text)


def toml_of(values):
    """The same as a file."""
    return "".join(f"{name} = {json.dumps(_plain(value))}\n" for name, value in values.items())


def _plain(value):
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def test_every_setting_is_given_below_and_is_never_its_default():
    fields = Settings.model_fields
    assert set(GIVEN) == set(fields) - {"config"}
    assert [name for name in GIVEN if fields[name].default == VALUES[name]] == []


def test_every_setting_is_read_from_its_variable(monkeypatch):
    for name, text in TEXTS.items():
        monkeypatch.setenv(f"MCDROP_{name.upper()}", text)

    assert Settings().model_dump() == {"config": None, **VALUES}


def test_every_setting_is_read_from_the_file(monkeypatch, file):
    for name in ("DEVICE", "TUNE"):
        monkeypatch.delenv(f"MCDROP_{name}")
    path = file(toml_of(VALUES))

    assert Settings().model_dump() == {"config": path, **VALUES}
    common = {name: VALUES[name] for name in CommonSettings.model_fields if name != "config"}
    assert CommonSettings().model_dump() == {"config": path, **common}


def test_every_setting_but_a_secret_is_read_from_its_flag(serve, monkeypatch, file):
    path = file("")
    monkeypatch.delenv("MCDROP_CONFIG")
    texts = {name: text for name, text in TEXTS.items() if name not in SECRETS}

    settings = serve(*flags_of(texts), "--config", path)

    assert settings.model_dump() == {"config": path, **VALUES, "api_key": None}


def test_secrets_are_no_flags(mcdrop):
    code, _, err = mcdrop("serve", "--api-key", "hunter2")
    assert code == 2
    assert "No such option" in err
    assert {name for name, value in VALUES.items() if isinstance(value, SecretStr)} == SECRETS


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(serve, monkeypatch, file):
    assert serve().max_passes == 1000
    file("max_passes = 1\nwatch = false\ncors_origins = ['http://file']")
    assert (serve().max_passes, serve().watch, serve().cors_origins) == (1, False, ("http://file",))
    monkeypatch.setenv("MCDROP_MAX_PASSES", "2")
    monkeypatch.setenv("MCDROP_WATCH", "true")
    monkeypatch.setenv("MCDROP_CORS_ORIGINS", "http://env")
    assert (serve().max_passes, serve().watch, serve().cors_origins) == (2, True, ("http://env",))
    given = serve("--max-passes", "3", "--no-watch", "--cors-origins", "http://flag")
    assert (given.max_passes, given.watch, given.cors_origins) == (3, False, ("http://flag",))


def test_the_file_of_a_flag_wins_over_that_of_the_environment(serve, file, tmp_path):
    file("port = 1\nmax_queue = 7")
    other = tmp_path / "other.toml"
    other.write_text("port = 2")

    assert (serve("--config", other).port, serve("--config", other).max_queue) == (2, 1024)


@pytest.mark.parametrize(
    "flags",
    [("a", "b"), ("a,b",), ("a b",), (" a, ,b,",)],
    ids=["repeated", "commas", "spaces", "stray commas"],
)
def test_a_list_is_repeated_or_has_commas_between(serve, flags):
    given = [word for text in flags for word in ("--cors-origins", re.sub(r"\b(?=[ab])", "http://", text))]
    assert serve(*given).cors_origins == ("http://a", "http://b")


def test_an_empty_variable_is_as_unset(monkeypatch, file):
    file("port = 7\nkeys = 'k'")
    for name in GIVEN:
        monkeypatch.setenv(f"MCDROP_{name.upper()}", "")

    assert (Settings().port, Settings().keys, Settings().bundles) == (7, Path("k"), Path("bundles"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1\nmax_passes = 2\nAPI = 3", "mcdrop.toml has unknown settings: API, prot"),
        ("config = 'other.toml'", "mcdrop.toml has unknown settings: config"),
        ("[server]\nport = 1", "mcdrop.toml has unknown settings: server"),
        ("port = ", "mcdrop.toml cannot be read as TOML"),
        ("port = 'many'", "port: .*integer"),
        ("cors_origins = 1", "cors_origins: .*tuple"),
    ],
    ids=["unknown", "another file", "a table", "no TOML", "a wrong value", "no list"],
)
@pytest.mark.parametrize("command", [["serve"], ["models"]], ids=" ".join)
def test_a_file_that_is_wrong_is_refused_in_one_line(mcdrop, file, here, command, text, said):
    file(text)
    if command == ["models"] and said.startswith(("port", "cors")):
        assert mcdrop(*command)[0] == 0  # not a setting of it
    else:
        assert_refused(mcdrop(*command), said, code=2)


def test_a_file_that_is_not_there_is_refused(mcdrop, tmp_path):
    assert_refused(mcdrop("serve", "--config", tmp_path / "no.toml"), "no.toml cannot be read .*No such file", code=2)


def test_a_wrong_flag_is_refused_in_one_line_without_its_traceback(mcdrop):
    assert_refused(mcdrop("serve", "--port", "many", "--batch-ms", "0"), "port: .*integer.*; batch_ms: ", code=2)


def test_the_help_and_the_page_list_the_settings(mcdrop):
    _, out, _ = mcdrop("serve", "--help")

    helped = " ".join(out.split())
    for name, field in Settings.model_fields.items():
        default = default_of(field)
        told = f"{field.description} MCDROP_{name.upper()}{f', or {default}' if default else ''}."
        flag = rf"--{name.replace('_', '-')} [^.]*?"
        assert (re.search(flag + re.escape(told), helped) is None) == (name in SECRETS), name
    assert settings_table.shown() == settings_table.table(), "refresh it: python -m tests.support.settings_table"
