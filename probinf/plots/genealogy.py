"""Where particles come from: lines from child to parent, those that survived to the end in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, MUTED, as_floats, axes_or_new, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_genealogy(
    ancestors: Any,
    positions: Any = None,
    *,
    times: Any = None,
    name: str | None = None,
    unit: str | None = None,
    time_unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the family tree of a particle filter; before all survivors share one ancestor, smoothing by it says nothing.

    Args:
        ancestors: shape (T, N), the particle at t - 1 that each particle at t came from; row 0 is not used. Or what
            holds them as `.ancestors`, such as the history of a filter run.
        positions: shape (T, N), the height of each particle; by default particles stand in the order of their number.
        times: shape (T,); by default 0, 1, ...
        name: what the positions are.
        unit: their unit.
        time_unit: unit of the times.
        ax: axes to draw on.

    References:
        Jacob, Murray & Rubenthaler (2015), Path storage in the particle filter.
    """
    parents = np.asarray(getattr(ancestors, "ancestors", ancestors))
    if parents.ndim != 2 or parents.size == 0 or not np.issubdtype(parents.dtype, np.integer):
        raise ArgumentError(
            f"ancestors: expected integers of shape (T, N), found {parents.dtype} of shape {parents.shape}."
        )
    steps, count = parents.shape
    if np.any(parents[1:] < 0) or np.any(parents[1:] >= count):
        raise ArgumentError(f"ancestors: expected numbers from 0 to {count - 1}, found others.")
    if positions is None:
        heights = np.broadcast_to(np.arange(count, dtype=np.float64), parents.shape)
    else:
        heights = as_floats("positions", positions, 2, "(T, N)")
        if heights.shape != parents.shape:
            raise ArgumentError(f"positions: expected shape {parents.shape} as ancestors, found {heights.shape}.")
    when = np.arange(steps, dtype=np.float64) if times is None else as_floats("times", times, 1, "(T,)")
    if when.shape != (steps,):
        raise ArgumentError(f"times: {when.size} times for {steps} rows of ancestors.")
    alive = survivors(parents)
    with style():
        from matplotlib.collections import LineCollection

        ax = axes_or_new(ax)
        ends = np.stack([np.repeat(when[1:, None], count, 1), heights[1:]], axis=-1)
        starts = np.stack(
            [np.repeat(when[:-1, None], count, 1), np.take_along_axis(heights[:-1], parents[1:], axis=1)], axis=-1
        )
        lines = np.stack([starts, ends], axis=2)
        for kept, color, width, label in (
            (~alive[1:], MUTED, 0.4, "died out"),
            (alive[1:], ESTIMATE, 1.1, "ancestors of the last particles"),
        ):
            if kept.any():
                alpha = 0.6 if color == MUTED else 0.9
                ax.add_collection(
                    LineCollection(list(lines[kept]), colors=color, linewidths=width, alpha=alpha, label=label)
                )
        ax.plot(np.full(count, when[-1]), heights[-1], ".", color=ESTIMATE, markersize=3)
        ax.autoscale_view()
        ax.legend(fontsize="small", loc="upper left", ncols=2)
        ax.set(xlabel=named("time", time_unit), ylabel=named(name, unit) or "particle")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.12 * (high - low))  # room for the legend
    return ax


def survivors(ancestors: np.ndarray) -> np.ndarray:
    """Whether each particle has offspring among the last ones, shape (T, N)."""
    alive = np.zeros(ancestors.shape, bool)
    alive[-1] = True
    for t in range(len(ancestors) - 1, 0, -1):
        alive[t - 1, ancestors[t][alive[t]]] = True
    return alive
