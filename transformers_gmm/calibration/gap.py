r"""How far answers are from the exact ones: paired differences of log scores, with errors clustered by series.

The expected difference of log scores at the truth,

$$E[\log p(x^* \mid z) - \log q(x^* \mid z)] = E\,KL(p \| q) \ge 0,$$

is zero for the exact posterior only. Scores of one series depend on each other: its mean counts as one number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, repr=False)
class GapReport:
    """Gaps of several methods to a reference.

    Attributes:
        reference: name of what the others are compared with.
        gaps: method -> group of steps -> (gap, standard error), nats per step.
        num_series: how many independent series stand behind every number.
    """

    reference: str
    gaps: Mapping[str, Mapping[str, tuple[float, float]]]
    num_series: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = {
            name: {group: {"gap": gap, "standard_error": error} for group, (gap, error) in groups.items()}
            for name, groups in self.gaps.items()
        }
        return {"reference": self.reference, "num_series": self.num_series, "gaps": rows}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Gaps by group of steps with two standard errors; zero is the reference."""
        from probinf.plots.style import axes_or_new, style

        with style():
            ax = axes_or_new(ax)
            for i, (name, groups) in enumerate(self.gaps.items()):
                gaps, errors = np.array(list(groups.values())).T
                at = np.arange(len(groups)) + 0.12 * (i - 0.5 * (len(self.gaps) - 1))
                ax.errorbar(at, gaps, 2.0 * errors, fmt="o", markersize=4, capsize=3, label=name)
            ax.axhline(0.0, color="black", linewidth=0.8)
            ax.set_xticks(range(len(groups)), list(groups))
            ax.set(ylabel=f"gap to {self.reference} (nats per step)")
            ax.legend(fontsize="small")
        return ax

    def __repr__(self) -> str:
        groups = list(next(iter(self.gaps.values())))
        width = max(len(n) for n in (*self.gaps, "method"))
        lines = [f"{'method':{width}}" + "".join(f"  {group:>18}" for group in groups)]
        for name, row in self.gaps.items():
            cells = "".join(f"  {f'{gap:.4f} ± {error:.4f}':>18}" for gap, error in row.values())
            lines.append(f"{name:{width}}{cells}")
        lines.append(
            f"gap to {self.reference}, nats per step, ± one standard error over {self.num_series} series; zero is exact"
        )
        return "\n".join(lines)


def posterior_gap(scores: Mapping[str, Any], reference: str, groups: Mapping[str, slice] | None = None) -> GapReport:
    """Compare log scores of the same truths, paired.

    Args:
        scores: method -> log q(x*), shape (series,) or (series, steps); one of them is the reference.
        reference: its name: the exact posterior, or the best that there is.
        groups: name -> steps; by default all together.

    Raises:
        ArgumentError: shapes differ, there is one series, or the reference is not among the methods.
        DataError: a score is NaN or +inf.

    Example:
        `posterior_gap({"exact": exact, "network": mine}, "exact", {"0-9": slice(10), "10-": slice(10, None)})`
    """
    tables = {name: np.asarray(value, np.float64) for name, value in scores.items()}
    if reference not in tables or len(tables) < 2:
        raise ArgumentError(f"reference: expected one of two methods or more, {sorted(tables)}, found {reference!r}.")
    tables = {name: table[:, None] if table.ndim == 1 else table for name, table in tables.items()}
    shape = tables[reference].shape
    for name, table in tables.items():
        if table.shape != shape or table.ndim != 2 or shape[0] < 2:
            raise ArgumentError(
                f"scores: expected the same shape (series, steps) with two series or more for all, found {table.shape} "
                f"for {name!r} and {shape} for {reference!r}."
            )
        if np.isnan(table).any() or np.isposinf(table).any():
            raise DataError(f"scores: {name!r} is NaN or +inf at {int((~(table < np.inf)).sum())} of {table.size}.")
    groups = {"all": slice(None)} if groups is None else groups
    exact = tables.pop(reference)
    gaps = {}
    for name, table in tables.items():
        row = {}
        for group, steps in groups.items():
            each = np.mean(exact[:, steps] - table[:, steps], axis=1)
            row[group] = (float(each.mean()), float(each.std(ddof=1) / np.sqrt(shape[0])))
        gaps[name] = row
    return GapReport(reference, gaps, shape[0])
