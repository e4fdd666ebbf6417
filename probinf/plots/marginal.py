"""The marginal distribution of one scalar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, TRUTH, axes_or_new, named, normalised_weights, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_marginal(
    draws: Any,
    *,
    log_weights: Any = None,
    name: str | None = None,
    unit: str | None = None,
    truth: float | None = None,
    bins: int | None = None,
    label: str | None = None,
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the (weighted) histogram of one scalar as a density, its mean and its central 90 % interval.

    Args:
        draws: any shape; flattened.
        log_weights: unnormalised log weights, one for each draw.
        name: what the scalar is called.
        unit: its unit.
        truth: its true value, where known.
        bins: number of bins; by default the larger of Sturges' and Freedman-Diaconis', at most 60. Weighted draws get
            at most 2 n^(1/3) (Rice's rule), n the smaller of Kish's effective sample size and the distinct draws.
        label: legend entry.
        color: fill colour.
        ax: axes to draw on.
    """
    values = np.asarray(draws, np.float64).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all():
        raise ArgumentError("draws: expected finite values, at least one.")
    weights = normalised_weights(log_weights, values.size)
    with style():
        from matplotlib.transforms import ScaledTranslation

        ax = axes_or_new(ax)
        if bins is None:
            most = 60 if log_weights is None else _most_bins(values, weights)
            bins = int(np.clip(len(np.histogram_bin_edges(values, "auto")) - 1, 10, 60).clip(max=most))
        ax.hist(values, bins=bins, weights=weights, density=True, color=color, alpha=0.6, label=label)
        order = np.argsort(values)
        cdf = np.cumsum(weights[order])
        low, high = values[order][np.searchsorted(cdf, [0.05, 0.95]).clip(max=values.size - 1)]
        # Several marginals on the same axes: each interval above the one before, not over it.
        lift = ScaledTranslation(0.0, 5.0 * len(ax.collections) / 72.0, ax.figure.dpi_scale_trans)
        ax.hlines(0.0, low, high, color=color, linewidth=4.0, clip_on=False, transform=ax.transData + lift, zorder=3)
        ax.axvline(float(weights @ values), color=color, linestyle="--", linewidth=1.0)
        if truth is not None:
            ax.axvline(truth, color=TRUTH, label="truth")
        if label is not None or truth is not None:
            ax.legend()
        ax.set(xlabel=named(name, unit), ylabel=named("density", _inverse(unit)))
    return ax


def _most_bins(values: np.ndarray, weights: np.ndarray) -> int:
    """Repeated draws carry no shape: more bins than this show the repetitions."""
    count = min(1.0 / np.sum(weights**2), np.unique(values[weights > 0.0]).size)
    return max(5, int(np.ceil(2.0 * np.cbrt(count))))


def _inverse(unit: str | None) -> str | None:
    if not unit:
        return None
    return f"1/{unit}" if unit.isalpha() else f"1/({unit})"
