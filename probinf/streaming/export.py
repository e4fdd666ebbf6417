"""A filter's run as an ArviZ `DataTree`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import InferenceError

if TYPE_CHECKING:
    from probinf.streaming.results import FilterRun


def to_arviz(run: FilterRun) -> Any:
    """Groups `filtered` (mean, sd and cov of the state after every event) and `sample_stats` (what each event did).

    The axis of events is `event`, with the coordinates `time` (seconds) and `sensor`. Attributes: method, claim,
    log_evidence and warnings.

    Raises:
        InferenceError: xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise InferenceError(
            "to_arviz needs xarray, which comes with arviz-base: pip install 'probinf[plots]'."
        ) from error

    coords = {
        "time": ("event", np.asarray(run.times)),
        "sensor": ("event", np.asarray([sensor or "" for sensor in run.sensors], dtype=np.str_)),
    }
    covs = np.asarray(run.covs)
    filtered = {
        "mean": (("event", "state"), np.asarray(run.means)),
        "sd": (("event", "state"), np.sqrt(np.diagonal(covs, axis1=1, axis2=2))),
        "cov": (("event", "state", "state_bis"), covs),
    }
    info = run.info
    scalars = ("predictive_log_density", "nis", "ess", "gated", "num_missing", "fault")
    stats = {name: ("event", np.asarray(getattr(info, name))) for name in scalars}
    tree = xarray.DataTree.from_dict(
        {
            "/filtered": xarray.Dataset(filtered, coords=coords),
            "/sample_stats": xarray.Dataset(
                {**stats, "innovation": (("event", "value"), np.asarray(info.innovation))}, coords=coords
            ),
        }
    )
    tree.attrs.update(
        {
            "method": run.method,
            "claim": run.claim,
            "log_evidence": float(run.log_evidence),
            "warnings": list(run.warnings),
            "inference_library": "probinf",
        }
    )
    return tree
