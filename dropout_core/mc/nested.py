"""The noisy half of a network in two: what comes before its last sites, and these with all that follows them."""

from dropout_core.mc.program import Node, Site, Split, needed, references


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
