"""Several runs of filters over time: how many particles count, and how the log evidence grows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import CYCLE, MUTED, TRUTH, as_floats, axes_or_new, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_ess(
    times: Any,
    ess: Mapping[str, Any],
    *,
    threshold: float | None = None,
    time_unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effective sample sizes of several runs, on a logarithmic axis.

    Args:
        times: shape (T,).
        ess: name of the run -> shape (T,), or (runs, T) for repetitions, which share a colour.
        threshold: where the filter resamples, drawn as a line.
        time_unit: unit of the times.
        ax: axes to draw on.
    """
    when, runs = _checked(times, "ess", ess)
    if any(np.any(values <= 0.0) for values in runs.values()):
        raise ArgumentError("ess: expected positive numbers.")
    with style():
        ax = axes_or_new(ax)
        _lines(ax, when, runs)
        if threshold is not None:
            ax.axhline(threshold, color=MUTED, linestyle=":", linewidth=1.0, label="resampled below")
        ax.set(yscale="log", xlabel=named("time", time_unit), ylabel="effective sample size")
        ax.legend(fontsize="small")
    return ax


def plot_log_evidence(
    times: Any,
    log_evidence: Mapping[str, Any],
    *,
    reference: Any = None,
    time_unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the accumulated log evidence of several runs, or how far it is from a reference.

    Args:
        times: shape (T,).
        log_evidence: name of the run -> shape (T,), or (runs, T) for repetitions, which share a colour; nats.
        reference: shape (T,), such as the exact values; differences to it are then drawn.
        time_unit: unit of the times.
        ax: axes to draw on.
    """
    when, runs = _checked(times, "log_evidence", log_evidence)
    if reference is not None:
        base = as_floats("reference", reference, 1, "(T,)")
        if base.shape != when.shape:
            raise ArgumentError(f"reference: {base.size} values for {when.size} times.")
        runs = {name: values - base[None] for name, values in runs.items()}
    with style():
        ax = axes_or_new(ax)
        _lines(ax, when, runs)
        if reference is not None:
            ax.axhline(0.0, color=TRUTH, linewidth=1.0, label="reference")
        ylabel = "log evidence [nats]" if reference is None else "log evidence minus reference [nats]"
        ax.set(xlabel=named("time", time_unit), ylabel=ylabel)
        ax.legend(fontsize="small")
    return ax


def _checked(times: Any, argument: str, values: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    when = as_floats("times", times, 1, "(T,)")
    if not isinstance(values, Mapping) or not values:
        raise ArgumentError(f"{argument}: expected a dictionary from names of runs to arrays.")
    runs = {name: np.atleast_2d(np.asarray(array, np.float64)) for name, array in values.items()}
    for name, array in runs.items():
        if array.ndim != 2 or array.shape[1] != when.size or array.size == 0:
            raise ArgumentError(
                f"{argument}: {name!r} has shape {array.shape}, expected (T,) or (runs, T), T = {when.size}."
            )
    return when, runs


def _lines(ax: Axes, times: np.ndarray, runs: dict[str, np.ndarray]) -> None:
    for (name, rows), color in zip(runs.items(), itertools.cycle(CYCLE)):
        for i, row in enumerate(rows):
            ax.plot(
                times, row, color=color, linewidth=1.0, alpha=1.0 if len(rows) == 1 else 0.6, label=None if i else name
            )
