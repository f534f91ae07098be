"""Keys of a file, at a server that runs."""

import logging
from dataclasses import dataclass

import pytest

from mcdrop.security import auth
from mcdrop.security.keys import InvalidKeys, new_key, revoke_key
from mcdrop.settings import Settings
from tests.support.asgi import Served


@pytest.fixture
def clock(monkeypatch):
    """The time that keys go by; a call moves it on."""

    @dataclass
    class Clock:
        now: float = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(auth, "time", found)
    return found


@pytest.fixture
def keyed(bundles, server, tmp_path, clock):
    """A server with a file of one key, the file, and the key."""
    path = tmp_path / "keys.json"
    secret = new_key(path, "alice", "predict")
    with Served(Settings(bundles=bundles, keys=path), server.state.catalogue) as served:
        yield served.loaded(), path, secret


def status(served, key, path="/v1/models"):
    return served.get(path, headers={"X-API-Key": key}).status_code


def test_keys_of_a_file_open_and_are_seen_when_the_file_changes(keyed, clock):
    served, path, alice = keyed
    assert (status(served, alice), status(served, "wrong"), status(served, "")) == (200, 401, 401)

    bob = new_key(path, "bob", "predict")
    revoke_key(path, "alice")
    assert (status(served, alice), status(served, bob)) == (200, 401)  # looked at less than a second ago
    clock.now += 1
    assert (status(served, alice), status(served, bob)) == (401, 200)


def test_the_hash_of_a_key_is_no_key(keyed):
    served, path, _ = keyed
    assert status(served, auth.read_keys(path)[0].sha256) == 401


@pytest.mark.parametrize("broken", ["{", None], ids=["broken", "gone"])
def test_a_file_that_is_broken_or_gone_keeps_the_keys_and_is_logged_once(keyed, clock, caplog, broken):
    served, path, alice = keyed
    whole = path.read_text()
    path.unlink()
    if broken is not None:
        path.write_text(broken)
    for _ in range(3):
        clock.now += 1
        assert (status(served, alice), status(served, "wrong")) == (200, 401)
    lines = [record.getMessage() for record in caplog.records if record.name == "mcdrop"]
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert lines[0].endswith("The keys that were read before stay valid.")

    path.write_text(whole)
    revoke_key(path, "alice")
    clock.now += 1
    assert status(served, alice) == 401


def test_a_file_is_looked_at_once_a_second_and_read_only_when_it_has_changed(keyed, clock, monkeypatch):
    served, _, alice = keyed
    looked, read = [], []
    stamp, read_keys = auth._stamp, auth.read_keys
    monkeypatch.setattr(auth, "_stamp", lambda path: looked.append(path) or stamp(path))
    monkeypatch.setattr(auth, "read_keys", lambda path: read.append(path) or read_keys(path))
    for _ in range(10):
        clock.now += 0.25
        assert status(served, alice) == 200
    assert (len(looked), read) == (2, [])


def test_a_server_does_not_start_without_its_file_of_keys(bundles, tmp_path):
    with pytest.raises(InvalidKeys, match=r"no\.json cannot be read: No such file"):
        Served(Settings(bundles=bundles, keys=tmp_path / "no.json"))


def test_keys_of_a_file_are_in_no_log_and_no_answer(keyed, clock, caplog):
    caplog.set_level(logging.DEBUG)
    served, path, alice = keyed
    clock.now += 2
    new_key(path, "bob", "admin")
    answers = [served.get(url, headers={"Authorization": f"Bearer {alice}"}) for url in ("/v1/models", "/nowhere")]

    told = caplog.text + "".join(str(answer.headers) + answer.text for answer in answers)
    assert "read 2 keys from" in told
    assert alice not in told
    assert not any(key.sha256 in told for key in auth.read_keys(path))
    assert alice not in repr(vars(served.state.settings))
