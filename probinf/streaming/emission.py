"""A log under a state-space system as statements of a model: the same system, for every method that takes programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, DataError
from probinf.language.statements import factor, sample
from probinf.streaming.log import Log
from probinf.streaming.system import System


def observe_log(system: System, log: Log, *, t0: Any = None, together: Any = 0.0, name: str = "x") -> jax.Array:
    """Draw the states at the times of a log and observe its events, inside a model.

    Emits a site `{name}0` for the state at `t0`, a site `{name}` of shape (T, d) for the states at the T distinct times
    after it (one `scan`), and a factor for every event.

    Args:
        system: the system; its parameters may be draws of the same model.
        log: the events.
        t0: time of the prior, seconds; the first event's time by default.
        together: events within this many seconds of the first of a group count as simultaneous, at that first time.
            Sensors that report in bursts then share one state.
        name: of the sites.

    Returns:
        The states at the distinct times after `t0`, shape (T, d).

    Raises:
        DataError: the log is empty.
        ArgumentError: an event lies before `t0`.
    """
    if not len(log):
        raise DataError("log: it holds no events.")
    rows = _Rows(log, float(log.times[0]) if t0 is None else float(t0), float(together))
    prior = system.prior if isinstance(system.prior, dist.Distribution) else system.prior.as_distribution()
    x0 = sample(f"{name}0", prior)
    if rows.first is not None:
        _observe(system, log, x0, rows.first, f"{name}0_events")
    if not len(rows.dt):
        return jnp.zeros((0, system.dim), system.dtype)

    def step(x: jax.Array, row: Any) -> tuple[jax.Array, jax.Array]:
        dt, control, events = row
        x = sample(name, system.move_distribution(x, dt, control))
        _observe(system, log, x, events, f"{name}_events")
        return x, x

    moves = (jnp.asarray(rows.dt, system.dtype), rows.controls, rows.events)
    return jax.lax.scan(step, x0, moves)[1]


def state_times(log: Log, *, t0: float | None = None, together: float = 0.0) -> np.ndarray:
    """Times (seconds) of the states that `observe_log` draws after the first one, shape (T,)."""
    return _Rows(log, float(log.times[0]) if t0 is None else float(t0), together).times


class _Rows:
    """Events grouped by time: `dt` (T,), and per event slot (T, K) sensor index (-1: none), value, observed, inputs."""

    def __init__(self, log: Log, t0: float, together: float) -> None:
        if log.times[0] < t0:
            raise ArgumentError(f"t0: {t0:g} s lies after the first event, at {float(log.times[0]):g} s.")
        starts = [0]
        for i, t in enumerate(log.times):
            if t - log.times[starts[-1]] > together:
                starts.append(i)
        ends = [*starts[1:], len(log)]
        width = max(e - s for s, e in zip(starts, ends, strict=True))
        index = np.full((len(starts), width), -1, np.int32)
        parts = {"values": np.where(log.observed, log.values, 0.0), "observed": log.observed, "inputs": log.inputs}
        slots = {k: np.zeros((len(starts), width, *v.shape[1:]), v.dtype) for k, v in parts.items()}
        for r, (s, e) in enumerate(zip(starts, ends, strict=True)):
            index[r, : e - s] = log.sensor_index[s:e]
            for k, v in parts.items():
                slots[k][r, : e - s] = v[s:e]
        times = log.times[starts]
        dt = np.diff(times, prepend=t0)
        events = (index, slots["values"], slots["observed"], slots["inputs"])
        controls = None if log.controls is None else np.asarray(log.controls)[starts]
        self.first = None
        if dt[0] <= 0:
            self.first = tuple(a[0] for a in events)
            dt, times, events = dt[1:], times[1:], tuple(a[1:] for a in events)
            controls = None if controls is None else controls[1:]
        self.dt, self.times, self.events, self.controls = dt, times, events, controls


def _observe(system: System, log: Log, x: jax.Array, events: Any, name: str) -> None:
    index, values, observed, inputs = events
    log_factor = jnp.zeros((), system.dtype)
    for slot in range(index.shape[0]):
        branches: list[Callable[..., jax.Array]] = [lambda *_: jnp.zeros((), system.dtype)]
        for sensor in log.sensors:
            shape, input_shape = log.value_shapes[sensor], log.input_shapes[sensor]

            def score(
                x: Any, v: Any, o: Any, u: Any, sensor: str = sensor, shape: Any = shape, given: Any = input_shape
            ) -> Any:
                size = int(np.prod(shape, dtype=int))
                wanted = None if given is None else u[: int(np.prod(given, dtype=int))].reshape(given)
                value, seen = v[:size].reshape(shape), o[:size].reshape(shape)
                return system.sensor_log_prob(sensor, x, value, seen, wanted).astype(system.dtype)

            branches.append(score)
        arguments = (
            x,
            jnp.asarray(values[slot], system.dtype),
            jnp.asarray(observed[slot]),
            jnp.asarray(inputs[slot], system.dtype),
        )
        log_factor = log_factor + jax.lax.switch(jnp.asarray(index[slot]) + 1, branches, *arguments)
    factor(name, log_factor)


def _scorer(system: System, sensor: str, shape: tuple[int, ...], input_shape: tuple[int, ...] | None) -> Callable:
    def score(x: jax.Array, values: jax.Array, observed: jax.Array, inputs: jax.Array) -> jax.Array:
        size = math.prod(shape)
        given = None if input_shape is None else inputs[: math.prod(input_shape)].reshape(input_shape)
        value, seen = values[:size].reshape(shape), observed[:size].reshape(shape)
        return system.sensor_log_prob(sensor, x, value, seen, given).astype(system.dtype)

    return score
