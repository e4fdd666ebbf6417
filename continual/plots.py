"""Pictures of runs: accuracy matrices, and what becomes of each task and of the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from continual.metrics import average_accuracy
from continual.running import Result
from probinf.errors import ArgumentError
from probinf.plots.accuracy import plot_accuracy_matrix
from probinf.plots.style import axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_mean_accuracy(results: Sequence[Result], *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy matrix, mean over runs, as a heat map.

    Args:
        results: of one learner, one for each seed.
        ax: axes to draw on.
    """
    _require(results)
    mean = np.mean([result.accuracy for result in results], axis=0)
    return plot_accuracy_matrix(mean, tasks=results[0].tasks, ax=ax)


def plot_average_accuracy(runs: Mapping[str, Sequence[Result]], *, ax: Axes | None = None) -> Axes:
    """Draw the average accuracy on the tasks seen against their number: mean and, as a band, standard deviation.

    Args:
        runs: name of a learner to its runs.
        ax: axes to draw on.
    """
    _require(runs)
    with style():
        ax = axes_or_new(ax)
        for i, (name, results) in enumerate(runs.items()):
            _require(results)
            curves = np.array([[average_accuracy(r.accuracy, t) for t in range(len(r.tasks))] for r in results])
            _curve(ax, curves, name, "-" if i < 8 else "--" if i < 16 else ":")
        ax.set(xlabel="tasks learnt", ylabel="average accuracy on them", ylim=(0, 1.02))
        ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_accuracy_per_task(results: Sequence[Result], *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy on each task from when it was learnt on: mean and, as a band, standard deviation over runs.

    Args:
        results: of one learner, one for each seed.
        ax: axes to draw on.
    """
    _require(results)
    with style():
        ax = axes_or_new(ax)
        matrices = np.array([result.accuracy for result in results])
        for j, task in enumerate(results[0].tasks):
            _curve(ax, matrices[:, j:, j], f"task {task}", "-" if j < 8 else "--", first=j + 1)
        ax.set(xlabel="tasks learnt", ylabel="accuracy", ylim=(0, 1.02))
        ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _curve(ax: Axes, curves: np.ndarray, label: str, line: str, first: int = 1) -> None:
    stages = np.arange(first, first + curves.shape[1])
    mean = curves.mean(axis=0)
    (drawn,) = ax.plot(stages, mean, line, marker="o", markersize=3, label=label)
    if len(curves) > 1:
        spread = curves.std(axis=0, ddof=1)
        ax.fill_between(stages, mean - spread, mean + spread, color=drawn.get_color(), alpha=0.15, linewidth=0)
    ax.set_xticks(np.arange(1, stages[-1] + 1))


def _require(found: Sequence[Result] | Mapping[str, Sequence[Result]]) -> None:
    if not found:
        raise ArgumentError("runs: expected at least one, found none.")
