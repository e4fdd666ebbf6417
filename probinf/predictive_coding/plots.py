"""Pictures of networks and of beliefs over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.band import plot_band
from probinf.plots.style import ESTIMATE, MUTED, SECOND, THIRD, TRUTH, axes_or_new, style
from probinf.predictive_coding import nodes as kinds
from probinf.predictive_coding.couplings import COMPONENT, VALUE, VOLATILITY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probinf.predictive_coding.network import Network
    from probinf.predictive_coding.run import NetworkRun

_EDGES = {
    VALUE: (ESTIMATE, "-", "value"),
    VOLATILITY: (TRUTH, "--", "volatility"),
    COMPONENT: (MUTED, ":", "component"),
}


def plot_network(network: Network, *, ax: Axes | None = None) -> Axes:
    """Draw the graph: inputs at the bottom, parents above their children.

    Solid arrows are value couplings, dashed ones volatility couplings; strengths other than 1 are written beside them.
    """
    if not network.nodes:
        raise ArgumentError(f"plot_network: network {network.name!r} has no nodes.")
    heights, places = _layout(network)
    with style():
        ax = axes_or_new(ax)
        drawn = set()
        for e in network.edges:
            color, line, label = _EDGES[e.kind]
            (x0, y0), (x1, y1) = places[e.parent], places[e.child]
            arrow = {"arrowstyle": "-|>", "color": color, "linestyle": line, "shrinkA": 17, "shrinkB": 17, "lw": 1.4}
            ax.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
            if e.kind not in drawn:
                ax.plot([], [], color=color, linestyle=line, label=label)
                drawn.add(e.kind)
            if e.kind != COMPONENT and np.ndim(e.strength) == 0 and float(e.strength) != 1.0:
                ax.text(
                    0.5 * (x0 + x1) + 0.04, 0.5 * (y0 + y1), f"{float(e.strength):g}", color=color, fontsize="small"
                )
        for node in network.nodes:
            x, y = places[node.name]
            marker, color = ("s", SECOND) if isinstance(node, kinds.INPUTS) else ("o", ESTIMATE)
            color = THIRD if isinstance(node, kinds.ConstantNode) else color
            ax.plot(x, y, marker, markersize=26, color=color, alpha=0.25, markeredgecolor=color)
            ax.text(x, y, node.name, ha="center", va="center", fontsize="small")
        width = max((abs(x) for x, _ in places.values()), default=0.0)
        ax.set_xlim(-width - 0.8, width + 0.8)
        ax.set_ylim(-0.6, max(heights.values()) + 0.6)
        ax.set_axis_off()
        ax.set_title(network.name)
        if drawn:
            ax.legend(fontsize="small", loc="upper right")
    return ax


def _layout(network: Network) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """Height of each node above the leaves, and places: rows centred, ordered by the mean place of their children."""
    heights = {node.name: 0 for node in network.nodes}
    for _ in network.nodes:  # longest path, at most as many rounds as nodes
        for e in network.edges:
            low, high = (e.parent, e.child) if e.kind == COMPONENT else (e.child, e.parent)
            heights[high] = max(heights[high], heights[low] + 1)
    places: dict[str, tuple[float, float]] = {}
    for row in range(max(heights.values()) + 1):
        names = [name for name, height in heights.items() if height == row]

        def wish(name: str) -> float:
            below = [places[e.child][0] for e in network.edges if e.parent == name and e.child in places]
            return float(np.mean(below)) if below else 0.0

        names.sort(key=wish)
        for k, name in enumerate(names):
            places[name] = (k - 0.5 * (len(names) - 1), float(row))
    return heights, places


def plot_beliefs(
    run: NetworkRun,
    nodes: Sequence[str] | None = None,
    *,
    times: Any = None,
    truth: dict[str, Any] | None = None,
    time_unit: str | None = "step",
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw beliefs over time with 50 % and 90 % bands, highest levels on top, the inputs, and the surprise below.

    Returns the axes, one for each state and one for the inputs.

    Args:
        run: of one series.
        nodes: names of the states to draw; all of them by default.
        times: shape (T,); the step numbers by default.
        truth: name of a state to its true path (T,), where it is known.
        time_unit: written at the time axis.
        axes: array of axes to draw on, one more than states.
    """
    if run.log_densities.ndim != 1:
        raise ArgumentError("plot_beliefs: expected the run of one series, found a batch.")
    states = run.network.state_names()
    chosen = list(states if nodes is None else nodes)
    leaves = [name for name in run.beliefs if name not in states]
    times = np.arange(1, len(run) + 1) if times is None else np.asarray(times, np.float64)
    with style():
        if axes is None:
            import matplotlib.pyplot as plt

            axes = np.asarray(plt.subplots(len(chosen) + 1, figsize=(8.0, 1.9 * (len(chosen) + 1)), sharex=True)[1])
        for ax, name in zip(axes[:-1], reversed(chosen), strict=True):
            belief = run[name]
            mean, sd = np.asarray(belief.mean), 1.0 / np.sqrt(np.asarray(belief.precision))
            children = [e.child for e in run.network.edges if e.parent == name and e.kind == VALUE]
            seen = [c for c in children if c in leaves and isinstance(run.network.node(c), kinds.ContinuousInput)]
            values = (
                None if len(seen) != 1 else np.where(_observed(run, seen[0]), np.asarray(run[seen[0]].mean), np.nan)
            )
            path = None if truth is None else truth.get(name)
            plot_band(times, mean=mean, sd=sd, truth=path, observations=values, name=name, ax=ax)
            ax.set_xlabel("")
            if ax is not axes[0]:
                ax.get_legend().remove()
        bottom = axes[-1]
        for name in leaves:
            if isinstance(run.network.node(name), kinds.BinaryInput):
                bottom.plot(times, np.asarray(run[name].expected_mean), label=f"expected {name}")
                seen = _observed(run, name)
                bottom.plot(times[seen], np.asarray(run[name].mean)[seen], ".", color=MUTED, markersize=3)
        bottom.plot(times, -np.asarray(run.log_densities), color=TRUTH, linewidth=0.9, label="surprise [nats]")
        bottom.legend(fontsize="small", ncols=4, loc="upper left")
        bottom.set(xlabel=f"time [{time_unit}]" if time_unit else "time", ylabel="inputs")
    return axes


def _observed(run: NetworkRun, name: str) -> np.ndarray:
    """Which values of an input were observed; components always are."""
    fed = [node.name for node in run.network.fed_inputs()]
    flags = run.data.flags[fed.index(name)] if name in fed else None
    return np.ones(len(run), bool) if flags is None else np.asarray(flags)
