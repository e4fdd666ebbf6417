"""A quantity over time: its uncertainty as bands, the truth where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, MUTED, TRUTH, as_floats, axes_or_new, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_band(
    times: Any,
    draws: Any = None,
    *,
    mean: Any = None,
    sd: Any = None,
    truth: Any = None,
    observations: Any = None,
    name: str | None = None,
    unit: str | None = None,
    time_unit: str | None = None,
    label: str = "mean",
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean, a 50 % and a 90 % band over time.

    Args:
        times: shape (T,).
        draws: shape (draws, T), bands from quantiles; or leave it out and give
        mean: shape (T,), and
        sd: shape (T,): bands of a Gaussian.
        truth: shape (T,), or None.
        observations: shape (T,), drawn as dots; NaN where missing.
        name: what is drawn.
        unit: its unit.
        time_unit: unit of the times.
        label: legend entry of the mean.
        color: colour of mean and bands.
        ax: axes to draw on.
    """
    times = as_floats("times", times, 1, "(T,)")
    if (draws is None) == (mean is None or sd is None):
        raise ArgumentError("draws: expected either draws of shape (draws, T), or mean and sd of shape (T,).")
    if draws is not None:
        draws = as_floats("draws", draws, 2, "(draws, T)")
        mean = draws.mean(axis=0)
        bands = [np.quantile(draws, q, axis=0) for q in ((0.05, 0.95), (0.25, 0.75))]
    else:
        mean, sd = as_floats("mean", mean, 1, "(T,)"), as_floats("sd", sd, 1, "(T,)")
        bands = [(mean - z * sd, mean + z * sd) for z in (1.6448536269514722, 0.6744897501960817)]
    if mean.shape != times.shape:
        raise ArgumentError(f"times: {times.size} times for {mean.size} values.")
    with style():
        ax = axes_or_new(ax)
        for (low, high), share, alpha in zip(bands, ("90 %", "50 %"), (0.2, 0.35), strict=True):
            ax.fill_between(times, low, high, color=color, alpha=alpha, linewidth=0, label=share)
        ax.plot(times, mean, color=color, label=label)
        if observations is not None:
            ax.plot(times, np.asarray(observations, np.float64), ".", color=MUTED, markersize=3, label="observed")
        if truth is not None:
            ax.plot(times, np.asarray(truth, np.float64), color=TRUTH, linewidth=1.0, label="truth")
        ax.legend(ncols=5, fontsize="small", loc="upper left")
        ax.set(xlabel=named("time", time_unit), ylabel=named(name, unit))
    return ax
