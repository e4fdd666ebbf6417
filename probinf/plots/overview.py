"""A posterior at a glance: marginals beside traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.plots.marginal import plot_marginal
from probinf.plots.style import style
from probinf.plots.trace import plot_trace

if TYPE_CHECKING:
    from probinf.inference.posterior import Posterior


def plot_overview(posterior: Posterior, sites: Sequence[str] | None = None, *, max_rows: int = 8) -> Any:
    """Draw one row for each scalar and return the figure.

    With equal weights the second column is the trace; with weights there is none.

    Args:
        posterior: the draws.
        sites: which sites; all by default.
        max_rows: how many scalars at most; the title says how many are left out.
    """
    matrix, names = posterior.matrix(sites)
    shown = min(len(names), max_rows)
    has_trace = posterior.log_weights is None
    with style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(
            shown, 2 if has_trace else 1, figsize=(9.0 if has_trace else 5.0, 1.9 * shown), squeeze=False
        )
        for i in range(shown):
            plot_marginal(matrix[:, i], log_weights=posterior.log_weights, name=names[i], ax=axes[i, 0])
            if has_trace:
                rows = np.reshape(matrix[:, i], (posterior.num_chains, posterior.num_draws))
                plot_trace(rows, name=names[i], diverging=posterior.sample_stats.get("diverging"), ax=axes[i, 1])
        left = len(names) - shown
        figure.suptitle(f"{posterior.model}: {posterior.method}" + (f" ({left} scalars not shown)" if left else ""))
    return figure
