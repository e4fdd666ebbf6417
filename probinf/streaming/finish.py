"""Turn what a scan left behind into a result, and a fault inside it into an error that loses nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import InferenceError
from probinf.representations.concrete import is_concrete
from probinf.streaming.compiled import Trail
from probinf.streaming.log import Log
from probinf.streaming.method import Fault
from probinf.streaming.results import FilterRun
from probinf.streaming.stream_belief import StreamBelief

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter


def first_fault(trail: Trail) -> int | None:
    """Row of the first event that broke the filter, or None (also while tracing: nobody can look yet)."""
    if not is_concrete(trail.info.fault):
        return None
    faults = np.flatnonzero(np.asarray(trail.info.fault))
    return int(faults[0]) if len(faults) else None


def assemble(filter: Any, log: Log, belief: StreamBelief, trail: Trail) -> FilterRun:
    """The result of a run in which every event was taken."""
    return FilterRun(
        times=log.times,
        sensors=log.sensor_names,
        means=trail.means,
        covs=trail.covs,
        predictive_log_densities=trail.info.predictive_log_density,
        log_evidence=belief.log_evidence,
        info=trail.info,
        belief=belief,
        method=type(filter.method).__name__,
        claim=filter.claim,
        reason=filter.method.reason(filter.system),
        warnings=tuple(filter.method.notes(filter.system)),
        states=trail.states,
    )


def broken(filter: Filter, log: Log, done: FilterRun, fault: int) -> FilterRun:
    """The run up to the faulty event, returned or carried by an error as the filter's `on_fault` says."""
    n = len(done)
    sensor = log.sensor_names[n]
    message = f"event {n} (sensor {sensor!r}, t = {log.times[n]:g} s): {Fault(fault).explain()}"
    run = dataclasses.replace(done, warnings=(*done.warnings, f"stopped before {message}"))
    if filter.on_fault == "stop":
        return run
    error = InferenceError(f"The filter broke down at {message} The run up to there is on .partial.")
    error.partial = run
    raise error
