"""The operators that a bundle may use: pure functions of tensors that read no files, memory or random numbers.

This list is a security boundary. It leaves out operators that write in place, open files (from_file), return
uninitialised memory (empty, new_empty), look at storage (as_strided), draw random numbers, have a shape that depends on
values (nonzero, masked_select), or do not check sizes (native_batch_norm, which writes out of bounds;
_adaptive_avg_pool2d). `dropout_core.graph.kernel_checks` checks the sizes of those that networks cannot do without. Our
own operators check themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import dropout_core.layers.rnn_operator  # noqa: F401 - registers mcdrop::rnn, which a bundle may name
from dropout_core.graph.operators import arguments_by_name
from dropout_core.graph.program import Device
from mcdrop_models.errors import InvalidBundle

# torch also takes a number for these, and crashes on an unknown one.
_KINDS = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": Device,
}
# These must be 0, 1 or 2: any other number leaves the result uninitialised.
_MODES = ("interpolation_mode", "padding_mode")
_BATCH_STATISTICS = {
    torch.ops.aten.batch_norm.default: "training",
    torch.ops.aten.instance_norm.default: "use_input_stats",
}
ALLOWED_OPERATORS = frozenset(
    """
    abs acos acosh add addcdiv addcmul addmm alias all amax amin any arange argmax argmin argsort asin asinh atan atan2
    atanh baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to cat ceil celu chunk
    clamp clamp_max clamp_min clone constant_pad_nd contiguous copysign cos cosh cosine_similarity cummax cumprod cumsum
    detach diagonal diff div dot einsum elu embedding eq erf erfc erfinv exp exp2 expand expand_as expm1 eye fill
    flatten flip floor floor_divide fmax fmin fmod full full_like gather ge gelu glu grid_sampler grid_sampler_2d gt
    hardshrink hardsigmoid hardswish hardtanh huber_loss index index_add index_put index_select instance_norm isfinite
    isinf isnan kron layer_norm le leaky_relu lerp lgamma linear linspace log log10 log1p log2 log_sigmoid log_softmax
    logaddexp logical_and logical_not logical_or logical_xor logit logsumexp lt masked_fill matmul max maximum mean
    meshgrid min minimum mish mm movedim mul mv nan_to_num narrow ne neg new_full new_ones new_zeros norm numpy_T
    one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape rms_norm roll round rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce select
    select_scatter selu sgn sigmoid sign silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort
    special_entr special_expit special_log_ndtr special_logit special_ndtr split split_with_sizes sqrt square squeeze
    stack std sub sum swapaxes t take_along_dim tan tanh tensor_split threshold tile topk transpose tril triu trunc
    unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view view_as where xlogy zeros zeros_like
    _log_softmax _softmax _to_copy _unsafe_view

    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d batch_norm conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution group_norm im2col col2im max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices native_group_norm native_layer_norm
    _native_batch_norm_legit_no_training

    gru lstm rnn_relu rnn_tanh scaled_dot_product_attention
    """.split()
)
_NAMESPACES = {"aten": ALLOWED_OPERATORS, "mcdrop": frozenset({"rnn"})}


def operator_name(target: Any, where: str = "") -> str:
    """Return the name of an operator in program.json.

    Args:
        target: The operator.
        where: The place in the model's source that calls it, for messages.

    Returns:
        Its name, such as "aten.linear.default".

    Raises:
        InvalidBundle: Bundles may not use this operator.
    """
    name = str(target)
    try:
        found = allowed_operator(name)
    except InvalidBundle as error:
        raise InvalidBundle(_refusal(name, where)) from error
    if found is not target:
        raise InvalidBundle(_refusal(name, where))
    return name


def allowed_operator(name: str) -> Any:
    """Return the operator of a name.

    Args:
        name: Its name, such as "aten.linear.default".

    Returns:
        The overload of torch.ops.

    Raises:
        InvalidBundle: Bundles may not use this operator, or this torch does not have it.
    """
    namespace, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    if base not in _NAMESPACES.get(namespace, ()):
        raise InvalidBundle(_refusal(name))
    packet = getattr(getattr(torch.ops, namespace), base)
    if overload not in packet.overloads():
        raise InvalidBundle(f"torch {torch.__version__} has no operator {name}.")
    found = getattr(packet, overload)
    returns_tensors = all("Tensor" in str(result.type) for result in found._schema.returns)
    if found._schema.is_mutable or not returns_tensors:
        raise InvalidBundle(_refusal(name))
    return found


def check_call(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments that an operator itself does not check, and those that make it write into its arguments.

    Args:
        target: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        InvalidBundle: An argument has a value that it may not have.
    """
    schema = {argument.name: str(argument.real_type) for argument in target._schema.arguments}
    given = arguments_by_name(target, args, kwargs)
    for name, value in given.items():
        kind = schema.get(name, "").removeprefix("Optional[").removesuffix("]")
        if value is not None and kind in _KINDS and not isinstance(value, _KINDS[kind]):
            raise InvalidBundle(f"{target} has the {name} {value!r}; it must be a {kind}.")
        if name in _MODES and value not in (0, 1, 2):
            raise InvalidBundle(f"{target} has the {name} {value!r}; it must be 0, 1 or 2.")
    statistics = _BATCH_STATISTICS.get(target)
    running = given.get("running_mean") is not None or given.get("running_var") is not None
    if statistics and running and given.get(statistics) is not False:
        raise InvalidBundle(
            f"{target} would write batch statistics into its running ones, but a bundle's weights never change."
        )


def _refusal(name: str, where: str = "") -> str:
    place = f" (at {where})" if where else ""
    return f"bundles may not use the operator {name!r}{place}; see mcdrop_models.bundle.allowed_operators."
