import shutil
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
import uvicorn

from mcdrop.cli import console
from mcdrop.observability import logs
from mcdrop.server import run as serving
from mcdrop.server.app import create_app
from mcdrop.server.run import config_of, run_server
from mcdrop.settings import InvalidConfig, Settings
from tests.service.conftest import assert_refused
from tests.support.processes import free_port


@pytest.fixture(autouse=True)
def _logs_as_they_are(monkeypatch):
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda self: None)
    monkeypatch.setattr(logs, "configure", lambda settings: None)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with a certificate of 127.0.0.1, its key, another key, and its key behind a passphrase."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("pem")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    openssl("genpkey", *curve, "-out", "key.pem")
    openssl("genpkey", *curve, "-out", "other.pem")
    openssl("pkcs8", "-topk8", "-in", "key.pem", "-out", "locked.pem", "-passout", "pass:secret")
    name = ["-subj", "/CN=mcdrop test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    openssl("req", "-x509", "-key", "key.pem", "-out", "chain.pem", *name)
    return folder


def test_https_is_served_with_a_certificate_that_callers_can_check(bundles, server, pem):
    settings = Settings(
        bundles=bundles, port=free_port(), tls_certificate=pem / "chain.pem", tls_key=pem / "key.pem", log_level="error"
    )
    app = create_app(settings)
    app.state.mcdrop.catalogue = server.state.catalogue
    running = uvicorn.Server(config_of(app, settings))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.005)
    trusting = ssl.create_default_context(cafile=pem / "chain.pem")
    try:
        url = f"127.0.0.1:{settings.port}/v1/models"
        assert httpx.get(f"https://{url}", verify=trusting).json()["models"]
        with pytest.raises(httpx.ConnectError, match="self-signed certificate"):
            httpx.get(f"https://{url}")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{url}")
    finally:
        running.should_exit = True
        thread.join()


def test_https_is_what_is_announced(capsys):
    console.announce(Settings(tls_certificate="c", tls_key="k"), SimpleNamespace(loaded=list))
    address = "https://127.0.0.1:8000"
    assert capsys.readouterr().out == f"mcdrop serves no model yet on {address} (try {address}/docs)\n"


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("no.pem", "key.pem", "no.pem cannot be read: No such file or directory"),
        ("chain.pem", "no.pem", "no.pem cannot be read: No such file or directory"),
        ("chain.pem", ".", "cannot be read: Is a directory"),
        ("chain.pem", "other.pem", "not a certificate and its key: .*MISMATCH"),
        ("key.pem", "chain.pem", "not a certificate and its key: "),
        ("chain.pem", "locked.pem", "not a certificate and its key: .*the key without a passphrase"),
    ],
    ids=["no certificate", "no key", "a folder", "another's key", "exchanged", "a passphrase"],
)
def test_what_is_no_certificate_and_its_key_is_refused_before_a_server_starts(mcdrop, pem, certificate, key, said):
    flags = ["--tls-certificate", pem / certificate, "--tls-key", pem / key, "--port", free_port()]
    assert_refused(mcdrop("serve", *flags), said, code=2)


def test_uvicorn_listens_where_the_settings_say_and_waits_for_what_drains():
    config = config_of(None, Settings(host="::1", port=81, drain_ms=1999))
    assert (config.host, config.port, config.is_ssl) == ("::1", 81, False)
    assert config.timeout_graceful_shutdown >= 1.999


def test_a_server_that_cannot_start_ends_the_command_with_3(bundles, monkeypatch):
    monkeypatch.setattr(serving.signal, "signal", lambda *_: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: None)
    settings = Settings(bundles=bundles)
    app = create_app(settings)
    with pytest.raises(SystemExit) as end:
        run_server(app, settings)
    app.state.mcdrop.close()
    assert end.value.code == 3


def test_a_wrong_certificate_is_a_wrong_setting(tmp_path):
    (tmp_path / "x.pem").write_text("x")
    with pytest.raises(InvalidConfig, match=r"x\.pem are not a certificate"):
        config_of(None, Settings(tls_certificate=tmp_path / "x.pem", tls_key=tmp_path / "x.pem"))


def test_the_application_can_be_made_from_the_environment(bundles, monkeypatch):
    monkeypatch.setenv("MCDROP_BUNDLES", str(bundles))

    config = uvicorn.Config("mcdrop.server.app:create_app", factory=True, log_config=None)
    config.load()

    state = create_app().state.mcdrop
    assert state.settings.bundles == bundles
    state.close()
    assert config.loaded
