"""A program as a picture: its sites, what they depend on, and what is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentTypeError
from probinf.plots.layout import positions
from probinf.plots.style import MUTED, SECOND, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT, _ROW = 0.62, 1.35  # of a node, and from layer to layer
_BENDS = (0.0, 0.2, -0.2, 0.35, -0.35, 0.5, -0.5)  # of an arrow, the straight one first
_SHADE, _INK = "#D0D5DB", "#222222"


def plot_program(program: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the graph of a program: latent sites white, observed ones shaded, computed ones with a double line.

    Arrows go from a site to those whose distribution or value may depend on it, dashed from the iteration before of a
    loop. A rectangle is a plate, or a loop with its number of steps. Data and other arguments are left out.

    Args:
        program: a program, or its `graph()`.
        ax: axes to draw on.

    Raises:
        ArgumentTypeError: `program` is neither.
    """
    graph = program.graph() if hasattr(program, "graph") else program
    if not all(hasattr(graph, part) for part in ("nodes", "edges", "name")):
        raise ArgumentTypeError(
            f"program: expected a program such as model(...), found {type(program).__name__}. Call a model with "
            "its arguments first."
        )
    sizes = {node.name: _width(node) for node in graph.nodes}
    step = max(sizes.values(), default=1.0) + 0.45
    places = {name: (step * x, -_ROW * row) for name, (x, row) in positions(graph).items()}
    with style():
        import matplotlib.pyplot as plt

        if ax is None:
            across = [x for x, _ in places.values()] or [0.0]
            deep = [y for _, y in places.values()] or [0.0]
            size = (max(2.4, max(across) - min(across) + step + 0.8), max(2.0, max(deep) - min(deep) + 2.0))
            ax = plt.subplots(figsize=size)[1]
        _draw_plates(ax, graph, places, sizes)
        patches = {node.name: _draw_node(ax, node, places[node.name], sizes[node.name]) for node in graph.nodes}
        for edge in graph.edges:
            _draw_edge(ax, edge, places, sizes, patches)
        ax.set_aspect("equal")
        ax.autoscale_view()
        ax.margins(0.06)
        ax.set_axis_off()
        ax.set_title(graph.name)
    return ax


def _width(node: Any) -> float:
    return max(0.9, 0.115 * max(len(node.name), 0.8 * len(node.family)) + 0.3)


def _draw_node(ax: Axes, node: Any, place: tuple[float, float], width: float) -> Any:
    from matplotlib.patches import Ellipse, Rectangle

    x, y = place
    fill = _SHADE if node.kind == "observe" else "white"
    if node.kind == "factor":
        patch: Any = Rectangle((x - 0.12, y - 0.12), 0.24, 0.24, facecolor=_INK, edgecolor=_INK, zorder=3)
        ax.text(x + 0.22, y, node.name, va="center", fontsize=8, color=_INK)
    else:
        patch = Ellipse((x, y), width, _HEIGHT, facecolor=fill, edgecolor=_INK, linewidth=1.0, zorder=3)
        ax.text(x, y + (0.07 if node.family else 0.0), node.name, ha="center", va="center", fontsize=8, zorder=4)
        if node.family:
            ax.text(x, y - 0.14, node.family, ha="center", va="center", fontsize=5.5, color=MUTED, zorder=4)
    patch.set_gid(node.name)
    ax.add_patch(patch)
    if node.kind == "deterministic":
        line = Ellipse((x, y), width - 0.1, _HEIGHT - 0.1, facecolor="none", edgecolor=_INK, linewidth=0.6, zorder=4)
        ax.add_patch(line)
    return patch


def _draw_edge(
    ax: Axes, edge: Any, places: Mapping[str, Any], sizes: Mapping[str, float], patches: Mapping[str, Any]
) -> None:
    from matplotlib.patches import FancyArrowPatch

    options: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 9,
        "color": SECOND if edge.is_previous else _INK,
        "linestyle": (0, (3, 2)) if edge.is_previous else "solid",
        "linewidth": 0.9,
        "shrinkA": 0,
        "shrinkB": 0,
        "zorder": 2,
    }
    if edge.parent == edge.child:
        (x, y), half = places[edge.child], 0.5 * sizes[edge.child]
        ends = [(x + 0.8 * half, y + 0.19), (x + 0.8 * half, y - 0.19)]
        ax.add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=-1.3", **options))
        return
    bend = next((b for b in _BENDS if not _crosses(edge, b, places, sizes)), 0.0)
    arrow = FancyArrowPatch(
        places[edge.parent],
        places[edge.child],
        patchA=patches[edge.parent],
        patchB=patches[edge.child],
        connectionstyle=f"arc3,rad={bend}",
        **options,
    )
    ax.add_patch(arrow)


def _crosses(edge: Any, bend: float, places: Mapping[str, tuple[float, float]], sizes: Mapping[str, float]) -> bool:
    """Whether an arrow of this bend (Matplotlib's arc3: a quadratic curve) would run over another node."""
    start, end = np.asarray(places[edge.parent]), np.asarray(places[edge.child])
    away = end - start
    middle = 0.5 * (start + end) + bend * np.array([away[1], -away[0]])
    t = np.linspace(0.0, 1.0, 41)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    for name, place in places.items():
        if name not in (edge.parent, edge.child):
            radii = 0.55 * np.array([sizes[name], _HEIGHT])
            if np.any(np.sum(((curve - place) / radii) ** 2, axis=1) < 1.0):
                return True
    return False


def _draw_plates(ax: Axes, graph: Any, places: Mapping[str, tuple[float, float]], sizes: Mapping[str, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    deepest = max((len(node.plates) for node in graph.nodes), default=0)
    for plate, names, depth in _rectangles(graph, places):
        pad = 0.14 + 0.16 * (deepest - depth - 1)
        left = min(places[n][0] - sizes[n] / 2 for n in names) - pad
        right = max(places[n][0] + sizes[n] / 2 for n in names) + pad
        top = max(places[n][1] for n in names) + _HEIGHT / 2 + pad
        bottom = min(places[n][1] for n in names) - _HEIGHT / 2 - pad - 0.14
        if plate.is_loop:
            right += 0.22  # the arrow of a site to itself
        box = FancyBboxPatch(
            (left, bottom),
            right - left,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="none",
            edgecolor=MUTED,
            linewidth=0.9,
            zorder=1,
        )
        box.set_gid(f"plate {plate.key}")
        ax.add_patch(box)
        ax.text(right - 0.07, bottom + 0.05, plate.label, ha="right", va="bottom", fontsize=6.5, color=MUTED)


def _rectangles(graph: Any, places: Mapping[str, tuple[float, float]]) -> Iterator[tuple[Any, list[str], int]]:
    """Plate, names of its nodes, depth. Plates may cross: one that would enclose a foreign node is drawn in parts."""
    members: dict[Any, list[Any]] = {}
    for node in graph.nodes:
        for plate in node.plates:
            members.setdefault(plate, []).append(node)
    for plate, nodes in members.items():
        corners = np.array([places[node.name] for node in nodes])
        low, high = corners.min(axis=0), corners.max(axis=0)
        others = np.array([places[node.name] for node in graph.nodes if plate not in node.plates]).reshape(-1, 2)
        parts = [nodes]
        if np.any(np.all((others >= low) & (others <= high), axis=1)):
            parts = [[n for n in nodes if n.plates == plates] for plates in dict.fromkeys(n.plates for n in nodes)]
        for part in parts:
            yield plate, [node.name for node in part], min(node.plates.index(plate) for node in part)
