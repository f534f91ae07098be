import errno
import os
import stat

import pytest

from mcdrop_models.bundle.atomic import remove_leftovers, replace_file, sync_folder, write_synced


def test_a_replaced_file_has_the_new_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.json"
    for content in (b"old", b"new"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_synced_before_the_call_returns(tmp_path, monkeypatch):
    path, steps = tmp_path / "file", []
    fsync = os.fsync

    def synced(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(("folder" if folder else "file", path.exists()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", synced)
    replace_file(path, b"content")
    assert steps == [("file", False), ("folder", True)]


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("keep_access", "expected"), [(True, 0o640), (False, 0o600)])
def test_access_is_kept_only_on_request(tmp_path, keep_access, expected):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    replace_file(path, b"new", mode=0o600, keep_access=keep_access)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_synced_write_refuses_a_file_that_exists(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_accepted(tmp_path, monkeypatch, code, raises):
    def failing(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", failing)
    if raises:
        with pytest.raises(OSError, match=os.strerror(code)):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)


def test_leftovers_of_one_file_are_removed_and_those_of_others_kept(tmp_path):
    kept = {"keys.json", ".other.json.0a.part", ".keys.json", "keys.json.0a.part"}
    for name in (*kept, ".keys.json.0a.part", ".keys.json.0b.part"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "keys.json")
    assert {path.name for path in tmp_path.iterdir()} == kept
