import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import dropout_core
import mcdrop
import mcdrop_models
from mcdrop.settings import CommonSettings, Settings, is_loopback

LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "localhost"]
OPEN = ["0.0.0.0", "::", "192.168.1.4", "2001:db8::1", "example.org", "localhost.example.org", ""]


def test_without_environment_and_flags_only_this_machine_is_served(monkeypatch):
    monkeypatch.delenv("MCDROP_DEVICE")
    monkeypatch.delenv("MCDROP_TUNE")

    settings = Settings()

    assert (settings.host, settings.port, settings.bundles) == ("127.0.0.1", 8000, Path("bundles"))
    assert (settings.api_key, settings.keys, settings.allow_anonymous) == (None, None, False)
    assert (settings.open_health, settings.open_metrics, settings.cors_origins) == (True, False, ())
    assert (settings.max_body_bytes, settings.max_passes, settings.max_samples) == (33554432, 1000, 4194304)
    assert settings.model_dump() == {name: field.default for name, field in Settings.model_fields.items()}


def test_measured_choices_are_kept_at_home_or_where_was_said_or_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert CommonSettings(tune=True).tunings == tmp_path / ".cache" / "mcdrop" / "tunings"
    assert CommonSettings(tune=True, cache="/some/where").tunings == Path("/some/where/tunings")
    assert CommonSettings(tune=False).tunings is None


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
def test_an_address_that_lets_others_in_is_refused_and_the_ways_out_are_named(host):
    with pytest.raises(ValidationError) as refusal:
        Settings(host=host)

    assert f"listening on {host} lets others in" in str(refusal.value)
    assert "MCDROP_API_KEY" in str(refusal.value)
    assert "mcdrop key new" in str(refusal.value)
    assert "MCDROP_ALLOW_ANONYMOUS=1" in str(refusal.value)
    assert not is_loopback(host)


@pytest.mark.parametrize("host", OPEN, ids=lambda host: host or "no host")
@pytest.mark.parametrize("guard", [{"api_key": "k"}, {"keys": "keys.json"}, {"allow_anonymous": True}], ids=" ".join)
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
        {"max_timeout_ms": 0},
        {"max_queue": 0},
        {"max_pending_ms": 0},
        {"max_loaded_bytes": 0},
        {"batch_ms": 0},
        {"drain_ms": -1},
        {"log_format": "xml"},
        {"log_level": "loud"},
        {"cors_origins": "example.org"},
        {"cors_origins": "https://"},
        {"cors_origins": "https://example.org/"},
        {"cors_origins": "https://*.example.org"},
        {"cors_origins": "*,null"},
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


@pytest.mark.parametrize(("given", "missing"), [("tls_key", "tls_certificate"), ("tls_certificate", "tls_key")])
def test_a_certificate_takes_its_key(given, missing):
    with pytest.raises(ValidationError, match=f"{given} is set and {missing} is not; HTTPS needs both"):
        Settings(**{given: "x.pem"})
    assert (Settings().scheme, Settings(tls_key="k", tls_certificate="c").scheme) == ("http", "https")


def test_all_origins_must_be_written_out():
    assert Settings(cors_origins="*").cors_origins == ("*",)


def test_a_setting_that_is_none_is_refused():
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_no_other_file_reads_the_environment():
    roots = [Path(package.__file__).parent for package in (dropout_core, mcdrop_models, mcdrop)]
    readers = {
        path.name for root in roots for path in root.rglob("*.py") if re.search(r"os\.environ|getenv", path.read_text())
    }

    assert readers - {"settings.py"} == set()
    assert sum(len(list(root.rglob("*.py"))) for root in roots) > 30
