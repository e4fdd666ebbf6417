"""A path in the plane with its uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, SECOND, TRUTH, as_floats, axes_or_new, covariance_ellipse, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_track(
    means: Any,
    covs: Any = None,
    *,
    truth: Any = None,
    landmarks: Any = None,
    num_ellipses: int = 25,
    mass: float = 0.9,
    unit: str | None = "m",
    label: str = "estimate",
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw a track, ellipses that hold `mass` of the belief at some of its points, the true track and landmarks.

    Args:
        means: shape (T, 2).
        covs: shape (T, 2, 2), or None for no ellipses.
        truth: shape (S, 2), the true track.
        landmarks: shape (K, 2), such as anchors.
        num_ellipses: how many ellipses, spread evenly over the track.
        mass: probability inside an ellipse, between 0 and 1.
        unit: unit of both axes.
        label: legend entry.
        color: colour of the estimate.
        ax: axes to draw on.
    """
    means = as_floats("means", means, 2, "(T, 2)")
    if means.shape[1] != 2:
        raise ArgumentError(f"means: expected shape (T, 2), found {means.shape}.")
    if not 0.0 < mass < 1.0:
        raise ArgumentError(f"mass: expected a number strictly between 0 and 1, found {mass}.")
    with style():
        ax = axes_or_new(ax)
        if truth is not None:
            truth = as_floats("truth", truth, 2, "(S, 2)")
            ax.plot(truth[:, 0], truth[:, 1], color=TRUTH, linewidth=1.0, label="truth")
        ax.plot(means[:, 0], means[:, 1], color=color, label=label)
        if covs is not None:
            covs = as_floats("covs", covs, 3, "(T, 2, 2)")
            if covs.shape != (means.shape[0], 2, 2):
                raise ArgumentError(f"covs: expected shape {(means.shape[0], 2, 2)} as means, found {covs.shape}.")
            chosen = np.unique(np.linspace(0, len(means) - 1, min(num_ellipses, len(means))).astype(int))
            for n, i in enumerate(chosen):
                text = f"{mass:.0%} of the belief" if n == 0 else None
                ax.add_patch(covariance_ellipse(means[i], covs[i], mass, facecolor=color, alpha=0.2, label=text))
        if landmarks is not None:
            landmarks = as_floats("landmarks", landmarks, 2, "(K, 2)")
            ax.plot(landmarks[:, 0], landmarks[:, 1], "^", color=SECOND, label="landmarks")
        ax.set_aspect("equal", adjustable="datalim")
        ax.legend(fontsize="small")
        ax.set(xlabel=named("x", unit), ylabel=named("y", unit))
    return ax
