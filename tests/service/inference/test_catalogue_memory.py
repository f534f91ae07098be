"""What has to go when there is no room, and what an operator takes out of service."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from dropout_core.engine.options import PassOptions
from mcdrop.errors import Unloaded
from mcdrop.inference import catalogue as module
from mcdrop.inference.catalogue import Catalogue
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.errors import InvalidBundle, UnknownModel
from tests.support import service_nets as nets
from tests.support.fakes import CHEAP, CountingRepository
from tests.support.versions import add, named, refreshed, state_of, tamper

PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _costs_are_measured_elsewhere(monkeypatch):
    monkeypatch.setattr(module, "measure_row_cost", lambda predictor: CHEAP)


@pytest.fixture
def root(bundles, tmp_path):
    """The bundles, to be changed."""
    return shutil.copytree(bundles, tmp_path / "bundles")


@pytest.fixture
def sizes(bundles):
    """The bytes of a version of digits, and of heights."""
    catalogue = Catalogue(Repository(bundles))
    return [catalogue.get(name).predictor.nbytes for name in ("digits", "heights")]


def test_the_bytes_of_a_model_are_those_of_its_weights(sizes):
    # float32: 64 · 16 + 16 + 16 · 3 + 3, and 4 · 16 + 16 + 16 · 4 + 4
    assert sizes == [4 * 1091, 4 * 148]


def test_beyond_the_bytes_the_longest_unused_is_forgotten(bundles, sizes):
    digits, heights = sizes
    catalogue = Catalogue(Repository(bundles), max_bytes=digits + heights)
    catalogue.get("digits", 1)
    catalogue.get("heights")
    assert named(catalogue.loaded()) == [("digits", 1), ("heights", 1)]

    assert catalogue.find("heights")
    assert catalogue.find("digits", 1)  # which is now the one that was used last
    catalogue.get("digits", 2)
    # without heights there are still two versions of digits, so both had to go
    assert named(catalogue.loaded()) == [("digits", 2)]


def test_the_order_is_that_of_use_and_a_look_at_the_folder_is_none(root, sizes):
    heights = sizes[1]
    for _ in range(2):
        add(root)
    catalogue = Catalogue(Repository(root), max_bytes=sizes[0] + 2 * heights)
    for version in (1, 2):
        catalogue.get("heights", version)
    catalogue.get("heights", 1)
    catalogue.get("digits")
    catalogue.states()
    catalogue.loaded()

    catalogue.get("heights", 3)

    assert named(catalogue.loaded()) == [("digits", 2), ("heights", 1), ("heights", 3)]


def test_a_look_at_the_folder_brings_nothing_back_that_had_to_go(bundles, sizes):
    repository = CountingRepository(bundles)
    catalogue = refreshed(repository, max_bytes=sizes[0])
    assert named(catalogue.loaded()) == [("heights", 1)]

    catalogue.refresh()
    assert named(catalogue.loaded()) == [("heights", 1)]
    assert state_of(catalogue, "digits", 2) == ("unloaded", "")
    assert repository.reads == [("digits", 2), ("heights", 1)]

    assert catalogue.find("digits") is None
    assert catalogue.get("digits").version == 2  # who asks for it brings it back
    assert named(catalogue.loaded()) == [("digits", 2)]


def test_what_had_to_go_and_has_changed_since_is_brought_back_as_what_is_good_of_it(root, sizes):
    catalogue = refreshed(Repository(root), max_bytes=sizes[0])
    tamper(root / "digits" / "2" / "weights.safetensors")

    assert catalogue.get("digits").version == 1


def test_a_model_that_is_too_large_alone_is_refused_and_nothing_goes_for_it(bundles, sizes):
    digits = sizes[0]
    catalogue = refreshed(Repository(bundles), max_bytes=digits - 1)

    assert named(catalogue.loaded()) == [("heights", 1)]
    said = f"digits/2 has {digits} bytes of weights; this server holds up to {digits - 1}."
    assert state_of(catalogue, "digits", 2) == ("refused", said)
    with pytest.raises(InvalidBundle, match=said):
        catalogue.get("digits", 2)


def test_who_holds_a_model_keeps_it_when_it_has_to_go(bundles, sizes):
    catalogue = Catalogue(Repository(bundles), max_bytes=sizes[0])
    model = catalogue.get("heights")
    with catalogue.holding(model):
        catalogue.get("digits")
        assert catalogue.find("heights") is None
        assert model.predictor.predict(nets.features(1), PassOptions(2, 0)).mean.shape == (1, 2)


def test_what_is_unloaded_is_refused_until_it_is_loaded_again(root):
    repository = CountingRepository(root)
    catalogue = refreshed(repository)
    catalogue.get("digits", 1)
    catalogue.unload("digits", PATIENCE_S)

    assert named(catalogue.loaded()) == [("heights", 1)]
    for version in (None, 1, 2):
        assert catalogue.find("digits", version) is None
        with pytest.raises(Unloaded, match=r"^digits was unloaded; .* POST /v2/repository/models/digits/load\.$"):
            catalogue.get("digits", version)
    assert state_of(catalogue, "digits", 2) == ("unloaded", "")
    add(root, "digits")
    catalogue.refresh()  # an operator's word stands
    assert named(catalogue.loaded()) == [("heights", 1)]

    assert catalogue.load("digits").version == 3
    assert catalogue.get("digits").version == 3
    assert catalogue.get("digits", 1).version == 1


def test_what_cannot_be_loaded_again_stays_unloaded(root):
    catalogue = refreshed(Repository(root))
    catalogue.unload("heights", PATIENCE_S)
    tamper(root / "heights" / "1" / "weights.safetensors")

    with pytest.raises(InvalidBundle, match="does not match its digest"):
        catalogue.load("heights")
    with pytest.raises(Unloaded):
        catalogue.get("heights")


def test_what_was_never_loaded_can_be_unloaded(bundles):
    repository = CountingRepository(bundles)
    catalogue = Catalogue(repository)
    catalogue.unload("digits", PATIENCE_S)

    with pytest.raises(Unloaded):
        catalogue.get("digits")
    assert repository.reads == []


def test_an_operator_may_load_a_new_version_before_anybody_looks(root):
    catalogue = refreshed(Repository(root))
    add(root)

    assert catalogue.load("heights").version == 2
    assert catalogue.find("heights").version == 2


def test_unloading_waits_for_those_who_hold_the_model(bundles):
    catalogue = refreshed(Repository(bundles))
    model, other = catalogue.get("digits"), catalogue.get("heights")
    with ThreadPoolExecutor(1) as pool, catalogue.holding(other):
        with catalogue.holding(model), catalogue.holding(model):
            unloading = pool.submit(catalogue.unload, "digits", PATIENCE_S)
            while catalogue.find("digits") is not None:  # nobody gets it any more
                pass
            assert not unloading.done()
        unloading.result(PATIENCE_S / 2)


def test_unloading_loses_its_patience(bundles):
    catalogue = refreshed(Repository(bundles))
    with catalogue.holding(catalogue.get("digits")):
        catalogue.unload("digits", 0.001)

    assert catalogue.find("digits") is None


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


def test_what_cannot_be_loaded_is_told_without_waiting_for_what_is_being_loaded(root, monkeypatch):
    catalogue = refreshed(Repository(root))
    catalogue.unload("digits", PATIENCE_S)
    told = []

    def cost_of(predictor):  # while heights/2 is being loaded
        for name, version in (("nope", None), ("heights", 3), ("digits", None)):
            with pytest.raises((UnknownModel, Unloaded)) as refusal:
                catalogue.expect(name, version)
            told.append(type(refusal.value))
        catalogue.expect("heights", 2)
        return CHEAP

    add(root)
    monkeypatch.setattr(module, "measure_row_cost", cost_of)
    catalogue.refresh()

    assert told == [UnknownModel, UnknownModel, Unloaded]
