"""A publisher that stops in the middle leaves nothing that a reader takes for a version."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcdrop_models.bundle.manifest import Manifest
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.loading.predictor import Predictor
from tests.support.manifests import PROGRAM_BYTES, WEIGHTS_BYTES, put, sample_manifest

# Publishes the bundle of one folder into a root, and hangs with half of one file written.
_PUBLISHER = """
import os, sys, time
from pathlib import Path
from mcdrop_models.bundle.manifest import Manifest
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository

folder, root, stage = map(Path, sys.argv[1:])
fsync = os.fsync

def hang(descriptor):
    if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name != stage.name:
        return fsync(descriptor)
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    print("half written", flush=True)
    time.sleep(600)

os.fsync = hang
manifest, program, weights = ((folder / file).read_bytes() for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE))
Repository(root).publish(Manifest.model_validate_json(manifest), program, weights)
"""


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()], ids=["a full disk", "Ctrl-C"])
@pytest.mark.parametrize("stage", [PROGRAM_FILE, WEIGHTS_FILE, MANIFEST_FILE])
def test_a_failing_write_leaves_no_trace(tmp_path, monkeypatch, stage, error):
    put(tmp_path)
    fsync = os.fsync

    def failing(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == stage:
            raise error
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing)
        with pytest.raises(type(error)):
            put(tmp_path)
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["1"]
    assert [entry.reason for entry in Repository(tmp_path).entries()] == [""]
    assert put(tmp_path) == 2


@pytest.mark.parametrize("stage", [WEIGHTS_FILE, MANIFEST_FILE])
def test_kill_9_in_the_middle_leaves_the_repository_as_it_was(published, tmp_path, stage):
    source = published / "net" / "1"
    files = [(source / file).read_bytes() for file in (PROGRAM_FILE, WEIGHTS_FILE)]
    repository = Repository(tmp_path)
    manifest = Manifest.model_validate_json((source / MANIFEST_FILE).read_bytes())
    repository.publish(manifest, *files)

    command = [sys.executable, "-c", _PUBLISHER, str(source), str(tmp_path), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as publisher:
        assert publisher.stdout.readline() == "half written\n"
        during = repository.versions("net")
        publisher.send_signal(signal.SIGKILL)
    assert publisher.returncode == -signal.SIGKILL

    (left,) = (path.name for path in (tmp_path / "net").iterdir() if path.name != "1")
    assert left.startswith(".publish-")  # the kill came in the middle
    assert during == repository.versions("net") == [1]
    assert [(entry.version, entry.reason) for entry in repository.entries()] == [(1, "")]
    assert Predictor.load(repository, "net", 1).version == 1
    assert repository.publish(manifest, *files) == 2
    assert repository.entry("net", 2).reason == ""


def test_all_is_on_disk_before_the_version_appears(tmp_path, monkeypatch):
    """Each file and its folder are synced, then the folder is renamed, then the rename is synced."""
    order = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor):
        order.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(path, target):
        order.append("rename")
        rename(path, target)
        return target

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("pathlib.Path.rename", renamed)
    Repository(tmp_path).publish(sample_manifest(), PROGRAM_BYTES, WEIGHTS_BYTES)
    names = {path.stat().st_ino: path.name for path in tmp_path.rglob("*")}
    *files, staging, placed, folder = (names.get(step, step) for step in order)
    assert sorted(files) == sorted([MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE])
    assert (staging, placed, folder) == ("1", "rename", "net")
