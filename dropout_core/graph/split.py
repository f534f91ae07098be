"""Splitting a graph: prefix and suffix, and the suffix into trunk and head."""

from dataclasses import dataclass

from dropout_core.graph.program import ROWS, Graph, Node, Site, references, size_names


@dataclass(frozen=True)
class Split:
    """Two sections of a graph.

    Attributes:
        prefix: Nodes that no noise reaches.
        suffix: Nodes that noise reaches.
        crossing: Names of the values that the suffix reads from the prefix.
    """

    prefix: tuple[Node, ...]
    suffix: tuple[Node, ...]
    crossing: tuple[str, ...]


def split(graph: Graph) -> Split:
    """Split a graph into prefix and suffix by taint, across residual and parallel branches alike.

    A node that depends on the number of rows but on no input (zeros, positions) is recomputed where it is used.

    Args:
        graph: The graph.

    Returns:
        The split.
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
    """Return the nodes that some values depend on, in order.

    Args:
        nodes: All nodes, in order.
        wanted: Names of the values.
        among: Names of the nodes that may be returned.

    Returns:
        The nodes.
    """
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if node.name in wanted and node.name in among:
            kept.append(node)
            wanted.update(references(node))
    return tuple(reversed(kept))


def reachable_nodes(nodes: tuple[Node, ...], output: str) -> tuple[Node, ...]:
    """Return the nodes that the output depends on, in order.

    Args:
        nodes: All nodes, in order.
        output: Name of the output.

    Returns:
        The nodes.
    """
    return needed(nodes, {output}, {node.name for node in nodes})


def split_last(suffix: tuple[Node, ...], output: str) -> Split:
    """Split a suffix into the trunk and the head: the sites that reach no other site, and everything they reach.

    Args:
        suffix: Nodes of the suffix.
        output: Name of the output.

    Returns:
        The trunk as `prefix`, and the head as `suffix`.
    """
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
