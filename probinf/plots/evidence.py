"""How a filter fares over time: effective sample size and log evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, MUTED, SECOND, as_floats, axes_or_new, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_ess_and_evidence(
    times: Any,
    ess: Any,
    log_evidence: Any,
    *,
    num_particles: int,
    threshold: float | None = None,
    time_unit: str | None = None,
    ax: Axes | None = None,
) -> tuple[Axes, Axes]:
    """Draw the effective sample size on the left axis and the accumulated log evidence on the right one.

    Args:
        times: shape (T,).
        ess: shape (T,), from 1 to `num_particles`.
        log_evidence: shape (T,), accumulated, in nats.
        num_particles: number of particles: the top of the left axis.
        threshold: the ESS below which the filter resamples, drawn as a line.
        time_unit: unit of the times.
        ax: axes to draw the left one on.

    Returns:
        The left and the right axes.
    """
    times = as_floats("times", times, 1, "(T,)")
    ess, log_evidence = as_floats("ess", ess, 1, "(T,)"), as_floats("log_evidence", log_evidence, 1, "(T,)")
    for argument, value in (("ess", ess), ("log_evidence", log_evidence)):
        if value.shape != times.shape:
            raise ArgumentError(f"{argument}: {value.size} values for {times.size} times.")
    with style():
        ax = axes_or_new(ax)
        right = ax.twinx()
        ax.plot(times, ess, color=ESTIMATE, linewidth=0.8)
        if threshold is not None:
            ax.axhline(threshold, color=MUTED, linestyle=":", linewidth=1.0, label="resampled below")
            ax.legend(loc="upper left", fontsize="small")
        right.plot(times, log_evidence, color=SECOND)
        right.spines["right"].set_visible(True)
        ax.set(xlabel=named("time", time_unit), ylim=(0, 1.02 * num_particles))
        ax.set_ylabel(f"effective sample size (of {num_particles})", color=ESTIMATE)
        right.set_ylabel("log evidence [nats]", color=SECOND)
        if np.isfinite(log_evidence).any():
            right.margins(y=0.1)
    return ax, right
