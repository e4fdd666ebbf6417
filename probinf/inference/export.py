"""A posterior as an ArviZ `DataTree`."""

from __future__ import annotations

from typing import Any

import numpy as np

from probinf.errors import InferenceError
from probinf.inference.posterior import Posterior


def to_arviz(posterior: Posterior) -> Any:
    """Groups `posterior` and `sample_stats`, dims and coordinates named; log weights as `sample_stats/log_weight`.

    Attributes of the tree: model, method, claim, seconds, is_partial, warnings, and log_evidence with log_evidence_sd
    where known.

    Raises:
        InferenceError: arviz-base is not installed.
    """
    try:
        from arviz_base import from_dict
    except ImportError as error:
        raise InferenceError("to_arviz needs arviz-base: pip install 'probinf[plots]'.") from error

    stats = {name: np.asarray(value) for name, value in posterior.sample_stats.items()}
    if posterior.log_weights is not None:
        stats["log_weight"] = posterior.log_weights
    groups = {"posterior": dict(posterior.draws)}
    if stats:
        groups["sample_stats"] = stats
    dims, used = {}, set()
    for name, value in posterior.draws.items():
        given = tuple(posterior.dims.get(name, ()))
        given = (None,) * (value.ndim - 2 - len(given)) + given
        dims[name] = [dim if dim is not None else f"{name}_dim_{i}" for i, dim in enumerate(given)]
        used.update(zip(dims[name], value.shape[2:], strict=True))
    coords = {dim: np.asarray(values) for dim, values in posterior.coords.items() if (dim, len(values)) in used}
    tree = from_dict(groups, dims=dims, coords=coords)
    attributes = {
        "model": posterior.model,
        "method": posterior.method,
        "claim": posterior.claim,
        "seconds": posterior.seconds,
        "is_partial": int(posterior.is_partial),  # netCDF knows no booleans
        "warnings": list(posterior.warnings),
        "inference_library": "probinf",
    }
    for name in ("log_evidence", "log_evidence_sd"):
        if getattr(posterior, name) is not None:
            attributes[name] = float(getattr(posterior, name))
    tree.attrs.update(attributes)
    return tree
