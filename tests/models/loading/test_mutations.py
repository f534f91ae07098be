"""Bundles that are changed at random, with matching digests, load or are refused; nothing else ever happens."""

import contextlib
import copy
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dropout_core.engine.options import PassOptions
from mcdrop_models.bundle.manifest import Manifest, manifest_digest
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.predictor import Predictor

_settings = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Integers are small or absurd: sizes between them are merely large, and slow.
_numbers = st.one_of(st.integers(-3, 8), st.sampled_from([2**31, 2**62, -(2**63), 10**30]), st.floats(width=32))
_texts = st.sampled_from(
    ["", "input", "relu", "linear_1", "getitem", "rows", "aten.relu.default", "os.system", "\ud800"]
)
_tags = st.sampled_from(["ref", "size", "device", "dtype", "memory_format", "layout", "float", "name", "__class__"])
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_tags, inner, max_size=2),
    max_leaves=4,
)


def _places(item, path=()):
    """Yield the path of every value of a JSON document."""
    yield path
    if isinstance(item, dict | list):
        for key, inner in item.items() if isinstance(item, dict) else enumerate(item):
            yield from _places(inner, (*path, key))


def _changed(document, path, how, value):
    """Return a copy with one value replaced, removed or doubled."""
    document = copy.deepcopy(document)
    *above, key = path
    parent = document
    for step in above:
        parent = parent[step]
    if how == "remove":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[key] = value
    return document


def _outcome(bundle, **files):
    """Return whether a tampered bundle loads; the only other outcome is InvalidBundle with a reason."""
    with tempfile.TemporaryDirectory() as folder:
        bundle.write(Path(folder), **files)
        return _loads(Path(folder))


def _loads(root):
    try:
        predictor = Predictor.load(Repository(root), "net", 1)
    except InvalidBundle as error:
        reason = str(error)
    else:
        assert predictor.predict(predictor.probe, PassOptions(2, 0)).mean.shape == (8, 3)
        assert predictor.predict(
            {name: rows[:5] for name, rows in predictor.probe.items()}, PassOptions(3, 7)
        ).mean.shape == (5, 3)
        return True
    assert reason
    assert str(root) not in reason
    return False


@pytest.fixture(params=["honest", "convolutional", "recurrent"])
def taken_apart(request):
    return request.getfixturevalue(request.param)


def test_untouched_bundles_load(taken_apart):
    assert _outcome(taken_apart)


@_settings
@given(data=st.data())
def test_a_changed_value_of_the_program_loads_or_is_refused(taken_apart, data):
    paths = [path for path in _places(taken_apart.program) if path]
    how = data.draw(st.sampled_from(["replace", "replace", "remove", "double"]))
    program = _changed(taken_apart.program, data.draw(st.sampled_from(paths)), how, data.draw(_json))
    _outcome(taken_apart, program=json.dumps(program).encode())


@_settings
@given(data=st.data())
def test_two_values_exchanged_load_or_are_refused(taken_apart, data):
    """Names, shapes and operators change places, so that each value is plausible."""
    program = copy.deepcopy(taken_apart.program)
    paths = [path for path in _places(program["nodes"]) if path]
    value = program["nodes"]
    for step in data.draw(st.sampled_from(paths)):
        value = value[step]
    nodes = _changed(program["nodes"], data.draw(st.sampled_from(paths)), "replace", copy.deepcopy(value))
    _outcome(taken_apart, program=json.dumps({**program, "nodes": nodes}).encode())


@_settings
@given(data=st.data())
def test_a_changed_value_of_the_manifest_loads_or_is_refused(honest, data):
    paths = [path for path in _places(honest.manifest) if path]
    fields = _changed(honest.manifest, data.draw(st.sampled_from(paths)), "replace", data.draw(_json))
    with tempfile.TemporaryDirectory() as folder:
        written = honest.write(Path(folder))
        sealed = json.loads((written / MANIFEST_FILE).read_bytes())
        fields = {**fields, "program": sealed["program"], "weights": sealed["weights"]}
        with contextlib.suppress(ValueError):  # NaN has no digest; it is refused earlier
            fields["digest"] = manifest_digest(fields)
        (written / MANIFEST_FILE).write_text(json.dumps(fields))
        _loads(Path(folder))


def _with_changed_bytes(content, place, new, removed):
    start = place % len(content)
    return content[:start] + new + content[start + removed :]


@_settings
@given(
    file=st.sampled_from([PROGRAM_FILE, WEIGHTS_FILE]),
    place=st.one_of(st.integers(0, 500), st.integers(0, 2**20)),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"1e999", b"NaN", b"null", b"[", b'"', b"\xff\xff\xff\x7f"])),
    removed=st.integers(0, 9),
)
def test_changed_bytes_load_or_are_refused(published, honest, file, place, new, removed):
    contents = {name: (published / "net" / "1" / name).read_bytes() for name in (PROGRAM_FILE, WEIGHTS_FILE)}
    contents[file] = _with_changed_bytes(contents[file], place, new, removed)
    _outcome(honest, program=contents[PROGRAM_FILE], weights=contents[WEIGHTS_FILE])


@_settings
@given(place=st.integers(0, 2**12), new=st.binary(max_size=3), removed=st.integers(0, 3))
def test_changed_bytes_of_a_manifest_never_change_what_it_says(published, place, new, removed):
    """A manifest that is still accepted differs in metrics or provenance only: the digest covers the rest."""
    content = (published / "net" / "1" / MANIFEST_FILE).read_bytes()
    try:
        changed = Manifest.model_validate_json(_with_changed_bytes(content, place, new, removed))
    except ValueError:
        return
    facts = {"metrics": {}, "provenance": {}}
    assert changed.model_copy(update=facts) == Manifest.model_validate_json(content).model_copy(update=facts)
