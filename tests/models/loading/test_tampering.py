"""A changed program or manifest is refused, even with matching digests.

`refused` loads net/1 and fails on anything but InvalidBundle, and if a file is opened or code is run meanwhile.
"""

import json

import pytest
import torch

from mcdrop_models.bundle.manifest import manifest_digest
from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.errors import InvalidBundle, UnknownModel
from mcdrop_models.loading.predictor import Predictor
from tests.support.side_effects import outside_of, refused, watched
from tests.support.tamper import operation, ref


def test_an_untampered_copy_loads_and_opens_its_three_files_only(bundle, tmp_path):
    """The other tests rely on it: the attacker's copy with matching digests is accepted."""
    folder = bundle.write(tmp_path)
    with watched() as events:
        Predictor.load(Repository(tmp_path), "net", 1)
    assert outside_of(folder, events) == []
    assert [str(args[0]) for event, args in events if event == "open"] == [
        str(folder / file) for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE)
    ]


def test_the_audit_hook_sees_files_and_code(tmp_path):
    (tmp_path / "secret").write_text("x")
    with watched() as events:
        (tmp_path / "secret").read_text()
        exec("pass")
        json.loads("1")
    assert [event for event, _ in outside_of(tmp_path, events)] == ["open", "compile", "exec"]


@pytest.mark.parametrize("file", [PROGRAM_FILE, WEIGHTS_FILE])
def test_a_changed_byte_without_its_digest_is_refused(bundle, tmp_path, file):
    folder = bundle.write(tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    assert f"{file} of net/1 does not match its digest" in refused(tmp_path)


@pytest.mark.parametrize("file", ["program", "weights", "digest"])
def test_a_changed_digest_is_refused(bundle, tmp_path, file):
    folder = bundle.write(tmp_path)
    fields = json.loads((folder / MANIFEST_FILE).read_bytes())
    fields[file] = "sha256:" + "0" * 64
    if file != "digest":
        fields["digest"] = manifest_digest(fields)
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))
    assert "digest" in refused(tmp_path)


_LOW, _HIGH = {"name": "getitem", "module": "2", "kind": "dropout"}, {"name": "a", "shape": [4], "dtype": "float32"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ".."}, "wrong at name"),
        ({"name": "../net"}, "wrong at name"),
        ({"name": "other"}, "belongs to 'other'"),
        ({"schema": 2}, "wrong at schema"),
        ({"run": "os.system"}, "wrong at run"),
        ({"num_outputs": 4}, "3 outputs, but the manifest says 4"),
        ({"output": "probabilities"}, "no probabilities"),
        ({"task": "regression", "output": "mean"}, r"not the one published"),
        ({"task": "regression", "output": "mean_and_log_variance"}, "3 columns"),
        ({"labels": ["a", "b"]}, "2 labels and 3 outputs"),
        ({"inputs": [{"name": "input", "shape": [5], "dtype": "float32"}]}, "the manifest says"),
        ({"inputs": [{"name": "input", "shape": [4], "dtype": "float64"}]}, "the manifest says"),
        ({"inputs": [{"name": "other", "shape": [4], "dtype": "float32"}]}, "the manifest says"),
        ({"inputs": [{"name": "input", "shape": [2**31 - 1], "dtype": "float32"}]}, "the manifest says"),
        ({"sites": []}, "wrong at sites"),
        ({"sites": [{**_LOW, "rate": 0.25}]}, "sites of the program"),
        ({"sites": [{**_LOW, "rate": 0.5, "module": "3"}]}, "sites of the program"),
        ({"sites": [{**_LOW, "rate": 0.5, "kind": "feature_dropout"}]}, "sites of the program"),
        ({"sites": [{**_LOW, "rate": 0.5, "name": "other"}]}, "sites of the program"),
        ({"sites": [{**_LOW, "rate": 0.5}] * 2}, "sites of the program"),
        ({"sites": [{**_LOW, "rate": 0}]}, "wrong at sites.0.rate"),
        ({"sites": [{**_LOW, "rate": 2}]}, "wrong at sites.0.rate"),
    ],
    ids=str,
)
def test_a_manifest_of_another_network_is_refused(bundle, tmp_path, changes, reason):
    bundle.manifest.update(changes)
    bundle.write(tmp_path)
    assert reason in refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '"net"', "{", "{}", "\ufeff{}", "[" * 50_000, '{"schema": ' * 50_000, "\x00" * 1000, "9" * 5000],
    ids=lambda text: repr(text[:12]),
)
def test_a_malformed_manifest_is_refused(bundle, tmp_path, text):
    (bundle.write(tmp_path) / MANIFEST_FILE).write_text(text)
    assert refused(tmp_path).startswith("manifest.json of net/1 is wrong at")


