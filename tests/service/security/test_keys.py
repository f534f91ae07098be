import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from mcdrop.security import keys
from mcdrop.security.keys import InvalidKeys, digest_of, new_key, read_keys, revoke_key
from tests.service.conftest import assert_refused

# Adds keys to a file, or stops for good in the middle of writing the first.
ADDER = """
import sys, time
from pathlib import Path
import mcdrop.security.keys as keys

path, name, count, hangs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "hangs"
if hangs:
    def sync(descriptor):
        print("half written", flush=True)
        time.sleep(600)
    keys.os.fsync = sync
for place in range(count):
    keys.new_key(path, f"{name}{place}", "predict")
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def adder(path, name, count, hangs=""):
    arguments = [sys.executable, "-c", ADDER, path, name, str(count), hangs]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def names(path):
    return [key.name for key in read_keys(path)]


def test_a_key_is_printed_once_and_its_hash_is_kept(mcdrop, path):
    before = datetime.now(UTC).replace(microsecond=0)
    code, out, err = mcdrop("key", "new", "alice", "--keys", path)
    secret = out.removesuffix("\n")
    made = read_keys(path)

    assert (code, path.read_text().count(secret), err.count(secret)) == (0, 0, 0)
    assert re.fullmatch(r"mcd_[A-Za-z0-9_-]{43}", secret)
    assert f"only once; {path} has its hash" in err
    assert [(key.name, key.scope, key.sha256) for key in made] == [
        ("alice", "predict", hashlib.sha256(secret.encode()).hexdigest())
    ]
    assert before <= made[0].created <= datetime.now(UTC)


def test_the_life_of_keys(mcdrop, path):
    first = mcdrop("key", "new", "alice", "--keys", path)[1]
    second = mcdrop("key", "new", "ops.1", "--scope", "admin", "--keys", path)[1]
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    assert first != second
    assert mcdrop("key", "list", "--keys", path) == (0, f"alice\tpredict\t{day}\nops.1\tadmin\t{day}\n", "")

    assert mcdrop("key", "revoke", "alice", "--keys", path) == (0, "", "")
    assert mcdrop("key", "list", "--keys", path) == (0, f"ops.1\tadmin\t{day}\n", "")
    again = mcdrop("key", "new", "alice", "--keys", path)[1]
    assert again != first
    for name in ("alice", "ops.1"):
        mcdrop("key", "revoke", name, "--keys", path)
    assert json.loads(path.read_text()) == {"format": 1, "keys": []}


def test_the_file_comes_from_the_settings(mcdrop, path, monkeypatch):
    assert_refused(mcdrop("key", "list"), "there is no file of keys: name one with --keys FILE or with MCDROP_KEYS")
    monkeypatch.setenv("MCDROP_KEYS", str(path))
    assert mcdrop("key", "new", "alice")[0] == 0
    assert names(path) == ["alice"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["new", "alice"], "has a key alice already; revoke it first"),
        (["new", "a b"], "'a b' cannot name a key"),
        (["new", ".a"], "'.a' cannot name a key"),
        (["new", "a" * 65], "cannot name a key"),
        (["new", "a\nb"], "cannot name a key"),
        (["revoke", "bob"], "has no key 'bob'; it has alice"),
    ],
    ids=["taken", "a space", "a sign first", "long", "lines", "nobody"],
)
def test_a_mistake_is_one_line_and_changes_nothing(mcdrop, path, args, said):
    new_key(path, "alice", "admin")
    before = path.read_bytes()

    assert_refused(mcdrop("key", *args, "--keys", path), said)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_scope_is_refused(mcdrop, path):
    code, _, err = mcdrop("key", "new", "alice", "--scope", "root", "--keys", path)
    assert (code, path.exists()) == (2, False)
    assert "root" in err


@pytest.mark.parametrize("example", ["new", "list", "revoke"])
def test_the_help_of_a_command_has_an_example(mcdrop, example):
    assert f"Example: `mcdrop key {example} " in mcdrop("key", example, "--help")[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a file of keys"),
        ("[]", "is not a file of keys"),
        ('{"format": 2, "keys": []}', "is not a file of keys: format: "),
        ('{"keys": [{"name": "a", "scope": "predict", "sha256": "s3cret", "created": 0}]}', "keys.0.sha256"),
        ('{"keys": [], "more": 1}', "more: Extra"),
        (None, "cannot be read: No such file or directory. mcdrop key new NAME --keys"),
    ],
    ids=["empty", "a list", "another format", "no hash", "more", "not there"],
)
def test_a_broken_file_is_refused_and_what_stands_in_it_is_not_told(mcdrop, path, text, said):
    if text is not None:
        path.write_text(text)
        with pytest.raises(InvalidKeys, match="is not a file of keys"):
            new_key(path, "alice", "predict")
        assert path.read_text() == text
    assert_refused(mcdrop("key", "list", "--keys", path), said)
    assert "s3cret" not in mcdrop("key", "list", "--keys", path)[2]


def test_a_new_file_is_its_owners_alone_and_a_change_keeps_the_mode(path):
    before = os.umask(0)
    try:
        new_key(path, "alice", "predict")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    path.chmod(0o640)
    before = os.umask(0o077)
    try:
        new_key(path, "bob", "predict")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_still_leads_to_the_file_when_it_has_changed(path, tmp_path):
    (tmp_path / "kept").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("kept/keys.json")
    new_key(link, "alice", "predict")
    revoke_key(link, "alice")
    new_key(link, "bob", "predict")

    assert link.is_symlink()
    assert names(tmp_path / "kept" / "keys.json") == ["bob"]


def test_two_processes_at_once_lose_no_key(path):
    processes = [adder(path, name, 20) for name in ("a", "b")]

    assert [process.communicate()[0] or process.returncode for process in processes] == [0, 0]
    assert sorted(names(path)) == sorted(f"{name}{place}" for name in "ab" for place in range(20))
    assert len({key.sha256 for key in read_keys(path)}) == 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_process_killed_in_the_middle_leaves_the_old_file_and_no_lock(path):
    new_key(path, "alice", "predict")
    before = path.read_bytes()
    process = adder(path, "bob", 1, "hangs")
    assert process.stdout.readline() == "half written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert path.read_bytes() == before
    new_key(path, "carol", "predict")
    assert names(path) == ["alice", "carol"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    new_key(path, "alice", "predict")
    before = path.read_bytes()

    def full(_):
        raise OSError("the disk is full")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        new_key(path, "bob", "predict")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_second_writer_waits_for_the_first(path):
    writer = threading.Thread(target=new_key, args=(path, "alice", "predict"))
    with keys.locked(path.parent):
        writer.start()
        writer.join(0.2)  # it would need a thousandth of that
        assert (writer.is_alive(), path.exists()) == (True, False)
    writer.join()
    assert names(path) == ["alice"]


def test_a_hash_is_sha_256():
    assert digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
