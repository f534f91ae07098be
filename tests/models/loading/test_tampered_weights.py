"""A weights.safetensors of another format or with wrong sizes is refused; it is never run or read past its end."""

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.graph.kernel_checks import check_kernel_sizes
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import rows_for, seeded
from tests.support.side_effects import refused

_NOT_SAFETENSORS = "weights.safetensors of net/1 is not a safetensors file"


class _Touches:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _zipped(value):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value))
    return buffer.getvalue()


_DANGEROUS = {
    "a pickle": pickle.dumps,
    "an old pickle": lambda value: pickle.dumps(value, protocol=0),
    "a torch.save file": _saved,
    "a zip with a pickle": _zipped,
    "a pickle behind a safetensors length": lambda value: struct.pack("<Q", 2) + b"{}" + pickle.dumps(value),
}


@pytest.mark.parametrize("dump", _DANGEROUS.values(), ids=_DANGEROUS)
def test_a_pickle_named_weights_is_never_unpickled(bundle, tmp_path, dump):
    bundle.write(tmp_path / "bundles", weights=dump(_Touches(tmp_path / "sentinel")))
    assert refused(tmp_path / "bundles").startswith(_NOT_SAFETENSORS)
    assert not (tmp_path / "sentinel").exists()


def test_unpickling_would_have_run_the_payload(tmp_path):
    pickle.loads(pickle.dumps(_Touches(tmp_path / "sentinel")))
    assert (tmp_path / "sentinel").exists()