def test_a_manifest_of_random_bytes_is_refused(bundle, tmp_path):
    (bundle.write(tmp_path) / MANIFEST_FILE).write_bytes(bytes(range(256)))
    assert refused(tmp_path).startswith("manifest.json of net/1 is wrong at")


def _site(program):
    return next(node for node in program["nodes"] if "kind" in node)


def _sites(program):
    return [node for node in program["nodes"] if "kind" in node]


def _last(program, **changes):
    program["nodes"][-1].update(changes)


_PROGRAM_CHANGES = {
    "schema 3": (lambda p: p.update(schema=3), "schema 3; this version reads 1 and 2"),
    "an outline with operations": (lambda p: p.update(schema=2), "an outline has sites only"),
    "an outline of nothing": (lambda p: p.update(schema=2, nodes=[]), "an outline has no weights"),
    "an outline whose output is a site": (
        lambda p: p.update(schema=2, weights=[], nodes=(sites := _sites(p)), output=sites[0]["name"]),
        "an outline has no weights",
    ),
    "an outline without its network": (
        lambda p: p.update(schema=2, weights=[], nodes=_sites(p), output="output"),
        "no suffix.onnx computes it",
    ),
    "schema true": (lambda p: p.update(schema=True), "malformed"),
    "no schema": (lambda p: p.pop("schema"), "malformed: KeyError at 'schema'"),
    "no inputs": (lambda p: p.update(inputs=[]), "0 inputs"),
    "two inputs": (lambda p: p["inputs"].append({"name": "b", "shape": [4], "dtype": "float32"}), "the manifest says"),
    "seventeen inputs": (
        lambda p: p["inputs"].extend({"name": f"b{n}", "shape": [4], "dtype": "float32"} for n in range(16)),
        "17 inputs and",
    ),
    "an input with a taken name": (lambda p: p["inputs"].append(dict(p["inputs"][0])), "uses a name twice"),
    "a free dimension of its own": (lambda p: p["inputs"][0].update(shape=["length"]), "has sizes of ['length']"),
    "a free dimension that no input has": (lambda p: p.update(free=[["length", 1, None]]), "the manifest says"),
    "a free dimension of rows": (lambda p: p.update(free=[["rows", 1, None]]), "uses a name twice"),
    "a free dimension from 0 on": (lambda p: p.update(free=[["length", 0, None]]), "lets length be 0 and more"),
    "a free dimension that is empty": (lambda p: p.update(free=[["length", 3, 2]]), "lets length be 3 … 2"),
    "a free dimension without bounds": (lambda p: p.update(free=[["length"]]), "malformed"),
    "an input of another shape": (lambda p: p["inputs"][0].update(shape=[5]), "the manifest says"),
    "an input of 4 TB": (lambda p: p["inputs"][0].update(shape=[2**40]), "no manifest can describe"),
    "an input of negative size": (lambda p: p["inputs"][0].update(shape=[-4]), "no manifest can describe"),
    "an input of another dtype": (lambda p: p["inputs"][0].update(dtype="float64"), "the manifest says"),
    "an input of an unknown dtype": (lambda p: p["inputs"][0].update(dtype="os.system"), "malformed"),
    "a node named twice": (lambda p: p["nodes"].append(p["nodes"][0]), "uses a name twice"),
    "a node named as the input": (lambda p: p["nodes"][0].update(name="input"), "uses a name twice"),
    "a node named as a weight": (lambda p: p["nodes"][0].update(name="weights/0.bias"), "uses a name twice"),
    "a node that reads nothing there is": (lambda p: _last(p, args=[ref("nowhere")]), "before they exist"),
    "a node that reads itself": (lambda p: _last(p, args=[ref(p["output"])]), "before they exist"),
    "a node that reads ahead": (lambda p: p["nodes"].reverse(), "before they exist"),
    "a node without a name": (lambda p: p["nodes"][0].pop("name"), "malformed: KeyError at 'name'"),
    "a node with a number for a name": (lambda p: p["nodes"][0].update(name=7), "malformed"),
    "a node that is no object": (lambda p: p["nodes"].append("aten.relu.default"), "malformed"),
    "nodes that are an object": (lambda p: p.update(nodes={"a": 1}), "malformed"),
    "arguments that are no list": (lambda p: _last(p, args={"ref": "input"}), "are not a list"),
    "keywords that are a list": (lambda p: _last(p, kwargs=[1]), "malformed"),
    "a keyword there is not": (lambda p: _last(p, kwargs={"evil": 1}), "does not run"),
    "an output that nothing makes": (lambda p: p.update(output="nowhere"), "the output 'nowhere'"),
    "an output that is a list": (lambda p: p.update(output=["linear_1"]), "malformed"),
    "the input as output": (lambda p: p.update(output="input"), "cross it"),
    "a weight as output": (lambda p: p.update(output="weights/3.weight"), "cross it"),
    "a weight that is not stored": (lambda p: p["weights"].append("weights/none"), "lacks weights/none"),
    "no weights": (lambda p: p.update(weights=[]), "before they exist"),
    "a rate of 0": (lambda p: _site(p).update(rate=0), "rate 0.0"),
    "a rate of 2": (lambda p: _site(p).update(rate=2), "rate 2.0"),
    "a negative rate": (lambda p: _site(p).update(rate=-0.5), "rate -0.5"),
    "a rate as text": (lambda p: _site(p).update(rate="0.5"), "malformed"),
    "a rate of true": (lambda p: _site(p).update(rate=True), "malformed"),
    "a rate that no float holds": (lambda p: _site(p).update(rate=10**400), "malformed: OverflowError"),
    "another rate": (lambda p: _site(p).update(rate=0.25), "sites of the program"),
    "another kind": (lambda p: _site(p).update(kind="feature_dropout"), "sites of the program"),
    "an unknown kind": (lambda p: _site(p).update(kind="os.system"), "kind 'os.system'"),
    "an empty kind": (lambda p: _site(p).update(kind=""), "kind ''"),
    "a site that drops a weight": (lambda p: _site(p).update(input="weights/0.weight"), "cross it"),
    "a site without rows": (lambda p: _site(p).update(rows=None), "place the rows of relu differently"),
    "a site with rows on another axis": (lambda p: _site(p).update(rows=[1, 1, 1]), "place the rows of relu"),
    "rows of three folds": (lambda p: _site(p).update(rows=[0, 1, 1, 1]), "malformed"),
    "rows on a negative axis": (lambda p: _site(p).update(rows=[-1, 1, 1]), "an axis and two positive folds"),
    "rows folded into none": (lambda p: _site(p).update(rows=[0, 0, 1]), "an axis and two positive folds"),
    "rows that are no whole number": (lambda p: _site(p).update(rows=[0, 1.0, 1]), "malformed"),
    "no boundary": (lambda p: p.update(boundary={}), "the boundary [], but ['relu'] cross it"),
    "a boundary without rows": (lambda p: p["boundary"].update(relu=None), "place the rows of relu differently"),
    "a boundary on another axis": (lambda p: p["boundary"].update(relu=[1, 1, 1]), "place the rows of relu"),
    "a boundary with another fold": (lambda p: p["boundary"].update(relu=[0, 2, 1]), "place the rows of relu"),
    "a boundary of a huge fold": (lambda p: p["boundary"].update(relu=[0, 10**30, 1]), "place the rows of relu"),
    "a boundary of more": (lambda p: p["boundary"].update({"weights/0.bias": [0, 1, 1]}), "['relu'] cross it"),
    "a boundary of noise": (lambda p: p["boundary"].update(linear_1=[0, 1, 1]), "['relu'] cross it"),
    "a boundary that nothing makes": (lambda p: p["boundary"].update(nowhere=[0, 1, 1]), "['relu'] cross it"),
    "a boundary that is a list": (lambda p: p.update(boundary=["relu"]), "malformed"),
}


