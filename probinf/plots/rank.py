"""Whether chains agree: histograms of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.plots.style import MUTED, as_floats, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_rank(draws: Any, *, name: str | None = None, bins: int = 20, ax: Axes | None = None) -> Axes:
    """Draw, for each chain, the histogram of its ranks among all draws; chains that agree give flat ones.

    The grey band holds a flat histogram of independent draws in 99 % of bins.

    Args:
        draws: shape (chains, draws).
        name: what the scalar is called.
        bins: number of bins.
        ax: axes to draw on.

    References:
        Vehtari et al. (2021), Rank-Normalization, Folding, and Localization, section 4.1.
    """
    import scipy.stats

    values = as_floats("draws", draws, 2, "(chains, draws)")
    num_chains, num_draws = values.shape
    ranks = scipy.stats.rankdata(values).reshape(values.shape)
    edges = np.linspace(0.5, values.size + 0.5, bins + 1)
    with style():
        ax = axes_or_new(ax)
        low, high = scipy.stats.binom.ppf([0.005, 0.995], num_draws, 1.0 / bins)
        ax.axhspan(low, high, color=MUTED, alpha=0.25, linewidth=0)
        ax.axhline(num_draws / bins, color=MUTED, linewidth=0.8)
        for chain in range(num_chains):
            ax.stairs(np.histogram(ranks[chain], edges)[0], edges, label=f"chain {chain}")
        ax.set(xlabel=f"rank of {name}" if name else "rank", ylabel="draws in bin", xlim=(edges[0], edges[-1]))
        ax.set_ylim(bottom=0)
    return ax
