"""What a module or a function is to a surgery: a layer with weights, an activation, a dropout, or none of these."""

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from dropout_core.layers.selection import is_ours

Role = Literal["weights", "activation", "dropout"]

ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.GLU),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
    *(nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Threshold),
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_ACTIVATION_FUNCTIONS = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "glu", "tanh"),
    *("sigmoid", "softplus", "softsign", "logsigmoid", "hardtanh", "hardsigmoid", "hardswish", "hardshrink"),
    *("softshrink", "tanhshrink", "threshold"),
}
_WEIGHT_FUNCTIONS = {
    *(f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)),
    *("linear", "bilinear", "embedding", "embedding_bag", "multi_head_attention_forward"),
}
_PRODUCTS = {"matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"}
# What stands on the axes after these is something else than before.
RESHAPING = {
    *("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "mean", "sum", "amax"),
    *("transpose", "permute", "movedim", "swapaxes"),
}


def role_of(module: nn.Module) -> Role | None:
    """What a module is; a network of layers is a layer with weights."""
    if isinstance(module, _NORMS):
        return None
    if isinstance(module, nn.Linear | _ConvNd) or any(weight.dim() >= 2 for weight in module.parameters()):
        return "weights"
    if isinstance(module, ACTIVATIONS):
        return "activation"
    return "dropout" if is_dropout(module) else None


def role_of_function(name: str) -> Role | None:
    """What a function of this name is."""
    if "dropout" in name:
        return "dropout"
    return "activation" if name in _ACTIVATION_FUNCTIONS else None


def has_weights(name: str, constant: bool) -> bool:
    """Whether a function of this name is a layer with weights. constant: whether one of its arguments is a constant."""
    return name in _WEIGHT_FUNCTIONS or (constant and name in _PRODUCTS)


def is_dropout(module: nn.Module) -> bool:
    """Whether a module is one of torch's dropouts, or one of this library's layers."""
    return isinstance(module, _DropoutNd) or is_ours(module)
