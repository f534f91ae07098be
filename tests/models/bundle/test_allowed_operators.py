"""The list of operators is a boundary: operators on it are pure, and no others can be named."""

import pytest
import torch

from dropout_core.capture.sites import draws
from dropout_core.graph.program import Device, Ref
from dropout_core.graph.sizes import Size
from mcdrop_models.bundle.allowed_operators import ALLOWED_OPERATORS, allowed_operator, check_call, operator_name
from mcdrop_models.errors import InvalidBundle

_aten = torch.ops.aten
_NEVER = """
    from_file save load set_ copy_ copy resize_ resize as_strided as_strided_copy empty empty_like empty_strided
    new_empty new_empty_strided empty_permuted data_ptr storage _local_scalar_dense item is_pinned pin_memory
    record_stream native_batch_norm batch_norm_update_stats _adaptive_avg_pool2d _adaptive_avg_pool3d
    nonzero masked_select unique unique_consecutive bincount
    bernoulli rand randn randint randperm rand_like randn_like randint_like normal normal_functional uniform
    exponential poisson multinomial dropout native_dropout feature_dropout alpha_dropout rrelu rrelu_with_noise
    rrelu_with_noise_functional _fused_dropout native_dropout_backward _efficient_attention_forward
    _flash_attention_forward _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
    to _to_cpu _pin_memory sparse_coo_tensor _sparse_coo_tensor_unsafe segment_reduce quantize_per_tensor
    _assert_async _print sym_size
""".split()  # noqa: SIM905 - a list to read
_SWITCHABLE = {"lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention"}


def _usable(base):
    packet = getattr(_aten, base)
    found = []
    for overload in packet.overloads():
        try:
            found.append(allowed_operator(f"aten.{base}.{overload}"))
        except InvalidBundle:
            continue
    return found


@pytest.fixture(scope="module")
def usable():
    """Every operator that a bundle can name."""
    return {base: _usable(base) for base in sorted(ALLOWED_OPERATORS)}


def test_every_name_on_the_list_stands_for_an_operator(usable):
    assert [base for base, found in usable.items() if not found] == []


def test_every_operator_is_functional_and_gives_tensors(usable):
    for target in (target for found in usable.values() for target in found):
        schema = target._schema
        written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        assert not schema.is_mutable, target
        assert written == [], target
        assert schema.returns, target
        assert all("Tensor" in str(result.type) for result in schema.returns), target


def test_nothing_on_the_list_is_in_place_or_denied():
    assert sorted(ALLOWED_OPERATORS.intersection(_NEVER)) == []
    assert [base for base in ALLOWED_OPERATORS if base.endswith("_") or base.startswith("__")] == []


def test_only_operators_with_a_switch_can_draw_random_numbers(usable):
    random = {
        base for base, found in usable.items() for target in found if torch.Tag.nondeterministic_seeded in target.tags
    }
    assert random == _SWITCHABLE


def test_an_operator_is_found_again_by_its_name(usable):
    for target in (target for found in usable.values() for target in found):
        assert allowed_operator(operator_name(target)) is target


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.empty.memory_format",
        "aten.set_.source_Tensor",
        "aten.add_.Tensor",
        "aten.add.out",
        "aten.bernoulli.p",
        "aten.native_batch_norm.default",
        "aten.add.int",
        "aten.add.str",
        "aten.remainder.int",
        "aten.relu",
        "aten.relu.",
        "aten.relu.default.default",
        "aten.relu.default\n",
        "aten.relu.__call__",
        "aten.add.__init__",
        "aten.__class__",
        "aten.__class__.default",
        "aten._dir.default",
        "aten.",
        "aten",
        "",
        ".",
        "Aten.relu.default",
        "aten::relu.default",
        "torch.ops.aten.relu.default",
        "torch.os.system",
        "os.system",
        "builtins.eval",
        "prims.convert_element_type.default",
        "prim.device.default",
        "mkldnn._linear_pointwise.default",
        "mcdrop.other.default",
        "mcdrop.rnn.other",
        "mcdrop.rnn",
        "mcdrop.rnn.__call__",
        "mcdrop.__class__.default",
        "mcdrop.relu.default",
        "aten.rnn.default",
        "getitem.default",
    ],
    ids=repr,
)
def test_a_name_that_is_not_allowed_is_refused(name):
    with pytest.raises(InvalidBundle) as caught:
        allowed_operator(name)
    assert name in str(caught.value) or repr(name) in str(caught.value)


