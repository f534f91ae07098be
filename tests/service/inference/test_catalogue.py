"""Which versions are in memory, and which of them a name means."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dropout_core.engine.options import PassOptions
from mcdrop.inference import catalogue as module
from mcdrop.inference.catalogue import Catalogue
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.errors import InvalidBundle, UnknownModel
from tests.support import service_nets as nets
from tests.support.fakes import CHEAP, CountingRepository, UnreadableRepository
from tests.support.versions import add, named, refreshed, state_of, tamper

PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _costs_are_measured_elsewhere(monkeypatch):
    monkeypatch.setattr(module, "measure_row_cost", lambda predictor: CHEAP)


@pytest.fixture
def root(bundles, tmp_path):
    """The bundles, to be changed."""
    return shutil.copytree(bundles, tmp_path / "bundles")


def test_the_newest_version_is_the_default_and_any_can_be_asked_for(bundles):
    catalogue = Catalogue(Repository(bundles))

    assert [catalogue.get("digits", version).version for version in (None, 1, 2)] == [2, 1, 2]


def test_a_model_is_loaded_once_and_has_its_cost(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)

    assert catalogue.get("digits") is catalogue.get("digits", 2) is catalogue.find("digits")
    assert catalogue.find("digits").cost is CHEAP
    assert repository.reads == [("digits", 2)]


def test_finding_loads_nothing(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)
    assert (catalogue.find("digits"), catalogue.loaded()) == (None, [])
    catalogue.get("digits", 1)

    assert catalogue.find("digits") is None
    assert catalogue.find("digits", 1).version == 1
    assert catalogue.find("digits", 3) is None
    assert catalogue.find("nope") is None
    assert repository.reads == [("digits", 1)]


def test_at_start_the_newest_of_every_name_is_loaded(bundles):
    catalogue = refreshed(Repository(bundles))

    assert named(catalogue.loaded()) == [("digits", 2), ("heights", 1)]
    assert state_of(catalogue, "digits", 2) == ("ready", "")
    assert state_of(catalogue, "digits", 1) == ("unloaded", "")


def test_many_threads_get_one_model_that_was_loaded_once(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)
    together = threading.Barrier(16)

    def get(number):
        together.wait()
        return catalogue.get("digits" if number % 2 else "heights")

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(get, range(16)))

    assert len({id(model) for model in got}) == 2
    assert sorted(repository.reads) == [("digits", 2), ("heights", 1)]
    assert repository.most_at_once == 1


def test_an_unknown_model_is_refused_with_those_there_are(bundles):
    for ask in (Catalogue.get, Catalogue.load, lambda catalogue, name: catalogue.unload(name, 0)):
        with pytest.raises(UnknownModel, match=r"^there is no model 'nope'; there are digits, heights\.$"):
            ask(Catalogue(Repository(bundles)), "nope")


def test_an_unknown_version_is_refused_with_those_there_are(bundles):
    with pytest.raises(UnknownModel, match=r"^digits has no version 3; it has 2, 1\.$"):
        Catalogue(Repository(bundles)).get("digits", 3)


def test_without_any_model_the_refusal_says_how_to_make_one(tmp_path):
    with pytest.raises(UnknownModel, match="there are none: publish one with `mcdrop publish` or `mcdrop train`"):
        Catalogue(Repository(tmp_path / "nowhere")).get("digits")


@pytest.mark.parametrize("name", ["../digits", "..", "", "Digits", "a/b", "digits\n"], ids=repr)
def test_a_name_that_reaches_out_of_the_folder_names_no_model(bundles, name):
    with pytest.raises(UnknownModel, match="is not a model name"):
        Catalogue(Repository(bundles)).get(name)


@pytest.mark.parametrize("file", ["manifest.json", "program.json", "weights.safetensors"])
def test_a_tampered_version_is_kept_with_its_reason_and_the_older_one_is_served(root, file):
    tamper(root / "digits" / "2" / file)
    catalogue = refreshed(Repository(root))

    assert named(catalogue.loaded()) == [("digits", 1), ("heights", 1)]
    assert catalogue.get("digits").version == 1
    state, reason = state_of(catalogue, "digits", 2)
    assert (state, file in reason) == ("refused", True)
    with pytest.raises(InvalidBundle, match=reason):
        catalogue.get("digits", 2)


def test_where_no_version_is_good_every_reason_is_told(root):
    for version in (1, 2):
        tamper(root / "digits" / str(version) / "program.json")
    catalogue = refreshed(Repository(root))

    for ask in (catalogue.get, catalogue.load):
        with pytest.raises(
            InvalidBundle, match=r"^digits cannot be .* version 2: program.json .* version 1: program.json "
        ):
            ask("digits")
    assert named(catalogue.loaded()) == [("heights", 1)]


def test_a_refused_version_is_read_again_only_when_its_files_change(root):
    before = tamper(root / "digits" / "2" / "program.json")
    repository = CountingRepository(root)
    catalogue = Catalogue(repository)
    for _ in range(3):
        assert catalogue.get("digits").version == 1
        catalogue.refresh()
    assert repository.reads == [("digits", 2), ("digits", 1), ("heights", 1)]

    (root / "digits" / "2" / "program.json").write_bytes(before)
    catalogue.refresh()

    assert catalogue.get("digits").version == 2
    assert state_of(catalogue, "digits", 2) == ("ready", "")


def test_a_version_that_may_not_be_read_is_refused_without_its_path(root):
    repository = UnreadableRepository(root)
    catalogue = refreshed(repository)

    assert named(catalogue.loaded()) == [("digits", 1)]
    assert state_of(catalogue, "digits", 2) == ("refused", "digits/2 cannot be read: Permission denied.")

    repository.forbidden = False
    (root / "digits" / "2" / "manifest.json").chmod(0o600)
    catalogue.refresh()

    assert catalogue.get("digits").version == 2


def test_a_model_whose_cost_cannot_be_measured_is_refused(bundles, monkeypatch):
    """A hostile program may run on the rows that it is verified by, and on no others."""

    def cost_of(predictor):
        raise RuntimeError("64 rows are too many")

    monkeypatch.setattr(module, "measure_row_cost", cost_of)
    catalogue = refreshed(Repository(bundles))

    assert catalogue.loaded() == []
    assert state_of(catalogue, "heights", 1) == (
        "refused",
        "heights/1 does not run: RuntimeError: 64 rows are too many",
    )


def test_a_version_that_is_published_later_takes_the_place_of_the_current_one(root):
    catalogue = refreshed(Repository(root))
    assert add(root) == 2
    assert catalogue.get("heights").version == 1  # until somebody looks

    catalogue.refresh()

    assert catalogue.find("heights").version == 2
    assert named(catalogue.loaded()) == [("digits", 2), ("heights", 2)]  # the memory of the other is free
    assert catalogue.get("heights", 1).version == 1
    assert catalogue.find("heights").version == 2


def test_a_broken_version_that_is_published_later_never_takes_the_place_of_a_good_one(root):
    repository = CountingRepository(root)
    catalogue = refreshed(repository)
    good = catalogue.find("heights")
    add(root)
    tamper(root / "heights" / "2" / "weights.safetensors")

    for _ in range(3):
        catalogue.refresh()

    assert catalogue.get("heights") is catalogue.load("heights") is good
    assert repository.reads.count(("heights", 2)) == 1
    assert state_of(catalogue, "heights", 2)[0] == "refused"


def test_versions_are_exchanged_without_a_dropped_request(root):
    catalogue = refreshed(Repository(root))
    x, seen, stop = nets.features(1), [], threading.Event()

    def ask():
        while not stop.is_set():
            model = catalogue.find("heights") or catalogue.get("heights")
            with catalogue.holding(model):
                model.predictor.predict(x, PassOptions(2, 0))
            seen.append(model.version)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        for version in (2, 3):
            assert add(root) == version
            catalogue.refresh()
            count = len(seen)
            while len(seen) < count + 3 and not asking.done():
                pass
        stop.set()
        asking.result()

    assert set(seen) == {1, 2, 3}
    assert seen == sorted(seen)


def test_the_current_version_stays_while_a_new_one_is_loaded_and_is_listed_as_such(root, monkeypatch):
    catalogue = refreshed(Repository(root))
    add(root)
    entered, may_go = threading.Event(), threading.Event()

    def cost_of(predictor):
        entered.set()
        assert may_go.wait(PATIENCE_S)
        return CHEAP

    monkeypatch.setattr(module, "measure_row_cost", cost_of)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(catalogue.refresh)
        assert entered.wait(PATIENCE_S)

        assert catalogue.find("heights").version == 1
        assert state_of(catalogue, "heights", 2) == ("loading", "")
        assert state_of(catalogue, "heights", 1) == ("ready", "")
        may_go.set()
        loading.result()

    assert catalogue.find("heights").version == 2
    assert state_of(catalogue, "heights", 1) == ("unloaded", "")


def test_what_was_taken_away_is_served_no_more_when_somebody_looks(root):
    catalogue = refreshed(Repository(root))
    catalogue.get("digits", 1)
    shutil.rmtree(root / "digits" / "2")
    shutil.rmtree(root / "heights")

    catalogue.refresh()

    assert named(catalogue.loaded()) == [("digits", 1)]
    assert catalogue.get("digits").version == 1
    with pytest.raises(UnknownModel, match="digits has no version 2; it has 1"):
        catalogue.get("digits", 2)
    with pytest.raises(UnknownModel, match="there is no model 'heights'"):
        catalogue.get("heights")


def test_a_pinned_version_that_was_taken_away_is_served_no_more(root):
    catalogue = refreshed(Repository(root))
    catalogue.get("digits", 1)
    shutil.rmtree(root / "digits" / "1")

    catalogue.refresh()

    assert named(catalogue.loaded()) == [("digits", 2), ("heights", 1)]


def test_versions_are_told_apart(bundles):
    catalogue, x = Catalogue(Repository(bundles)), nets.images(2)
    old, new = (catalogue.get("digits", version).predictor.predict(x, PassOptions(4, 0)).mean for version in (1, 2))

    assert not torch.allclose(old, new)
