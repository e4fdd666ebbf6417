"""Where the sites of a program stand in its drawing: layers from parents to children, plates side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def layers(graph: Any) -> dict[str, int]:
    """The layer of each node, 0 on top: below all its parents, and no higher above its children than need be."""
    names = [node.name for node in graph.nodes]
    place = {name: i for i, name in enumerate(names)}
    # Towards later statements only: across branches of one name the order can turn round, and a drawing must end.
    down = [(e.parent, e.child) for e in graph.edges if not e.is_previous and place[e.parent] < place[e.child]]
    found = dict.fromkeys(names, 0)
    for name in names:
        found[name] = max((found[a] + 1 for a, b in down if b == name), default=0)
    plates = {node.name: node.plates for node in graph.nodes}
    for name in reversed(names):
        below = [found[_top(b, plates, plates[name], found)] for a, b in down if a == name]
        if below and not any(
            b == name for _, b in down
        ):  # a root comes down to its children, but not beside their plate
            found[name] = min(below) - 1
    highest = min(found.values(), default=0)
    return {name: row - highest for name, row in found.items()}


def _top(name: str, plates: Mapping[str, Any], outside: Sequence[Any], rows: Mapping[str, int]) -> str:
    """The highest node of the plate that holds `name` and that somebody `outside` is not in; else `name` itself."""
    entered = next((plate for plate in plates[name] if plate not in outside), None)
    if entered is None:
        return name
    return min((other for other in rows if entered in plates[other]), key=lambda other: rows[other])


def positions(graph: Any) -> dict[str, tuple[float, int]]:
    """Column and layer of each node; neighbours in a layer are at least one column apart."""
    rows = layers(graph)
    near: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for edge in graph.edges:
        if edge.parent != edge.child:
            near[edge.parent].append(edge.child)
            near[edge.child].append(edge.parent)
    columns = _columns(list(graph.nodes), rows, near, 0)
    return {name: (columns[name], rows[name]) for name in rows}


def _columns(
    nodes: Sequence[Any], rows: Mapping[str, int], near: Mapping[str, list[str]], depth: int
) -> dict[str, float]:
    """Columns of nodes that share their first `depth` plates: each further plate has columns of its own."""
    plates: dict[str, list[Any]] = {}
    for node in nodes:
        if len(node.plates) > depth:
            plates.setdefault(node.plates[depth].key, []).append(node)
    free = [node.name for node in nodes if len(node.plates) <= depth]
    found: dict[str, float] = {}
    end = 0.0
    for members in plates.values():
        inner = _columns(members, rows, near, depth + 1)
        found |= {name: end + x for name, x in inner.items()}
        end += max(inner.values()) + 1.0
    taken = {rows[name] for name in found}
    spans = range(min(taken), max(taken) + 1) if taken else range(0)
    beside: dict[int, int] = {}
    for name in free:  # level with a plate, a node stands beside it
        if rows[name] in spans:
            beside[rows[name]] = beside.get(rows[name], 0) + 1
            found[name] = end + beside[rows[name]] - 1.0
    centre = 0.5 * max(found.values(), default=0.0)
    for row in sorted({rows[n] for n in free} - set(spans), key=lambda r: -r):  # from the bottom: children are placed
        level = [name for name in free if rows[name] == row]
        wish = {n: _mean([found[m] for m in near[n] if m in found], centre) for n in level}
        level.sort(key=lambda n: wish[n])
        start = _mean([wish[n] for n in level], centre) - 0.5 * (len(level) - 1)
        found |= {name: start + i for i, name in enumerate(level)}
    low = min(found.values())
    return {name: x - low for name, x in found.items()}


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
