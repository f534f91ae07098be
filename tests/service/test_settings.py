import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

import dropout_core
import models
import service
from service.settings import CommonSettings, Settings, is_loopback

LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "localhost"]
VARIABLES = {
    "host": ("::1", "::1"),
    "port": ("9000", 9000),
    "bundles": ("/some/where", Path("/some/where")),
    "api_key": ("secret", SecretStr("secret")),
    "device": ("cuda:1", "cuda:1"),
    "allow_anonymous": ("1", True),
    "max_body_bytes": ("10", 10),
    "max_passes": ("20", 20),
    "max_samples": ("30", 30),
    "max_length": ("30", 30),
    "cache": ("/some/where", Path("/some/where")),
    "tune": ("0", False),
    "threads": ("2", 2),
}
OPEN = ["0.0.0.0", "::", "192.168.1.4", "2001:db8::1", "example.org", "localhost.example.org", ""]


def test_without_environment_and_flags_only_this_machine_is_served(monkeypatch):
    monkeypatch.delenv("MCDROP_DEVICE")

    settings = Settings()

    assert (settings.host, settings.port, settings.bundles) == ("127.0.0.1", 8000, Path("bundles"))
    assert (settings.api_key, settings.allow_anonymous, settings.device, settings.threads) == (None, False, "auto", 1)
    assert (settings.max_body_bytes, settings.max_passes, settings.max_samples) == (33554432, 1000, 4194304)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_setting_is_read_from_its_variable(monkeypatch, name):
    text, value = VARIABLES[name]
    monkeypatch.setenv(f"MCDROP_{name.upper()}", text)

    assert getattr(Settings(), name) == value


def test_there_is_a_variable_for_every_setting():
    assert set(VARIABLES) == set(Settings.model_fields)


def test_measured_choices_are_kept_at_home_or_where_was_said_or_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert CommonSettings(tune=True).tunings == tmp_path / ".cache" / "mcdrop" / "tunings"
    assert CommonSettings(tune=True, cache="/some/where").tunings == Path("/some/where/tunings")
    assert CommonSettings(tune=False).tunings is None


def test_a_flag_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("MCDROP_PORT", "9000")

    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize("kind", [CommonSettings, Settings], ids=["of every command", "of the server"])
def test_an_empty_key_is_no_key(monkeypatch, kind):
    monkeypatch.setenv("MCDROP_API_KEY", "")

    assert kind().api_key is None


def test_an_empty_key_opens_no_address(monkeypatch):
    monkeypatch.setenv("MCDROP_API_KEY", "")

    with pytest.raises(ValidationError, match="MCDROP_API_KEY"):
        Settings(host="0.0.0.0")


def test_a_key_is_not_printed():
    assert "hunter2" not in repr(Settings(api_key="hunter2")) + str(Settings(api_key="hunter2").model_dump())


@pytest.mark.parametrize("host", OPEN, ids=lambda host: host or "no host")
def test_an_address_that_lets_others_in_is_refused_and_both_ways_out_are_named(host):
    with pytest.raises(ValidationError) as refusal:
        Settings(host=host)

    assert f"listening on {host} lets others in" in str(refusal.value)
    assert "MCDROP_API_KEY" in str(refusal.value)
    assert "MCDROP_ALLOW_ANONYMOUS=1" in str(refusal.value)
    assert not is_loopback(host)


@pytest.mark.parametrize("host", OPEN, ids=lambda host: host or "no host")
@pytest.mark.parametrize("guard", [{"api_key": "k"}, {"allow_anonymous": True}], ids=["a key", "anonymous allowed"])
def test_with_a_key_or_anonymous_allowed_any_address_will_do(host, guard):
    assert Settings(host=host, **guard).host == host


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_alone_needs_no_key(host):
    assert Settings(host=host).api_key is None
    assert is_loopback(host)


@pytest.mark.parametrize(
    "flags",
    [
        {"port": 0},
        {"port": 65536},
        {"max_passes": 0},
        {"max_samples": 0},
        {"max_length": 0},
        {"max_body_bytes": 0},
        {"threads": 0},
        {"device": "tpu"},
        {"device": "cuda:"},
        {"device": "cuda:x"},
        {"device": "cpu\n"},
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_refused_by_name(flags):
    with pytest.raises(ValidationError) as refusal:
        Settings(**flags)

    assert [error["loc"] for error in refusal.value.errors()] == [tuple(flags)]


def test_a_setting_that_is_none_is_refused():
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_no_other_file_reads_the_environment():
    roots = [Path(package.__file__).parent for package in (dropout_core, models, service)]
    readers = {
        path.name for root in roots for path in root.rglob("*.py") if re.search(r"environ|getenv", path.read_text())
    }

    assert readers - {"settings.py"} == set()
    assert sum(len(list(root.rglob("*.py"))) for root in roots) > 30
