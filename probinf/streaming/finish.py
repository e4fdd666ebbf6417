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


def undeclared_angles(system: Any, log: Log, trail: Trail) -> tuple[str, ...]:
    """A hint for every sensor that looks like an angle and is not declared as one.

    The sign: all its values lie in [-pi, pi], they reach beyond two thirds of that on both sides, and an innovation is
    longer than half a turn, which on the circle it cannot be.
    """
    if not is_concrete(trail.info.innovation):
        return ()
    hints = []
    innovations = np.abs(np.asarray(trail.info.innovation, np.float64))
    for k, name in enumerate(log.sensors):
        rows = log.sensor_index == k
        size = int(np.prod(log.value_shapes[name], dtype=int))
        circular = system.sensor(name).circular(system.describe_sensor(name, log.input_shapes[name]))
        for i in range(size):
            values, jumps = log.values[rows, i], innovations[rows, i]
            seen = values[np.isfinite(values)]
            turns = seen.size and np.abs(seen).max() <= np.pi and seen.max() > 2.1 and seen.min() < -2.1
            if turns and not circular[i] and np.nanmax(jumps, initial=0.0) > np.pi:
                hints.append(
                    f"sensor {name!r} coordinate {i}: values within half a turn, innovations up to "
                    f"{np.nanmax(jumps):.2f}. If it is an angle in radians, declare it: pi.Angular or VonMises as its "
                    f"distribution, or pi.Sensor(..., angles=({i},))."
                )
    return tuple(hints)


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
        warnings=(*filter.method.notes(filter.system), *undeclared_angles(filter.system, log, trail)),
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
