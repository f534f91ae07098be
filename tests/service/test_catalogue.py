import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dropout_core.mc.plan import Plan
from dropout_core.mc.scheme import DEFAULT
from models.errors import InvalidBundle, UnknownModel
from models.publish import publish
from models.repository import Repository
from service.catalogue import Catalogue
from tests.service import nets
from tests.service.fakes import CountingRepository, UnreadableRepository


@pytest.fixture
def root(bundles, tmp_path):
    """The bundles, to be changed."""
    return shutil.copytree(bundles, tmp_path / "bundles")


def tamper(path):
    """Change the last byte. Returns the bytes there were."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def named(predictors):
    return [(one.manifest.name, one.version) for one in predictors]


def state_of(catalogue, name, version):
    (found,) = [one for one in catalogue.states() if (one.name, one.version) == (name, version)]
    return found.state, found.reason


def test_the_newest_version_is_the_default_and_any_can_be_asked_for(bundles):
    catalogue = Catalogue(Repository(bundles))

    assert [catalogue.get("digits", version).version for version in (None, 1, 2)] == [2, 1, 2]


def test_a_predictor_is_loaded_once(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)

    assert catalogue.get("digits") is catalogue.get("digits", 2) is catalogue.find("digits")
    assert repository.reads == [("digits", 2)]


def test_nothing_is_found_before_it_is_loaded(bundles):
    catalogue = Catalogue(Repository(bundles))

    assert catalogue.find("digits") is None
    assert catalogue.loaded() == []
    assert state_of(catalogue, "digits", 2) == ("unloaded", "")


def test_finding_loads_nothing(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)
    catalogue.get("digits", 1)

    assert catalogue.find("digits") is None
    assert catalogue.find("digits", 1).version == 1
    assert catalogue.find("digits", 3) is None
    assert catalogue.find("nope") is None
    assert repository.reads == [("digits", 1)]


def test_at_start_the_newest_of_every_name_is_loaded(bundles):
    catalogue = Catalogue(Repository(bundles))

    assert named(catalogue.load_newest()) == named(catalogue.loaded()) == [("digits", 2), ("heights", 1)]
    assert state_of(catalogue, "digits", 2) == ("ready", "")
    assert state_of(catalogue, "digits", 1) == ("unloaded", "")


def test_many_threads_get_one_predictor_that_was_loaded_once(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)
    together = threading.Barrier(16)

    def get(number):
        together.wait()
        return catalogue.get("digits" if number % 2 else "heights")

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(get, range(16)))

    assert len({id(predictor) for predictor in got}) == 2
    assert sorted(repository.reads) == [("digits", 2), ("heights", 1)]
    assert repository.most_at_once == 1


def test_an_unknown_model_is_refused_with_those_there_are(bundles):
    with pytest.raises(UnknownModel, match=r"^there is no model 'nope'; there are digits, heights\.$"):
        Catalogue(Repository(bundles)).get("nope")


def test_an_unknown_version_is_refused_with_those_there_are(bundles):
    with pytest.raises(UnknownModel, match=r"^digits has no version 3; it has 2, 1\.$"):
        Catalogue(Repository(bundles)).get("digits", 3)


def test_without_any_model_the_refusal_says_how_to_make_one(tmp_path):
    with pytest.raises(UnknownModel, match="there are none: publish one with `mcdrop publish` or `mcdrop train`"):
        Catalogue(Repository(tmp_path / "nowhere")).get("digits")


@pytest.mark.parametrize("name", ["../digits", "..", "", "Digits", "a/b", "digits\n"], ids=repr)
def test_a_name_that_reaches_out_of_the_folder_names_no_model(bundles, name):
    with pytest.raises(UnknownModel, match="is no model name"):
        Catalogue(Repository(bundles)).get(name)


@pytest.mark.parametrize("file", ["manifest.json", "program.json", "weights.safetensors"])
def test_a_tampered_version_is_kept_with_its_reason_and_the_older_one_is_served(root, file):
    tamper(root / "digits" / "2" / file)
    catalogue = Catalogue(Repository(root))

    assert named(catalogue.load_newest()) == [("digits", 1), ("heights", 1)]
    assert catalogue.get("digits").version == 1
    state, reason = state_of(catalogue, "digits", 2)
    assert (state, file in reason) == ("refused", True)


def test_a_tampered_version_is_refused_to_who_asks_for_it(root):
    tamper(root / "digits" / "2" / "weights.safetensors")

    with pytest.raises(InvalidBundle, match=r"^digits cannot be served\. version 2: weights.safetensors of digits/2"):
        Catalogue(Repository(root)).get("digits", 2)


def test_where_no_version_is_good_every_reason_is_told(root):
    for version in (1, 2):
        tamper(root / "digits" / str(version) / "program.json")
    catalogue = Catalogue(Repository(root))

    with pytest.raises(InvalidBundle, match=r"version 2: program.json .* version 1: program.json "):
        catalogue.get("digits")
    assert named(catalogue.load_newest()) == [("heights", 1)]


def test_a_refused_version_is_read_again_only_when_its_files_change(root):
    before = tamper(root / "digits" / "2" / "program.json")
    repository = CountingRepository(root)
    catalogue = Catalogue(repository)
    for _ in range(3):
        catalogue.get("digits")
    assert repository.reads == [("digits", 2), ("digits", 1)]

    (root / "digits" / "2" / "program.json").write_bytes(before)

    assert catalogue.get("digits").version == 2
    assert state_of(catalogue, "digits", 2) == ("ready", "")


def test_a_version_that_may_not_be_read_is_refused_without_its_path(root):
    repository = UnreadableRepository(root)
    catalogue = Catalogue(repository)

    assert named(catalogue.load_newest()) == [("digits", 1)]
    assert state_of(catalogue, "digits", 2) == ("refused", "digits/2 cannot be read: Permission denied.")


def test_a_version_is_read_again_once_it_may_be(root):
    repository = UnreadableRepository(root)
    catalogue = Catalogue(repository)
    assert catalogue.get("digits").version == 1

    repository.forbidden = False
    (root / "digits" / "2" / "manifest.json").chmod(0o600)

    assert catalogue.get("digits").version == 2


def test_a_version_that_is_published_later_is_served(root):
    catalogue = Catalogue(Repository(root))
    assert catalogue.get("heights").version == 1

    publish(nets.seeded(nets.Regressor, 5), nets.features(4), name="heights", task="regression", root=root)

    assert catalogue.find("heights") is None
    assert catalogue.get("heights").version == 2
    assert catalogue.get("heights", 1).version == 1


def test_a_version_that_was_taken_away_is_served_no_more(root):
    catalogue = Catalogue(Repository(root))
    assert catalogue.get("digits").version == 2

    shutil.rmtree(root / "digits" / "2")

    assert catalogue.get("digits").version == 1
    with pytest.raises(UnknownModel, match="has no version 2; it has 1"):
        catalogue.get("digits", 2)


def test_versions_are_told_apart(bundles):
    catalogue, x = Catalogue(Repository(bundles)), nets.images(2)
    old, new = (catalogue.get("digits", version).predict(x, Plan(4, 0, DEFAULT)).mean for version in (1, 2))

    assert not torch.allclose(old, new)


def test_what_is_not_loaded_is_hashed_once_until_its_files_change(root):
    class Hashed(Repository):
        entries_read = 0

        def entry(self, name, version):
            self.entries_read += 1
            return super().entry(name, version)

    repository = Hashed(root)
    catalogue = Catalogue(repository)
    for _ in range(3):
        assert {state.state for state in catalogue.states()} == {"unloaded"}
    assert repository.entries_read == 3  # digits/2, digits/1 and heights/1

    tamper(root / "digits" / "1" / "weights.safetensors")

    assert [state_of(catalogue, "digits", version)[0] for version in (2, 1)] == ["unloaded", "refused"]
    assert repository.entries_read == 4
