"""Evidence of several runs together, and the history that a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from probinf.inference.posterior import Posterior

_PREFIX = "history/"


def combine_evidence(log_z: np.ndarray) -> tuple[float, float | None]:
    r"""Log of the mean of independent evidence estimates, and its standard error by the delta method.

    $$\log \bar Z, \qquad \mathrm{sd} \approx \frac{s_Z}{\bar Z \sqrt R}.$$

    Args:
        log_z: (R,) nats; -inf where a run died.

    Returns:
        Log evidence (-inf if every run died) and its standard error, None for a single run.
    """
    log_z = np.asarray(log_z, np.float64).reshape(-1)
    top = log_z.max()
    if not np.isfinite(top):
        return float(top), None
    z = np.exp(log_z - top)
    log_evidence = float(top + np.log(z.mean()))
    if z.size < 2:
        return log_evidence, None
    return log_evidence, float(z.std(ddof=1) / (z.mean() * np.sqrt(z.size)))


def pack_history(history: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """History as the arrays of a posterior's `checkpoint`, so that it is saved with it."""
    return {_PREFIX + name: np.asarray(value) for name, value in history.items()}


def history(posterior: Posterior) -> dict[str, np.ndarray]:
    """How a run went: arrays of shape (runs, steps) by name.

    Tempered runs leave `inverse_temperature`, `ess`, `log_evidence`, `acceptance`, `step_size`, `num_moves`,
    `autocorrelation`, `still` (share of the particles that never moved), `shift` (a step of the log evidence minus that
    of half the moves) with `shift_variance`, and waste-free ones `log_evidence_variance`; populations leave
    `<site>/ess` and `<site>/log_evidence` for each observation or factor; SMC² leaves `ess` and `log_evidence`. Empty
    for other methods.
    """
    stored = posterior.checkpoint or {}
    return {name.removeprefix(_PREFIX): value for name, value in stored.items() if name.startswith(_PREFIX)}
