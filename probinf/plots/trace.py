"""Draws of one scalar in the order they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.plots.style import TRUTH, as_floats, axes_or_new, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_trace(
    draws: Any,
    *,
    name: str | None = None,
    unit: str | None = None,
    diverging: Any = None,
    truth: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line for each chain, with a tick on the axis where a transition diverged.

    Args:
        draws: shape (chains, draws).
        name: what the scalar is called.
        unit: its unit.
        diverging: shape (chains, draws), true where the transition diverged.
        truth: the true value, where known.
        ax: axes to draw on.
    """
    values = as_floats("draws", draws, 2, "(chains, draws)")
    with style():
        ax = axes_or_new(ax)
        for chain, row in enumerate(values):
            ax.plot(row, linewidth=0.6, alpha=0.8, label=f"chain {chain}")
        if truth is not None:
            ax.axhline(truth, color=TRUTH, label="truth")
        if diverging is not None and np.any(diverging):
            where = np.flatnonzero(np.any(np.asarray(diverging, bool), axis=0))
            ax.plot(
                where,
                np.full(where.size, 0.0),
                "|",
                color="black",
                transform=ax.get_xaxis_transform(),
                label="divergence",
            )
        ax.set(xlabel="draw", ylabel=named(name, unit), xlim=(0, max(values.shape[1] - 1, 1)))
    return ax