def test_refusing_a_captured_operator_names_it_and_its_line():
    with pytest.raises(InvalidBundle, match=r"'aten\.special_bessel_j0\.default' \(at net\.py:12\)"):
        operator_name(_aten.special_bessel_j0.default, "net.py:12")
    with pytest.raises(InvalidBundle, match="sqrt"):
        operator_name(torch.sqrt)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (_aten.clone.default, (Ref("x"),), {"memory_format": 10**9}),
        (_aten.contiguous.default, (Ref("x"),), {"memory_format": 3}),
        (_aten.softmax.int, (Ref("x"), 1, 7), {}),
        (_aten.softmax.int, (Ref("x"), 1), {"dtype": 7}),
        (_aten.zeros.default, ((2,),), {"dtype": "float32"}),
        (_aten.zeros.default, ((2,),), {"dtype": Ref("x")}),
        (_aten.zeros.default, ((2,),), {"layout": 0}),
        (_aten.zeros.default, ((2,),), {"device": "cuda:0"}),
        (_aten.zeros.default, ((2,),), {"device": "meta"}),
        (_aten.grid_sampler.default, (Ref("x"), Ref("y"), 7, 0, False), {}),
        (_aten.grid_sampler_2d.default, (Ref("x"), Ref("y"), 0), {"padding_mode": -1, "align_corners": False}),
        (_aten.batch_norm.default, (*map(Ref, "xwbmv"), True, 0.1, 1e-5, False), {}),
        (_aten.batch_norm.default, (*map(Ref, "xwbmv"), Size("rows"), 0.1, 1e-5, False), {}),
        (_aten.batch_norm.default, (*map(Ref, "xwb"),), {"running_mean": Ref("m"), "training": True}),
        (_aten.instance_norm.default, (*map(Ref, "xwbmv"), True, 0.1, 1e-5, False), {}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_arguments_that_kernels_do_not_check_are_refused(target, args, kwargs):
    with pytest.raises(InvalidBundle, match=str(target)):
        check_call(target, args, kwargs)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (_aten.clone.default, (Ref("x"),), {"memory_format": torch.contiguous_format}),
        (_aten.clone.default, (Ref("x"),), {"memory_format": None}),
        (_aten.softmax.int, (Ref("x"), 1, torch.float64), {}),
        (_aten.zeros.default, ((2,),), {"layout": torch.strided, "device": Device(), "pin_memory": False}),
        (_aten.grid_sampler.default, (Ref("x"), Ref("y"), 2, 1, False), {}),
        (_aten.batch_norm.default, (*map(Ref, "xwbmv"), False, 0.1, 1e-5, False), {}),
        (_aten.instance_norm.default, (Ref("x"), None, None, None, None, True, 0.1, 1e-5, False), {}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_arguments_of_the_right_kind_pass(target, args, kwargs):
    check_call(target, args, kwargs)


_RNN = (Ref("x"), Ref("h"), (Ref("w"),), True, 1)
_QKV = tuple(map(Ref, "qkv"))


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "random"),
    [
        (_aten.relu.default, (Ref("x"),), {}, False),
        (_aten.bernoulli.p, (Ref("x"), 0.5), {}, True),
        (_aten.scaled_dot_product_attention.default, _QKV, {}, False),
        (_aten.scaled_dot_product_attention.default, (*_QKV, None, 0.0), {}, False),
        (_aten.scaled_dot_product_attention.default, (*_QKV, None, 0.5), {}, True),
        (_aten.scaled_dot_product_attention.default, _QKV, {"dropout_p": 0.5}, True),
        (_aten.scaled_dot_product_attention.default, _QKV, {"dropout_p": Ref("p")}, True),
        (_aten.lstm.input, (*_RNN, 0.5, False, False, True), {}, False),
        (_aten.lstm.input, (*_RNN, 0.0, True, False, True), {}, False),
        (_aten.lstm.input, (*_RNN, 0.5, True, False, True), {}, True),
        (_aten.lstm.input, _RNN, {"dropout": 0.5, "train": True}, True),
        (_aten.lstm.input, (*_RNN, 0.5), {"train": True}, True),
        (_aten.lstm.input, _RNN, {"dropout": 0.5, "train": False}, False),
        (_aten.gru.input, _RNN, {"dropout": 0.5, "train": True}, True),
        (_aten.lstm.data, (*_RNN, 0.0, False), {}, True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_call_draws_if_its_rate_and_its_switch_say_so(target, args, kwargs, random):
    assert draws(target, args, kwargs) is random