@pytest.mark.parametrize(("change", "reason"), _PROGRAM_CHANGES.values(), ids=_PROGRAM_CHANGES)
def test_an_inconsistent_program_is_refused(bundle, tmp_path, change, reason):
    change(bundle.program)
    bundle.write(tmp_path)
    assert reason in refused(tmp_path)


def test_a_site_and_a_boundary_changed_together_are_refused(bundle, tmp_path):
    """Both place the rows on the axis of the units, in two folds, which would draw other masks."""
    for rows in ([1, 1, 1], [0, 2, 1], None):
        changed = bundle.copy()
        _site(changed.program)["rows"] = changed.program["boundary"]["relu"] = rows
        root = tmp_path / str(rows)
        changed.write(root)
        refused(root)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"7", b"{", b"\xff\xfe\x00", b"\x80", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000],
    ids=lambda content: repr(content[:8]),
)
def test_a_file_that_is_not_a_program_is_refused(bundle, tmp_path, content):
    bundle.write(tmp_path, program=content)
    assert refused(tmp_path).startswith("program.json is malformed: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4000, "9" * 5000])
def test_an_invalid_rate_is_refused(bundle, tmp_path, number):
    text = json.dumps(bundle.program).replace('"rate": 0.5', f'"rate": {number}')
    assert number in text
    bundle.write(tmp_path, program=text.encode())
    assert "rate" in refused(tmp_path) or "malformed" in refused(tmp_path)


def test_an_argument_that_is_not_json_is_refused(bundle, tmp_path):
    text = json.dumps(bundle.program).replace('"args": [{"ref": "linear"}]', '"args": [{"ref": "linear"}, NaN]')
    assert "NaN" in text
    bundle.write(tmp_path, program=text.encode())
    assert "NaN, which is not JSON" in refused(tmp_path)


def test_arguments_nested_too_deep_are_refused(bundle, tmp_path):
    deep = json.loads("[" * 900 + "]" * 900)
    bundle.append(operation("deep", "aten.cat.default", deep))
    bundle.write(tmp_path)
    assert "deeper than" in refused(tmp_path)


def test_sizes_nested_too_deep_are_refused(bundle, tmp_path):
    size = "rows"
    for _ in range(40):
        size = ["add", size, 1]
    bundle.append(operation("deep", "aten.view.default", ref(bundle.program["output"]), [{"size": size}, 3]))
    bundle.write(tmp_path)
    assert "program.json has a size" in refused(tmp_path)


def test_a_network_that_couples_rows_is_refused(bundle, tmp_path):
    bundle.append(operation("total", "aten.sum.dim_IntList", ref("linear_1"), [0], True), _add("linear_1", "total"))
    bundle.write(tmp_path)
    assert "rows" in refused(tmp_path)


def test_a_network_whose_noise_is_cut_off_is_refused(bundle, tmp_path):
    """All passes would agree."""
    bundle.append(operation("none", "aten.mul.Tensor", ref("linear_1"), 0.0), _add("none", "weights/3.bias"))
    known = bundle.tensors["weights/3.bias"].double().softmax(0).expand(8, 3)
    bundle.tensors |= {"probe/mean": known.contiguous(), "probe/variance": torch.zeros(8, 3, dtype=torch.float64)}
    bundle.write(tmp_path)
    assert "agree to the last digit" in refused(tmp_path)


def test_an_answer_without_rows_is_refused(bundle, tmp_path):
    bundle.append(operation("total", "aten.sum.default", ref("linear_1")))
    bundle.write(tmp_path)
    assert "does not run" in refused(tmp_path)


def test_a_name_in_the_request_reaches_no_bundle_outside(bundle, tmp_path):
    bundle.write(tmp_path / "outside")
    (tmp_path / "bundles").mkdir()
    for name in ("../outside/net", "..", "net/../../outside/net"):
        with watched() as events, pytest.raises(UnknownModel):
            Predictor.load(Repository(tmp_path / "bundles"), name, 1)
        assert events == []


def _add(left, right):
    return operation("added", "aten.add.Tensor", ref(left), ref(right))


def test_every_refusal_keeps_its_cause(bundle, tmp_path):
    """The error that torch or Python raised is the cause, for debugging."""
    bundle.append(operation("odd", "aten.mul.Tensor", ref("linear_1"), {"size": ["floordiv", "rows", 0]}))
    bundle.write(tmp_path)
    with pytest.raises(InvalidBundle, match="ZeroDivisionError") as caught:
        Predictor.load(Repository(tmp_path), "net", 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