def _file(header, body=b"", length=None):
    """Return a safetensors file with any header and any length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _tensor(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


_FILES = {
    "nothing": b"",
    "a length alone": b"\x08" + b"\0" * 6,
    "a header of no bytes": _file(b""),
    "a header that is no JSON": _file(b"not JSON"),
    "a header that is a list": _file([]),
    "a header nested deep": _file(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "a header longer than the file": _file({}, length=1000),
    "a header of 2^63 bytes": _file({}, length=2**63),
    "a header of 2^64 - 1 bytes": _file({}, length=2**64 - 1),
    "a tensor of 200 MB that is not there": _file({"a": _tensor(0, 200_000_000, [50_000_000])}),
    "a tensor of 2^62 bytes": _file({"a": _tensor(0, 2**62, [2**60])}),
    "sizes whose product overflows": _file({"a": _tensor(0, 4, [2**33, 2**33])}, bytes(4)),
    "a tensor beyond the file": _file({"a": _tensor(0, 8, [2])}, bytes(4)),
    "tensors that overlap": _file({"a": _tensor(0, 8, [2]), "b": _tensor(4, 12, [2])}, bytes(12)),
    "a tensor read backwards": _file({"a": _tensor(4, 0)}, bytes(4)),
    "a tensor before the file": _file({"a": _tensor(-4, 0)}, bytes(4)),
    "a hole between tensors": _file({"a": _tensor(0, 4), "b": _tensor(8, 12)}, bytes(12)),
    "bytes after the last tensor": _file({"a": _tensor(0, 4)}, bytes(8)),
    "a shape larger than its bytes": _file({"a": _tensor(0, 4, [1000])}, bytes(4)),
    "a shape smaller than its bytes": _file({"a": _tensor(0, 8, [1])}, bytes(8)),
    "a negative shape": _file({"a": _tensor(0, 4, [-1])}, bytes(4)),
    "a dtype there is not": _file({"a": _tensor(0, 4, dtype="OBJECT")}, bytes(4)),
    "offsets that are no numbers": _file({"a": {**_tensor(0, 4), "data_offsets": ["0", "4"]}}, bytes(4)),
}


@pytest.mark.parametrize("content", _FILES.values(), ids=_FILES)
def test_a_file_with_wrong_sizes_is_refused(bundle, tmp_path, content):
    bundle.write(tmp_path, weights=content)
    assert refused(tmp_path).startswith(_NOT_SAFETENSORS)


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "U64", "C64", "BOOL"])
def test_a_weight_of_an_odd_dtype_is_refused(bundle, tmp_path, dtype):
    sizes = {"F4": 8, "F8_E8M0": 16, "U64": 128, "C64": 128, "BOOL": 16}
    content = safetensors.torch.save({k: v for k, v in bundle.tensors.items() if k != "weights/0.bias"})
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    header["weights/0.bias"] = _tensor(len(body), len(body) + sizes[dtype], [16], dtype)
    bundle.write(tmp_path, weights=_file(header, body + bytes(sizes[dtype])))
    refused(tmp_path)


@pytest.mark.parametrize("name", ["probe/input", "probe/mean", "probe/variance", "weights/0.weight"])
def test_a_tensor_that_is_missing_is_named(bundle, tmp_path, name):
    del bundle.tensors[name]
    bundle.write(tmp_path)
    assert f"lacks {name}" in refused(tmp_path)


def test_an_empty_file_of_tensors_is_refused(bundle, tmp_path):
    bundle.write(tmp_path, weights=_file({}))
    assert "lacks probe/input, probe/mean, probe/variance" in refused(tmp_path)


_OTHER_WEIGHTS = {
    "one weight a thousandth larger": ("weights/3.weight", lambda w: w * 1.001),
    "one weight of another sign": ("weights/0.weight", lambda w: -w),
    "weights of zero": ("weights/3.weight", torch.zeros_like),
    "weights that are no numbers": ("weights/3.weight", lambda w: w * float("nan")),
    "weights without bound": ("weights/3.bias", lambda w: w + float("inf")),
    "another answer": ("probe/mean", lambda w: w + 0.001),
    "another variance": ("probe/variance", lambda w: w * 1.01),
    "an answer that is no number": ("probe/mean", lambda w: w * float("nan")),
    "an answer to fewer rows": ("probe/mean", lambda w: w[:1]),
    "an answer of one number": ("probe/variance", lambda w: w.mean()),
    "another question": ("probe/input", lambda w: w + 0.1),
}


@pytest.mark.parametrize(("name", "change"), _OTHER_WEIGHTS.values(), ids=_OTHER_WEIGHTS)
def test_changed_weights_are_detected_by_the_known_answer(bundle, tmp_path, name, change):
    bundle.tensors[name] = change(bundle.tensors[name]).contiguous()
    bundle.write(tmp_path)
    reason = refused(tmp_path)
    assert "not the one published" in reason or "agree to the last digit" in reason


_WRONG_SHAPES = {
    "a weight turned around": ("weights/0.weight", lambda w: w.T, "does not run"),
    "a weight cut short": ("weights/0.weight", lambda w: w[:3], "does not run"),
    "a weight of one number": ("weights/3.weight", lambda w: w.mean(), "does not run"),
    "a bias too long": ("weights/3.bias", lambda w: w.repeat(2), "does not run"),
    "a weight of no numbers": ("weights/0.weight", lambda w: w[:0], "does not run"),
    "a weight of halves": ("weights/0.weight", lambda w: w.half(), "does not run"),
    "a probe of other rows": ("probe/input", lambda w: w[:, :2], "probe does not fit"),
    "a probe of another dtype": ("probe/input", lambda w: w.double(), "probe does not fit"),
    "a probe of no rows": ("probe/input", lambda w: w[:0], "probe does not fit"),
    "a probe of one number": ("probe/input", lambda w: w.mean(), "probe does not fit"),
}


@pytest.mark.parametrize(("name", "change", "reason"), _WRONG_SHAPES.values(), ids=_WRONG_SHAPES)
def test_a_tensor_of_another_shape_is_refused(bundle, tmp_path, name, change, reason):
    bundle.tensors[name] = change(bundle.tensors[name]).contiguous()
    bundle.write(tmp_path)
    assert reason in refused(tmp_path)


_SHORT = {
    "a running mean": ("convolutional", "weights/norm.running_mean", lambda w: w[:1]),
    "a running variance of two axes": ("convolutional", "weights/norm.running_var", lambda w: w[None]),
    "a batch norm's weight": ("convolutional", "weights/norm.weight", lambda w: w[:1]),
    "a recurrent bias": ("recurrent", "weights/lstm.bias_hh_l0", lambda w: w[:1]),
    "an input's weight with fewer rows": ("recurrent", "weights/lstm.weight_ih_l0", lambda w: w[:2]),
    "an input's weight with fewer columns": ("recurrent", "weights/lstm.weight_ih_l0", lambda w: w[:, :1]),
    "a state's weight": ("recurrent", "weights/lstm.weight_hh_l0", lambda w: w[:, :3]),
}


@pytest.mark.parametrize(("which", "name", "change"), _SHORT.values(), ids=_SHORT)
def test_sizes_that_a_kernel_does_not_check_are_refused_before_it(request, tmp_path, which, name, change):
    """torch reads past the end of these, and answers."""
    bundle = request.getfixturevalue(which).copy()
    bundle.tensors[name] = change(bundle.tensors[name]).contiguous()
    bundle.write(tmp_path)
    assert "whose sizes do not fit together" in refused(tmp_path)


def test_a_state_of_fewer_rows_is_refused_before_the_kernel(recurrent, tmp_path):
    """torch writes past the end of it."""
    bundle = recurrent.copy()
    for node in bundle.program["nodes"]:
        if node.get("target") == "aten.zeros.default":
            node["args"] = json.loads(json.dumps(node["args"]).replace('{"size": "rows"}', "1"))
    bundle.write(tmp_path)
    assert "whose sizes do not fit together" in refused(tmp_path)


def _recurrent_calls():
    for make in (nn.LSTM, nn.GRU, nn.RNN):
        for layers, both, bias, first in ((1, False, True, True), (2, True, False, False), (3, True, True, True)):
            net = make(4, 6, num_layers=layers, bidirectional=both, bias=bias, batch_first=first)
            state = torch.zeros(layers * (1 + both), 2 if first else 5, 6)
            hx = [state, state] if make is nn.LSTM else state
            target = {nn.LSTM: torch.ops.aten.lstm, nn.GRU: torch.ops.aten.gru, nn.RNN: torch.ops.aten.rnn_tanh}[make]
            yield target.input, [torch.zeros(2, 5, 4), hx, net._flat_weights, bias, layers, 0.0, False, both, first]


def test_recurrent_layers_of_every_form_fit():
    for target, args in _recurrent_calls():
        target(*args)
        check_kernel_sizes(target, args, {})
        *most, first = args
        check_kernel_sizes(target, most, {"batch_first": first})


def test_recurrent_layers_of_every_form_do_not_fit_when_one_size_is_off():
    for target, args in _recurrent_calls():
        x, hx, weights, *rest = args
        wrong_weights = [[*weights[:place], weight[:-1], *weights[place + 1 :]] for place, weight in enumerate(weights)]
        states = [hx[0][:, :1], hx[0][..., :1], hx[0][:0]] if isinstance(hx, list) else [hx[:, :1], hx[:0]]
        wrong_states = [[state, state] if isinstance(hx, list) else state for state in states]
        calls = [(x, hx, given) for given in (*wrong_weights, weights[:-1])]
        calls += [(x, state, weights) for state in wrong_states]
        calls += [(wrong, hx, weights) for wrong in (x[..., :1], x[:1, :1], x[0], x.unsqueeze(2))]
        for call in calls:
            with pytest.raises(InvalidInput, match="sizes do not fit together"):
                check_kernel_sizes(target, [*call, *rest], {})


def test_the_number_of_layers_follows_the_weights():
    for target, (x, hx, weights, bias, layers, *rest) in _recurrent_calls():
        more = [torch.cat([state, state]) for state in hx] if isinstance(hx, list) else torch.cat([hx, hx])
        with pytest.raises(InvalidInput, match="sizes do not fit together"):
            check_kernel_sizes(target, [x, more, weights, bias, 2 * layers, *rest], {})


def test_projections_are_left_to_the_kernel_that_checks():
    net = nn.LSTM(4, 6, proj_size=2)
    hx = [torch.zeros(1, 5, 2), torch.zeros(1, 5, 6)]
    check_kernel_sizes(
        torch.ops.aten.lstm.input, [torch.zeros(2, 5, 4), hx, net._flat_weights, True, 1, 0.0, False, False, False], {}
    )


def test_a_bidirectional_lstm_of_two_layers_is_published_and_loads(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.drop(self.lstm(x)[0][:, -1]))

    net = seeded(Net)
    rows = rows_for(net, (5, 4), 8)
    publish(net, rows, name="net", task="regression", root=tmp_path)
    assert Predictor.load(Repository(tmp_path), "net", 1).predict(rows, PassOptions(4, 0)).mean.shape == (8, 2)
