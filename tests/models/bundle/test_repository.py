"""Versions on disk count up, are listed newest first, are whole or refused, and never lie outside of the root."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mcdrop_models.bundle.manifest import sha256
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.errors import InvalidBundle, UnknownModel
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.manifests import PROGRAM_BYTES, WEIGHTS_BYTES, put, sample_manifest
from tests.support.program_nets import Mlp, seeded
from tests.support.side_effects import watched

_BAD_NAMES = ["..", ".", "../x", "a/b", "/etc", "", "A", "x" * 65, "a\n", "a\0", "-a", "_a", "é", ".hidden", "~"]


def test_versions_count_up_for_each_name_and_newest_comes_first(tmp_path):
    assert [put(tmp_path) for _ in range(11)] == list(range(1, 12))
    assert put(tmp_path, name="another") == 1
    repository = Repository(tmp_path)
    assert repository.names() == ["another", "net"]
    assert repository.versions("net") == list(range(11, 0, -1))  # by number, not by text
    assert [(e.name, e.version) for e in repository.entries()] == [
        ("another", 1),
        *(("net", version) for version in range(11, 0, -1)),
    ]


def test_what_was_published_is_what_is_read(tmp_path):
    manifest = sample_manifest()
    version = Repository(tmp_path).publish(manifest, PROGRAM_BYTES, WEIGHTS_BYTES)
    files = Repository(str(tmp_path)).read("net", version)
    assert (files.manifest, files.program, files.weights) == (manifest, PROGRAM_BYTES, WEIGHTS_BYTES)
    entry = Repository(tmp_path).entry("net", version)
    assert (entry.manifest, entry.reason) == (manifest, "")


def test_the_version_after_a_removed_one_is_new(tmp_path):
    """A number is not used again while a later version exists."""
    for _ in range(3):
        put(tmp_path)
    for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE):
        (tmp_path / "net" / "2" / file).unlink()
    (tmp_path / "net" / "2").rmdir()
    assert put(tmp_path) == 4
    assert Repository(tmp_path).versions("net") == [4, 3, 1]


def test_a_root_without_bundles_is_empty(tmp_path):
    repository = Repository(tmp_path / "not" / "there")
    assert (repository.names(), repository.versions("net"), repository.entries()) == ([], [], [])
    with pytest.raises(UnknownModel, match="there is no model 'net'; there are none"):
        repository.read("net", 1)
    assert not (tmp_path / "not").exists()


def test_an_unknown_version_names_those_there_are(tmp_path):
    put(tmp_path)
    put(tmp_path)
    with pytest.raises(UnknownModel, match=r"net has no version 3; it has 2, 1\."):
        Repository(tmp_path).read("net", 3)


@pytest.mark.parametrize("folder", ["0", "01", "1.0", "-1", "+1", "v1", "1\n", "\u0661", "1e1", ".publish-7", "9" * 10])
def test_other_folders_are_no_versions(tmp_path, folder):
    (tmp_path / "net" / folder).mkdir(parents=True)
    assert Repository(tmp_path).versions("net") == []
    assert Repository(tmp_path).names() == []
    assert put(tmp_path) == 1


def test_files_beside_the_names_are_not_listed(tmp_path):
    put(tmp_path)
    (tmp_path / "notes").write_text("a file")
    (tmp_path / "Upper" / "1").mkdir(parents=True)
    (tmp_path / ".cache" / "1").mkdir(parents=True)
    (tmp_path / "net" / "2").write_text("a file where a version might be")
    assert Repository(tmp_path).names() == ["net"]
    assert Repository(tmp_path).versions("net") == [1]
    assert put(tmp_path) == 3  # the name 2 is taken by the link


def test_a_dangling_link_occupies_its_version(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "1").symlink_to(tmp_path / "gone")
    assert put(tmp_path) == 2


@pytest.mark.parametrize("name", _BAD_NAMES, ids=repr)
def test_no_name_reaches_outside_of_the_root(tmp_path, name):
    put(tmp_path, name="x")  # the bundle that "../x" would reach
    repository = Repository(tmp_path / "bundles")
    put(repository.root)
    net, rows = seeded(Mlp), torch.ones(2, 4)
    calls = [
        lambda: repository.versions(name),
        lambda: repository.read(name, 1),
        lambda: repository.entry(name, 1),
        lambda: Predictor.load(repository, name, 1),
        lambda: publish(net, rows, name=name, task="classification", root=repository.root),
    ]
    for call in calls:
        with watched() as events, pytest.raises(UnknownModel, match="is not a model name"):
            call()
        assert events == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles", "x"]


def test_the_bad_names_would_reach_something(tmp_path):
    """The names above are refused as names, not because there is no bundle: a good name is found."""
    put(tmp_path, name="x" * 64)
    assert Repository(tmp_path).read("x" * 64, 1).manifest.name == "x" * 64


def _spoil(folder, file, how):
    path = folder / file
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a link":
        elsewhere = folder.parent.parent / "elsewhere"
        elsewhere.write_bytes(content)  # the target of the link is a valid file
        path.symlink_to(elsewhere)
    elif how == "a pipe":
        os.mkfifo(path)  # reading a pipe would wait for ever


@pytest.mark.parametrize("file", [MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "changed", "a folder", "a link", "a pipe"])
def test_a_spoilt_version_is_listed_with_its_reason_and_never_read(tmp_path, file, how):
    put(tmp_path)
    put(tmp_path)
    repository = Repository(tmp_path)
    _spoil(tmp_path / "net" / "2", file, how)
    spoilt, whole = repository.entries()
    assert (spoilt.version, spoilt.manifest) == (2, None)
    assert file in spoilt.reason
    assert (whole.version, whole.reason) == (1, "")
    with pytest.raises(InvalidBundle, match=file.replace(".", r"\.")):
        repository.read("net", 2)
    with pytest.raises(InvalidBundle):
        Predictor.load(repository, "net", 2)


def test_a_version_that_is_a_link_is_not_followed(tmp_path):
    put(tmp_path / "elsewhere")
    put(tmp_path / "bundles")
    (tmp_path / "bundles" / "net" / "2").symlink_to(tmp_path / "elsewhere" / "net" / "1")
    repository = Repository(tmp_path / "bundles")
    assert repository.versions("net") == [1]
    with pytest.raises(UnknownModel):
        repository.read("net", 2)


def test_a_bundle_under_another_name_is_refused(tmp_path):
    put(tmp_path)
    (tmp_path / "net").rename(tmp_path / "renamed")
    with pytest.raises(InvalidBundle, match="belongs to 'net'"):
        Repository(tmp_path).read("renamed", 1)


@pytest.mark.parametrize(("file", "bound"), [(MANIFEST_FILE, 2**20), (PROGRAM_FILE, 2**26), (WEIGHTS_FILE, 2**37)])
def test_a_file_is_bounded_before_it_is_read(tmp_path, file, bound):
    put(tmp_path)
    path = tmp_path / "net" / "1" / file
    os.truncate(path, bound + 1)  # a sparse file takes no space until it is read
    with pytest.raises(InvalidBundle, match=f"{bound + 1} bytes; at most {bound} are allowed"):
        Repository(tmp_path).read("net", 1)


def test_an_unreadable_file_is_a_reason_not_to_serve(tmp_path, monkeypatch):
    put(tmp_path)

    readable = Path.open

    def open_(path, *args, **kwargs):
        if path.name == WEIGHTS_FILE:
            raise PermissionError(13, "Permission denied")
        return readable(path, *args, **kwargs)

    monkeypatch.setattr("pathlib.Path.open", open_)
    (entry,) = Repository(tmp_path).entries()
    assert entry.reason == f"{WEIGHTS_FILE} cannot be read: Permission denied."


def test_concurrent_publishers_get_different_versions(tmp_path):
    publishers = 16
    barrier = threading.Barrier(publishers)

    def one(number):
        program = b"%d" % number
        manifest = sample_manifest(seed=number, program=sha256(program))
        barrier.wait()
        return Repository(tmp_path).publish(manifest, program, WEIGHTS_BYTES)

    with ThreadPoolExecutor(publishers) as pool:
        versions = list(pool.map(one, range(publishers)))
    repository = Repository(tmp_path)
    assert sorted(versions) == list(range(1, publishers + 1))
    assert repository.versions("net") == sorted(versions, reverse=True)
    for number, version in enumerate(versions):
        files = repository.read("net", version)
        assert (files.manifest.seed, files.program) == (number, b"%d" % number)
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == sorted(map(str, versions))


def test_another_user_can_read_what_was_published(tmp_path):
    before = os.umask(0o022)
    try:
        put(tmp_path / "root")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "root").rglob("*")
    }
    assert modes == {
        "root/net": 0o755,
        "root/net/1": 0o755,
        **{f"root/net/1/{file}": 0o644 for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE)},
    }
