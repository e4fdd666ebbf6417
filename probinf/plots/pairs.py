"""Every pair of a few scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.marginal import plot_marginal
from probinf.plots.style import ESTIMATE, THIRD, TRUTH, normalised_weights, style

if TYPE_CHECKING:
    pass

_MAX_POINTS = 2000


def plot_pairs(
    draws: Mapping[str, Any],
    *,
    log_weights: Any = None,
    diverging: Any = None,
    truth: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw marginals on the diagonal and scatter plots below it; returns the (n, n) array of axes.

    Args:
        draws: name -> draws of one scalar, all of one shape; at most ten names.
        log_weights: unnormalised log weights; points are then as large as their weight.
        diverging: true where the transition diverged; those points are marked.
        truth: name -> true value.
        units: name -> unit.
        axes: array of (n, n) axes to draw on.
    """
    names = list(draws)
    if not 1 <= len(names) <= 10:
        raise ArgumentError(f"draws: expected one to ten scalars, found {len(names)}; choose the ones that matter.")
    columns = {name: np.asarray(value, np.float64).reshape(-1) for name, value in draws.items()}
    count = columns[names[0]].size
    for name, column in columns.items():
        if column.size != count:
            raise ArgumentError(f"draws: {name!r} has {column.size} draws, {names[0]!r} has {count}.")
    weights = normalised_weights(log_weights, count)
    marked = np.zeros(count, bool) if diverging is None else np.asarray(diverging, bool).reshape(-1)
    truth, units = truth or {}, units or {}
    shown = np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).astype(int))
    sizes = 4.0 if log_weights is None else np.clip(8.0 * weights[shown] * count, 0.2, 60.0)
    with style():
        if axes is None:
            import matplotlib.pyplot as plt

            side = max(2.2, 1.9 * len(names))
            axes = plt.subplots(len(names), len(names), figsize=(side, side), squeeze=False)[1]
        for i, y in enumerate(names):
            for j, x in enumerate(names):
                ax = axes[i, j]
                if j > i:
                    ax.set_axis_off()
                elif i == j:
                    plot_marginal(columns[x], log_weights=log_weights, truth=truth.get(x), ax=ax)
                    ax.set(ylabel="", yticks=[])
                    if ax.get_legend() is not None:
                        ax.get_legend().remove()
                else:
                    ax.scatter(columns[x][shown], columns[y][shown], s=sizes, color=ESTIMATE, alpha=0.4, linewidths=0)
                    ax.scatter(columns[x][marked], columns[y][marked], s=10, color=THIRD, marker="x")
                    if x in truth and y in truth:
                        ax.plot(truth[x], truth[y], "*", color=TRUTH, markersize=10)
                if i == len(names) - 1:
                    _label(ax.set_xlabel, x, units)
                if j == 0 and i > 0:
                    _label(ax.set_ylabel, y, units)
    return axes


def _label(setter: Any, name: str, units: Mapping[str, str]) -> None:
    setter(f"{name} [{units[name]}]" if name in units else name)
