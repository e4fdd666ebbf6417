"""A particle cloud in the plane and the mixture that stands for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, SECOND, TRUTH, as_floats, axes_or_new, named, normalised_weights, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_cloud(
    points: Any,
    *,
    log_weights: Any = None,
    mixture: Any = None,
    truth: Any = None,
    landmarks: Any = None,
    names: tuple[str, str] = ("x", "y"),
    unit: str | None = None,
    num_levels: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Draw weighted particles and the contours of a mixture's density.

    Args:
        points: shape (n, 2).
        log_weights: unnormalised log weights, shape (n,); a dot's area is its weight.
        mixture: anything with `log_prob(x)` for x of shape (..., 2), such as a GaussianMixture.
        truth: shape (2,), the true point.
        landmarks: shape (K, 2).
        names: names of the two coordinates.
        unit: their unit.
        num_levels: contours; consecutive ones are 1 nat apart, the outermost `num_levels` nats below the peak.
        ax: axes to draw on.
    """
    points = as_floats("points", points, 2, "(n, 2)")
    if points.shape[1] != 2:
        raise ArgumentError(f"points: expected shape (n, 2), found {points.shape}.")
    weights = normalised_weights(log_weights, len(points))
    alive = weights > 0.0
    with style():
        ax = axes_or_new(ax)
        sizes = np.clip(6.0 * weights[alive] * len(points), 0.3, 80.0)
        ax.scatter(points[alive, 0], points[alive, 1], s=sizes, color=ESTIMATE, alpha=0.35, linewidths=0)
        ax.plot([], [], "o", color=ESTIMATE, markersize=5.0, alpha=0.6, linewidth=0, label="particles")  # a visible dot
        if mixture is not None:
            _contours(ax, mixture, points[alive], num_levels)
        if landmarks is not None:
            landmarks = as_floats("landmarks", landmarks, 2, "(K, 2)")
            ax.plot(landmarks[:, 0], landmarks[:, 1], "^", color=SECOND, label="landmarks")
        if truth is not None:
            truth = as_floats("truth", truth, 1, "(2,)")
            ax.plot(truth[0], truth[1], "*", color=TRUTH, markersize=12, label="truth")
        ax.legend(fontsize="small")
        ax.set(xlabel=named(names[0], unit), ylabel=named(names[1], unit))
    return ax


def _contours(ax: Axes, mixture: Any, points: np.ndarray, num_levels: int) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    pad = 0.15 * np.maximum(high - low, 1e-9)
    grid = [np.linspace(a, b, 120) for a, b in zip(low - pad, high + pad, strict=True)]
    x, y = np.meshgrid(*grid)
    logs = np.asarray(mixture.log_prob(np.stack([x, y], axis=-1)), np.float64)
    levels = np.max(logs) - np.arange(num_levels, 0, -1)
    ax.contour(x, y, logs, levels=levels, colors=SECOND, linewidths=0.9, linestyles="solid")
    ax.plot([], [], color=SECOND, label="mixture")
