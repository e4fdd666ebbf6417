"""What is still known after each task: the accuracy matrix of continual learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import as_floats, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NUMBERS = 12  # tasks; the cells of more are too small to write in


def plot_accuracy_matrix(
    accuracy: Any,
    *,
    tasks: Sequence[str] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracies as a heat map: a row after learning each task, a column for each task tested.

    Below the diagonal stands what was forgotten; above it, what is known before it is learned.

    Args:
        accuracy: shape (T, T), `accuracy[i, j]` of task j after learning task i, a fraction; NaN where it was not
            measured.
        tasks: their names; by default their numbers from 1.
        limits: accuracies of the lightest and the darkest colour.
        ax: axes to draw on.

    References:
        Lopez-Paz & Ranzato (2017), Gradient Episodic Memory for Continual Learning, section 2 (the matrix R).
    """
    values = as_floats("accuracy", accuracy, 2, "(T, T)")
    count = values.shape[0]
    if values.shape != (count, count):
        raise ArgumentError(f"accuracy: expected shape (T, T), found {values.shape}.")
    known = values[~np.isnan(values)]
    if known.size == 0 or np.any(known < 0.0) or np.any(known > 1.0):
        raise ArgumentError("accuracy: expected fractions between 0 and 1, or NaN where not measured; at least one.")
    names = [str(i + 1) for i in range(count)] if tasks is None else list(tasks)
    if len(names) != count:
        raise ArgumentError(f"tasks: {len(names)} names for {count} tasks.")
    low, high = limits
    if not low < high:
        raise ArgumentError(f"limits: expected the lower one first, found {limits}.")
    with style():
        ax = axes_or_new(ax)
        shown = ax.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=low, vmax=high)
        if count <= _MOST_NUMBERS:
            for i, j in np.ndindex(count, count):
                if not np.isnan(values[i, j]):
                    color = "white" if values[i, j] > 0.5 * (low + high) + 0.1 * (high - low) else "black"
                    size = "small" if count <= 8 else "x-small"
                    ax.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", color=color, fontsize=size)
        ax.set_xticks(range(count), names)
        ax.set_yticks(range(count), names)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set(xlabel="tested on task", ylabel="after learning task")
        ax.figure.colorbar(shown, ax=ax, label="accuracy", shrink=0.8)
    return ax
