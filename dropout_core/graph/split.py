"""A Program: a network as a list of pure operations in which every source of noise is a named site.

A Graph is structure only (frozen, comparable); a Program is a Graph with its weights. Sizes that depend on the
number of rows, or on a free dimension, are expressions of it, evaluated anew in each stage: in the suffix the rows are
t·B, not B.
"""

from dataclasses import dataclass

from dropout_core.graph.program import ROWS, Graph, Node, Site, references, size_names


@dataclass(frozen=True)
class Split:
    """The nodes no noise reaches, the nodes it reaches, and what the second need of the first."""

    prefix: tuple[Node, ...]
    suffix: tuple[Node, ...]
    crossing: tuple[str, ...]


def split(graph: Graph) -> Split:
    """Prefix and suffix by taint, across residual and parallel branches alike.

    A node that depends on the number of rows but on no input (zeros, positions) is recomputed where it is used.
    """
    data = {spec.name for spec in graph.inputs}
    noisy: set[str] = set()
    sized: set[str] = set()
    for node in graph.nodes:
        names = references(node)
        if isinstance(node, Site) or noisy.intersection(names):
            noisy.add(node.name)
        elif data.intersection(names):
            data.add(node.name)
        elif sized.intersection(names) or ROWS in size_names(node):
            sized.add(node.name)
    suffix = needed(graph.nodes, {graph.output}, noisy | sized)
    inside = {node.name for node in suffix}
    crossing = {name for node in suffix for name in references(node) if name not in inside}
    prefix = needed(graph.nodes, crossing, {node.name for node in graph.nodes} - noisy)
    return Split(prefix, suffix, tuple(sorted(crossing)))


def needed(nodes: tuple[Node, ...], wanted: set[str], among: set[str]) -> tuple[Node, ...]:
    """The nodes of `among` that the wanted values depend on, in order."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if node.name in wanted and node.name in among:
            kept.append(node)
            wanted.update(references(node))
    return tuple(reversed(kept))


def live(nodes: tuple[Node, ...], output: str) -> tuple[Node, ...]:
    """The nodes that the output depends on."""
    return needed(nodes, {output}, {node.name for node in nodes})


def split_last(suffix: tuple[Node, ...], output: str) -> Split:
    """The trunk, as `prefix`, and the head, as `suffix`: the sites that reach no other one, and all that they reach."""
    feeds: set[str] = set()  # values that reach a site
    for node in reversed(suffix):
        if isinstance(node, Site) or node.name in feeds:
            feeds.update(references(node))
    noisy: set[str] = set()
    late: set[str] = set()
    for node in suffix:
        names = references(node)
        if isinstance(node, Site) or noisy.intersection(names):
            noisy.add(node.name)
        if (isinstance(node, Site) and node.name not in feeds) or late.intersection(names):
            late.add(node.name)
    sized = {node.name for node in suffix} - noisy
    head = needed(suffix, {output}, late | sized)
    inside = {node.name for node in head}
    crossing = {name for node in head for name in references(node) if name not in inside}
    trunk = needed(suffix, crossing, (noisy - late) | sized)
    return Split(trunk, head, tuple(sorted(crossing)))
