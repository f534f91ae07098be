"""A repository that changes while it is looked at."""

import shutil

from mcdrop.inference.catalogue import Catalogue


def add(root, name="heights"):
    """Publish the oldest version once more, as it is published: it appears whole. Returns its number."""
    version = 1 + max(int(path.name) for path in (root / name).iterdir())
    shutil.copytree(root / name / "1", root.parent / "new")
    (root.parent / "new").rename(root / name / str(version))
    return version


def tamper(path):
    """Change the last byte. Returns the bytes there were."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def named(models):
    return [(one.name, one.version) for one in models]


def state_of(catalogue, name, version):
    (found,) = [one for one in catalogue.states() if (one.name, one.version) == (name, version)]
    return found.state, found.reason


def refreshed(repository, **more):
    catalogue = Catalogue(repository, **more)
    catalogue.refresh()
    return catalogue
