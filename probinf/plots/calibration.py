"""Whether posteriors are calibrated: ranks of the truth, which are uniform when they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.simultaneous import ecdf_band, histogram_band
from probinf.plots.style import ESTIMATE, MUTED, as_floats, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 100  # where a distribution function is compared


def plot_rank_histogram(
    levels: Any,
    *,
    bins: int = 20,
    coverage: float = 0.99,
    name: str | None = None,
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the histogram of the truth's ranks, with the band that holds all bins together when they are uniform.

    A hump says that posteriors are too wide, a bowl that they are too narrow, a slope that they are shifted.

    Args:
        levels: shape (R,), normalised ranks between 0 and 1, such as `pi.sbc(...).ranks["theta"]`.
        bins: number of bins.
        coverage: probability that the whole histogram of a calibrated posterior stays within the band.
        name: the quantity that was ranked.
        color: fill colour.
        ax: axes to draw on.

    References:
        Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian Inference Algorithms with
        Simulation-Based Calibration. The band is simultaneous (`probinf.plots.simultaneous`).
    """
    values = _levels("levels", levels, coverage)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise ArgumentError(f"bins: expected an integer of at least 2, found {bins!r}.")
    low, high = histogram_band(values.size, bins, coverage)
    counts, edges = np.histogram(values, bins, (0.0, 1.0))
    with style():
        ax = axes_or_new(ax)
        ax.axhspan(low, high, color=MUTED, alpha=0.35, linewidth=0, label=f"calibrated ({coverage:.0%})", zorder=0)
        ax.axhline(values.size / bins, color=MUTED, linewidth=0.8)
        ax.stairs(counts, edges, fill=True, color=color, alpha=0.25)
        outside = (counts < low) | (counts > high)
        ax.stairs(counts, edges, color=color)
        if outside.any():
            middles = 0.5 * (edges[1:] + edges[:-1])
            ax.plot(middles[outside], counts[outside], "v", color="black", markersize=4, linewidth=0, label="outside")
        ax.legend(fontsize="small", loc="lower right")
        ax.set(xlabel=f"rank of the true {name}" if name else "rank of the truth", ylabel="replicates in bin")
        ax.set(xlim=(0.0, 1.0), ylim=(0.0, None))
    return ax


def plot_rank_ecdf(
    levels: Any,
    *,
    coverage: float = 0.99,
    name: str | None = None,
    label: str | None = None,
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution function of the truth's ranks minus that of the uniform, with its simultaneous band.

    No bins are chosen, and small systematic shifts show. Several methods may share the axes.

    Args:
        levels: shape (R,), normalised ranks between 0 and 1, such as `pi.sbc(...).ranks["theta"]`.
        coverage: probability that the whole curve of a calibrated posterior stays within the band.
        name: the quantity that was ranked.
        label: legend entry.
        color: colour of the curve.
        ax: axes to draw on.

    References:
        Säilynoja, Bürkner & Vehtari (2022), section 2.
    """
    values = _levels("levels", levels, coverage)
    points, low, high = ecdf_band(values.size, min(values.size, _MOST_POINTS), coverage)
    with style():
        ax = axes_or_new(ax)
        _band(ax, points, low - points, high - points, coverage)
        x = np.concatenate([[0.0], np.sort(values), [1.0]])
        y = np.concatenate([np.arange(values.size + 1) / values.size, [1.0]])
        fine = np.linspace(0.0, 1.0, 1001)
        ax.plot(fine, y[np.searchsorted(x, fine, side="right") - 1] - fine, color=color, label=label, linewidth=1.1)
        ax.axhline(0.0, color=MUTED, linewidth=0.8)
        ax.legend(fontsize="small")
        ax.set(xlabel=f"rank of the true {name}" if name else "rank of the truth", ylabel="fraction below, minus rank")
        ax.set(xlim=(0.0, 1.0))
    return ax


def plot_coverage(
    levels: Any, *, coverage: float = 0.99, label: str | None = None, color: str = ESTIMATE, ax: Axes | None = None
) -> Axes:
    """Draw the expected coverage of credible regions against their credibility, as TARP does.

    On the diagonal regions hold the truth as often as they claim; below it the posterior is too narrow, above too wide.

    Args:
        levels: shape (R,), for each replicate the share of draws nearer to a reference point than the truth is
            (`tarp_levels`).
        coverage: probability that the whole curve of a calibrated posterior stays within the band.
        label: legend entry.
        color: colour of the curve.
        ax: axes to draw on.

    References:
        Lemos, Coogan, Hezaveh & Perreault-Levasseur (2023), Sampling-Based Accuracy Testing of Posterior Estimators for
        General Inference, algorithm 2.
    """
    values = _levels("levels", levels, coverage)
    points, low, high = ecdf_band(values.size, min(values.size, _MOST_POINTS), coverage)
    with style():
        ax = axes_or_new(ax)
        _band(ax, points, low, high, coverage)
        ax.plot([0.0, 1.0], [0.0, 1.0], color=MUTED, linewidth=0.8)
        fine = np.linspace(0.0, 1.0, 1001)
        held = np.searchsorted(np.sort(values), fine, side="right") / values.size
        ax.plot(fine, held, color=color, label=label, linewidth=1.3)
        ax.legend(fontsize="small", loc="upper left")
        ax.set(xlabel="credibility", ylabel="expected coverage", xlim=(0.0, 1.0), ylim=(0.0, 1.0))
        ax.set_aspect("equal")
    return ax


def tarp_levels(draws: Any, truths: Any, references: Any) -> np.ndarray:
    """For each replicate, the share of posterior draws that lie nearer to its reference point than the truth does.

    Distances are Euclidean after each coordinate is scaled by the standard deviation of the truths. References must not
    depend on the truth; they may depend on the data, and then find errors that fixed ones miss.

    Args:
        draws: shape (R, L, d).
        truths: shape (R, d).
        references: shape (R, d).

    Returns:
        Shape (R,), uniform on [0, 1] up to steps of 1 / L when the posteriors are right.
    """
    draws = as_floats("draws", draws, 3, "(R, L, d)")
    expected = (draws.shape[0], draws.shape[2])
    truths, references = as_floats("truths", truths, 2, "(R, d)"), as_floats("references", references, 2, "(R, d)")
    for argument, value in (("truths", truths), ("references", references)):
        if value.shape != expected:
            raise ArgumentError(f"{argument}: expected shape {expected} as the draws, found {value.shape}.")
    scale = truths.std(axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    reach = np.linalg.norm((truths - references) / scale, axis=1)
    away = np.linalg.norm((draws - references[:, None]) / scale, axis=2)
    return np.mean(away < reach[:, None], axis=1)


def _band(ax: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray, coverage: float) -> None:
    at = np.concatenate([[0.0], points])
    bottom, top = (np.concatenate([[0.0], edge]) for edge in (low, high))
    text = f"calibrated ({coverage:.0%})"
    if text not in ax.get_legend_handles_labels()[1]:  # another curve may have drawn it
        ax.fill_between(at, bottom, top, color=MUTED, alpha=0.25, linewidth=0, label=text)


def _levels(argument: str, levels: Any, coverage: float) -> np.ndarray:
    values = as_floats(argument, levels, 1, "(R,)")
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise ArgumentError(
            f"{argument}: expected numbers between 0 and 1, found {values.min():g} to {values.max():g}."
        )
    if values.size < 2:
        raise ArgumentError(f"{argument}: expected at least two replicates, found {values.size}.")
    if not 0.0 < coverage < 1.0:
        raise ArgumentError(f"coverage: expected a number strictly between 0 and 1, found {coverage}.")
    return values
