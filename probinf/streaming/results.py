"""What running a filter over a log gives back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from probinf.representations.concrete import is_concrete
from probinf.streaming.method import UpdateInfo
from probinf.streaming.stream_belief import StreamBelief


@dataclasses.dataclass(frozen=True)
class FilterRun:
    """A filter's answer after every event of a log.

    Attributes:
        times: seconds, float64, shape (n,).
        sensors: name of every event's sensor, shape (n,), None for rows without.
        means, covs: of the belief after every event, shapes (n, d) and (n, d, d).
        predictive_log_densities: log p(value_k | events before k), nats, shape (n,); 0 where nothing was observed.
        log_evidence: their sum, nats.
        info: `UpdateInfo` with a leading axis of length n; innovations are padded with NaN.
        belief: the belief after the last event.
        method: name of the method.
        claim, reason: how the result relates to the exact filtering distributions, and why.
        warnings: what should be known before the result is trusted.
        states: the method's states after every event, if they were asked for.
    """

    times: np.ndarray
    sensors: np.ndarray
    means: jax.Array
    covs: jax.Array
    predictive_log_densities: jax.Array
    log_evidence: jax.Array
    info: UpdateInfo
    belief: StreamBelief
    method: str
    claim: str
    reason: str
    warnings: tuple[str, ...] = ()
    states: Any = None

    def __len__(self) -> int:
        return len(self.times)

    def to_arviz(self) -> Any:
        """An ArviZ `DataTree` with the groups `filtered` and `sample_stats` (see `probinf.streaming.export`)."""
        from probinf.streaming.export import to_arviz

        return to_arviz(self)

    def __repr__(self) -> str:
        head = f"FilterRun({self.method}, {len(self)} events"
        if not len(self) or not is_concrete(self.means):
            return head + ")"
        info = jax.tree.map(np.asarray, self.info)
        counts = [f"{int(np.sum(info.gated))} gated", f"{int(np.sum(info.num_missing > 0))} with missing parts"]
        lines = [
            f"{head} from {self.times[0]:g} s to {self.times[-1]:g} s)",
            f"  log evidence {float(self.log_evidence):.4f} nats; {', '.join(counts)}",
            f"  {self.claim}" + (f": {self.reason}" if self.reason else ""),
        ]
        if np.any(np.isfinite(info.ess)):
            lines.append(f"  smallest effective sample size {np.nanmin(info.ess):.1f}")
        if np.any(np.isfinite(info.nis)):
            size = np.sum(np.isfinite(info.innovation), axis=1)
            told = size > 0
            lines.append(f"  mean NIS per coordinate {np.sum(info.nis[told]) / np.sum(size[told]):.3f} (expected 1)")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class SmootherRun:
    """State distributions given *all* events of a log.

    Attributes:
        times: seconds, shape (n,).
        means, covs: shapes (n, d) and (n, d, d).
        run: the filter's forward run.
    """

    times: np.ndarray
    means: jax.Array
    covs: jax.Array
    run: FilterRun

    def __repr__(self) -> str:
        return f"SmootherRun({self.run.method}, {len(self.times)} events, {self.run.claim})"


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The belief carried forward without any further event.

    Attributes:
        times: seconds, shape (n,).
        means, covs: shapes (n, d) and (n, d, d).
        belief: the belief at the last time.
    """

    times: np.ndarray
    means: jax.Array
    covs: jax.Array
    belief: StreamBelief

    def __repr__(self) -> str:
        return f"Forecast({len(self.times)} times to {self.times[-1]:g} s)"
