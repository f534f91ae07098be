"""Dropouts that are functions inside a forward, which no surgery can reach."""

from torch import fx, nn

from dropout_core.errors import InvalidInput
from dropout_core.surgery.fx_trace import function_of, is_leaf, line_of, trace
from dropout_core.surgery.report import Notes


def note_functions(model: nn.Module, notes: Notes) -> str:
    """Note each call of a dropout function with its line. Returns what to say where the network cannot be traced."""
    if is_leaf(model):
        return ""
    try:
        graph = trace(model, training=True)
    except InvalidInput as error:
        return f"Dropout functions inside a forward, such as F.dropout, are not listed: {error}"
    for node in graph.nodes:
        name = function_of(node)
        if "dropout" in name or (name == "scaled_dot_product_attention" and _drops(node)):
            notes.left(line_of(node), name, "a function inside a forward: its rate is in the code there")
    return ""


def _drops(attention: fx.Node) -> bool:
    rate = attention.args[4] if len(attention.args) > 4 else attention.kwargs.get("dropout_p", 0.0)
    return bool(rate != 0.0)
