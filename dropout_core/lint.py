"""Advice on where a network drops, read off its captured graph.

Each rule is one function of a site and its surroundings. Followed are values, not modules: functional dropout and
layers in any order of registration are seen as they run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dropout_core.capture.capture import capture
from dropout_core.errors import CoupledRows, NoSite
from dropout_core.graph.program import GETITEM, Graph, Node, Operation, Site, references

_CONVOLUTIONS = {"convolution", *(f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3))}
_PRODUCTS = {"linear", "addmm", "mm", "bmm", "matmul", "baddbmm", "einsum", "scaled_dot_product_attention"}
_MIXING = _CONVOLUTIONS | _PRODUCTS | {"lstm", "gru", "rnn_tanh", "rnn_relu", "rnn"}
_BATCH_NORMS = {"batch_norm", "_native_batch_norm_legit_no_training"}
_CREATING = {"new_ones", "ones_like", "new_full", "full_like", "new_zeros", "zeros_like"}  # of a shape, not of values
_RESHAPING = {"view", "reshape", "flatten", "mean"}
_INPUT_RATE = 0.2
_HIDDEN_RATES = (0.1, 0.5)


@dataclass(frozen=True)
class Finding:
    """One piece of advice: the rule, where (a module's path and line), why, what to do instead, and who says so."""

    rule: str
    where: str
    why: str
    instead: str
    source: str


def lint(model: nn.Module, example: Tensor) -> list[Finding]:
    """Findings on a network, in the order it runs. The model is left as it was.

    example: [b, *F], as for capture. Raises CaptureError or CoupledRows for what cannot be captured, unless the reason
    is a finding itself: no dropout, or a batch norm without running statistics.
    """
    modules = list(_moving_statistics(model))
    try:
        return modules + lint_graph(capture(model, example).graph)
    except NoSite:
        return [*modules, _no_dropout()]
    except CoupledRows:
        if not modules:
            raise
        return modules


def lint_graph(graph: Graph) -> list[Finding]:
    """Findings on a captured graph, such as a bundle's."""
    view = _View(graph)
    found = [finding for site in graph.sites for rule in _RULES for finding in rule(site, view)]
    return list(dict.fromkeys(found))


class _View:
    """A graph, to be walked both ways."""

    def __init__(self, graph: Graph) -> None:
        self.inputs = {spec.name for spec in graph.inputs}
        self.makers: dict[str, Node] = {node.name: node for node in graph.nodes}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in references(node):
                self.readers.setdefault(name, []).append(node)

    def after(self, name: str, through: Callable[[Node], bool]) -> Iterator[Node]:
        """The nodes that a value reaches; those that `through` refuses are given, but not passed."""
        waiting, seen = [name], {name}
        while waiting:
            for node in self.readers.get(waiting.pop(), ()):
                if node.name not in seen:
                    seen.add(node.name)
                    yield node
                    if through(node):
                        waiting.append(node.name)

    def before(self, name: str, through: Callable[[Node], bool]) -> Iterator[str]:
        """The names a value is computed from, itself first; those `through` refuses are given, but not passed."""
        waiting, seen = [name], set()
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            yield current
            node = self.makers.get(current)
            if node is not None and _kind(node) not in _CREATING and through(node):
                waiting.extend(references(node))


def _before_batch_norm(site: Site, view: _View) -> Iterator[Finding]:
    """Directly, or with one layer of weights between: batch norm learns the variance of noise that eval mode lacks."""
    near = list(view.after(site.name, _is_no_layer))
    beyond = [after for node in near if _kind(node) in _MIXING for after in view.after(node.name, _is_no_layer)]
    if any(_kind(node) in _BATCH_NORMS for node in near + beyond):
        yield Finding(
            "before-batch-norm",
            _where(site),
            "batch norm learns the variance with noise and meets another one without: the variance shifts",
            "drop after the last batch norm, or use a small rate",
            "Li et al. 2019, arXiv 1801.05134",
        )


def _units_of_maps(site: Site, view: _View) -> Iterator[Finding]:
    """Single elements of a feature map: their neighbours say the same."""
    made = view.before(site.input.name, lambda node: _is_no_layer(node) and _kind(node) not in _RESHAPING)
    of_maps = any(_kind(view.makers.get(name)) in _CONVOLUTIONS for name in made)
    if site.kind == "dropout" and site.rows is not None and of_maps:
        yield Finding(
            "units-of-maps",
            _where(site),
            "single elements of a convolution's maps are dropped, and their neighbours say the same: little is taken",
            "SpatialDropout (whole maps) or DropBlock (regions)",
            "Tompson et al. 2015, arXiv 1411.4280; Ghiasi et al. 2018, arXiv 1810.12890",
        )


def _after_the_last_layer(site: Site, view: _View) -> Iterator[Finding]:
    """Noise that no weights see any more: it is added to the answer."""
    if not any(_kind(node) in _MIXING for node in view.after(site.name, lambda _: True)):
        yield Finding(
            "after-the-last-layer",
            _where(site),
            "no layer with weights comes after this dropout: it drops parts of the answer itself",
            "drop before the last layer",
            "Srivastava et al. 2014, JMLR 15, section 4",
        )


def _unusual_rate(site: Site, view: _View) -> Iterator[Finding]:
    """Input at most 0.2, hidden 0.1 … 0.5: for units and maps; other variants have customs of their own."""
    if site.kind not in ("dropout", "feature_dropout") or site.rows is None:
        return
    made = list(view.before(site.input.name, _is_no_layer))
    if any(_kind(view.makers.get(name)) in _MIXING for name in made):
        low, high = _HIDDEN_RATES
        allowed, place = low <= site.rate <= high, f"{low} … {high} in hidden layers"
    elif view.inputs.intersection(made):
        allowed, place = site.rate <= _INPUT_RATE, f"at most {_INPUT_RATE} on the input"
    else:
        return  # a mask that multiplies something: of a path, a group, a sequence
    if not allowed:
        yield Finding(
            "unusual-rate",
            _where(site),
            f"a rate of {site.rate:g} is outside custom",
            f"{place}, unless validation says otherwise",
            "Srivastava et al. 2014, JMLR 15, appendix A.4",
        )


_RULES = (_before_batch_norm, _units_of_maps, _after_the_last_layer, _unusual_rate)


def _moving_statistics(model: nn.Module) -> Iterator[Finding]:
    for path, module in model.named_modules():
        if isinstance(module, _NormBase) and (module.training or module.running_mean is None):
            own = module.running_mean is None
            yield Finding(
                "batch-norm-in-training",
                path,
                "it has no running statistics: a row's answer depends on its batch"
                if own
                else "batch norm is in training mode: passes of a loop would move its statistics",
                "track_running_stats=True" if own else "model.eval(); the engine leaves batch norm there by itself",
                "Ioffe, Szegedy 2015, arXiv 1502.03167",
            )


def _no_dropout() -> Finding:
    return Finding(
        "no-dropout",
        "",
        "nothing random reaches the output: every pass would agree",
        "a dropout before the last layer, and training with it",
        "Gal, Ghahramani 2016, arXiv 1506.02142",
    )


def _kind(node: Node | None) -> str:
    """The name of a node's operator, such as "linear", or an empty string."""
    if not isinstance(node, Operation) or node.target == GETITEM:
        return ""
    return str(node.target).split(".")[1]


def _is_no_layer(node: Node) -> bool:
    return _kind(node) not in _MIXING


def _where(site: Site) -> str:
    return " at ".join(part for part in (site.module, site.where) if part) or site.name
