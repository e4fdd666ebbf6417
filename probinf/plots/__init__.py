"""Pictures: arrays and optional axes in, axes out. `pi.plots.plot_trace(...)` and so on; see docs/pictures.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "plot_accuracy_matrix": "probinf.plots.accuracy",
    "plot_band": "probinf.plots.band",
    "plot_cloud": "probinf.plots.cloud",
    "plot_coverage": "probinf.plots.calibration",
    "plot_ess": "probinf.plots.runs",
    "plot_ess_and_evidence": "probinf.plots.evidence",
    "plot_genealogy": "probinf.plots.genealogy",
    "plot_log_evidence": "probinf.plots.runs",
    "plot_marginal": "probinf.plots.marginal",
    "plot_mixture": "probinf.plots.mixture",
    "plot_overview": "probinf.plots.overview",
    "plot_pairs": "probinf.plots.pairs",
    "plot_program": "probinf.plots.program",
    "plot_rank": "probinf.plots.rank",
    "plot_rank_ecdf": "probinf.plots.calibration",
    "plot_rank_histogram": "probinf.plots.calibration",
    "plot_trace": "probinf.plots.trace",
    "plot_track": "probinf.plots.track",
    "tarp_levels": "probinf.plots.calibration",
}

__all__ = [*sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Pictures are imported when they are first drawn."""
    if name not in _WHERE:
        raise AttributeError(f"module 'probinf.plots' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from probinf.plots.accuracy import plot_accuracy_matrix
    from probinf.plots.band import plot_band
    from probinf.plots.calibration import plot_coverage, plot_rank_ecdf, plot_rank_histogram, tarp_levels
    from probinf.plots.cloud import plot_cloud
    from probinf.plots.evidence import plot_ess_and_evidence
    from probinf.plots.genealogy import plot_genealogy
    from probinf.plots.marginal import plot_marginal
    from probinf.plots.mixture import plot_mixture
    from probinf.plots.overview import plot_overview
    from probinf.plots.pairs import plot_pairs
    from probinf.plots.program import plot_program
    from probinf.plots.rank import plot_rank
    from probinf.plots.runs import plot_ess, plot_log_evidence
    from probinf.plots.trace import plot_trace
    from probinf.plots.track import plot_track
