"""The streaming protocol: start, predict, update, run, smooth, forecast. The same for every method."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf._jax import Tracer
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError
from probinf.random import as_key
from probinf.representations.concrete import default_float, is_concrete
from probinf.runs import Checkpoint
from probinf.streaming import compiled
from probinf.streaming.compiled import Channel, Evidence, MethodKey, Traces
from probinf.streaming.door import Door
from probinf.streaming.finish import assemble, broken, first_fault
from probinf.streaming.late import insert, remember
from probinf.streaming.log import Log
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.pieces import interrupted, run_in_pieces
from probinf.streaming.results import FilterRun, Forecast, SmootherRun
from probinf.streaming.stream_belief import StreamBelief
from probinf.streaming.system import System

if TYPE_CHECKING:
    from probinf.streaming.stream import Stream


class Filter:
    """Sequential inference on a stream of sensor events.

    It owns what is the same for every method: clocks (float64 on the host; compiled code sees only differences),
    checks, missing values, late events, the compiled steps and the scan over a log. One step is compiled per sensor
    and shape; filters of the same decorated system share it, whatever the numbers in it.

    Args:
        system: a `System`.
        method: how beliefs are represented and updated: `smc.EKF()`, `smc.UKF()`, `smc.ParticleFilter(1000)`, ...
        lag: seconds by which an event may arrive late. It is then slipped in where it belongs and later events are
            replayed, so the result is that of in-order processing. Beliefs carry the events of this window.
        on_fault: `"raise"` an `InferenceError`, or `"stop"`: keep the belief before the faulty event, flag it in the
            info and end a run there.

    Attributes:
        claim: the method's claim for this system.
        num_compiles: how many functions calls of this filter have compiled so far.
    """

    def __init__(
        self, system: System, method: AbstractFilterMethod, lag: float = 0.0, *, on_fault: str = "raise"
    ) -> None:
        if not isinstance(system, System):
            raise ArgumentTypeError(f"system: expected a System, found {type(system).__name__}.")
        if not isinstance(method, AbstractFilterMethod):
            raise ArgumentTypeError(f"method: expected a filter method such as smc.EKF(), found {method!r}.")
        if not lag >= 0.0 or not np.isfinite(lag):
            raise ArgumentError(f"lag: expected a finite number of seconds >= 0, found {lag!r}.")
        if on_fault not in ("raise", "stop"):
            raise ArgumentError(f"on_fault: expected 'raise' or 'stop', found {on_fault!r}.")
        self.system, self.method, self.lag, self.on_fault = system, method, float(lag), on_fault
        self.num_compiles = 0
        self._door = Door(system)
        self._method_key = MethodKey(method)
        self._functions: dict[Any, Any] = {}
        self.claim = method.claim(system)

    # -- one event at a time ----------------------------------------------------------------------------------------

    def start(self, key: int | jax.Array, t0: float) -> StreamBelief:
        """The belief at time `t0` (seconds), before any event: the system's prior.

        Args:
            key: seed or key; whatever is random in later steps comes from it and rides in the belief.
            t0: seconds.
        """
        state = self.method.init(as_key(key, argument="key"), self.system)
        return self.belief_of(state, Evidence.zero(default_float()), _time("t0", t0))

    def start_batch(self, keys: jax.Array, t0: float) -> StreamBelief:
        """One belief per key, stacked; shape of `keys` is (B,)."""
        state = jax.vmap(lambda key: self.method.init(key, self.system))(keys)
        evidence = Evidence(*(jnp.zeros(keys.shape, default_float()) for _ in range(2)))
        return self.belief_of(state, evidence, np.full(keys.shape, _time("t0", t0)))

    def predict(self, belief: StreamBelief, t: float, control: Any = None) -> StreamBelief:
        """The belief carried to the time `t` >= belief.time, seconds. A step of zero changes nothing.

        Raises:
            ArgumentError: `t` lies before the belief's time, or a control is missing or of the wrong shape.
            InferenceError: the prediction is not finite.
        """
        t, dt = self._step_to(belief, t, None)
        event = (None, None, None, self._door.control(control, dt))
        return self._advance(belief, t, None, event)[0]

    def update(
        self, belief: StreamBelief, t: float, sensor: str, value: Any, inputs: Any = None, control: Any = None
    ) -> tuple[StreamBelief, UpdateInfo]:
        """Carry the belief to the event's time and condition on its value.

        Args:
            belief: from `start`, `predict` or `update`; it is not changed.
            t: time of the event, seconds. Earlier than the belief's by at most `lag`: the event is slipped in.
            sensor: its name.
            value: of the sensor's shape; NaN marks missing coordinates if the sensor declares `missing="nan"`.
            inputs: what the sensor function takes beside the state (say, a beacon's position).
            control: what `move` takes for the step to `t`.

        Returns:
            The new belief, and what the event did.

        Raises:
            UnknownNameError: no such sensor.
            ArgumentError: too late, or inputs or control of the wrong shape.
            DataError: a value of the wrong shape, NaN where not declared, infinite, or outside the support.
            InferenceError: the step broke down; the given belief is still good.
        """
        channel, event = self._door.event(sensor, value, inputs)
        t, dt = self._step_to(belief, t, sensor)
        event = (*event, self._door.control(control, dt))
        if dt < 0.0:
            return insert(self._advance, belief, t, channel, event, self.lag)
        return self._advance(belief, t, channel, event)

    def update_batch(
        self, beliefs: StreamBelief, t: Any, sensor: str, value: Any, inputs: Any = None, control: Any = None
    ) -> tuple[StreamBelief, UpdateInfo]:
        """`update` for B stacked beliefs in one call: a value, and inputs and control if any, per belief.

        Args:
            beliefs: from `start_batch` or `stack_beliefs`.
            t: seconds, one number or shape (B,). Beliefs that keep one clock share what their motions have in common,
                which is faster; the two cases are compiled apart.
            sensor: its name, the same for all.
            value: shape (B, *value_shape).
            inputs: shape (B, *input_shape), or None.
            control: shape (B, *control_shape), or None.
        """
        size = np.shape(beliefs.time)
        if len(size) != 1:
            raise ArgumentError("beliefs: expected stacked beliefs (start_batch, stack_beliefs), found a single one.")
        if self.lag or beliefs.history:
            raise ArgumentError("update_batch: late events are handled one belief at a time; use a filter with lag=0.")
        channel, event = self._door.event(sensor, value, inputs, size)
        t = np.broadcast_to(np.asarray(t, np.float64), size)
        dt = t - beliefs.time
        if not np.all(dt >= 0.0):
            i = int(np.argmin(dt))
            raise ArgumentError(
                f"sensor {sensor!r}: event at {t[i]:g} s for belief {i}, which is already at {beliefs.time[i]:g} s."
            )
        event = (*event, self._door.control(control, dt, size))
        same = dt.size > 0 and np.all(dt == dt[0])
        state, evidence, info = self._call(compiled.batched_step, channel, beliefs, dt[0] if same else dt, event)
        self._report(info, lambda i: f"belief {i}, sensor {sensor!r}, t = {t[i]:g} s", None)
        return self.belief_of(state, evidence, t), info

    def stream(
        self, checkpoint: Checkpoint | str | os.PathLike[str], key: int | jax.Array = 0, t0: float = 0.0
    ) -> Stream:
        """A belief that is fed event by event and kept in a folder; what is there already is taken up.

        Args:
            checkpoint: the folder.
            key: seed or key of the start.
            t0: time of the prior, seconds.

        Raises:
            CheckpointError: the folder cannot be used, is damaged, or belongs to another system, method or start.
        """
        from probinf.streaming.stream import Stream

        return Stream(self, checkpoint, key, t0)

    # -- a whole log ------------------------------------------------------------------------------------------------

    def run(
        self,
        log: Any,
        key: int | jax.Array = 0,
        t0: float | None = None,
        *,
        belief: StreamBelief | None = None,
        keep_states: bool = False,
        allow_empty: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> FilterRun:
        """Filter a whole log in one compiled scan; with a checkpoint or a bar in pieces of 1000 events.

        Args:
            log: a `Log`, or anything `Log` accepts.
            key: seed or key of the start.
            t0: time of the prior, seconds; the time of the first event if left out.
            belief: go on from this belief instead of the prior.
            keep_states: keep the method's state after every event (memory: n times a state).
            allow_empty: accept a log without events; the result is the prior.
            checkpoint: folder to keep the run in; what is there already is continued.
            progress: show a bar.

        Raises:
            DataError: the log is empty, or holds NaN that no sensor declares.
            InferenceError: an event broke the filter, or Ctrl-C stopped it; `.partial` is the run up to there.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        log = log if isinstance(log, Log) else Log(log)
        if not len(log) and not allow_empty:
            raise DataError("log: it holds no events; pass allow_empty=True to get the prior.")
        channels = self._door.log(log)
        if belief is None:
            if t0 is None and not len(log):
                raise ArgumentError("t0: an empty log has no first event; say at what time the prior holds.")
            belief = self.start(key, log.times[0] if t0 is None else t0)
        elif t0 is not None:
            raise ArgumentError("t0: it is the belief's own time when a run goes on from a belief.")
        dts = log.dt(belief.time)
        controls = None if log.controls is None else self._door.control(log.controls, dts, dts.shape)
        if controls is None:
            self._door.control(None, dts)
        values = np.where(log.observed, log.values, 0.0)
        events = (dts, log.sensor_index, values, log.observed, log.inputs, controls)
        if len(log) and (progress or checkpoint is not None):
            end, trail, taken = run_in_pieces(self, log, belief, channels, events, keep_states, checkpoint, progress)
            if taken < len(log) and first_fault(trail) is None:
                raise interrupted(self, log[:taken], end, trail, len(log))
        else:
            state, evidence, trail = self.scan(channels, belief, events, keep_states)
            end = self.belief_of(state, evidence, np.float64(log.times[-1] if len(log) else belief.time))
        stop = first_fault(trail)
        if stop is None:
            return assemble(self, log, end, trail)
        # What comes after a broken step is not worth having, and the belief before it is on the way.
        done = self.run(log[:stop], belief=belief, keep_states=keep_states, allow_empty=True)
        return broken(self, log, done, int(np.asarray(trail.info.fault)[stop]))

    def smooth(self, log: Any, key: int | jax.Array = 0, t0: float | None = None) -> SmootherRun:
        """Means and covariances at every event given all events of the log (arguments as in `run`).

        Raises:
            ArgumentError: the method has no smoother.
            InferenceError: a covariance is singular.
        """
        if type(self.method).smooth is AbstractFilterMethod.smooth:
            raise ArgumentError(f"smooth: {type(self.method).__name__} has no smoother.")
        log = log if isinstance(log, Log) else Log(log)
        run = self.run(log, key, t0, keep_states=True)
        if not len(run):
            raise InferenceError(f"smooth: nothing to smooth; {' '.join(run.warnings)}")
        dts = log.dt(t0)[: len(run)].astype(self.system.dtype)
        controls = None if log.controls is None else jnp.asarray(log.controls[: len(run)], self.system.dtype)
        before = Traces.count
        means, covs, fault = compiled.smooth(
            *self._static(), self.system.recipe.arrays, self._method_key.arrays, run.states, dts, controls
        )
        self.num_compiles += Traces.count - before
        if is_concrete(fault) and int(fault):
            raise InferenceError(f"smooth: {Fault(int(fault)).explain()}")
        return SmootherRun(run.times, means, covs, run)

    def forecast(self, belief: StreamBelief, times: Any, controls: Any = None) -> Forecast:
        """The belief carried to later times without further events; `belief` itself is not changed.

        Args:
            belief: where to start.
            times: seconds, not decreasing, none before the belief's; shape (n,).
            controls: shape (n, *control_shape), for the intervals that end at `times`.
        """
        times = np.atleast_1d(np.asarray(times, np.float64))
        dts = np.diff(times, prepend=belief.time)
        if not len(times) or not np.all(dts >= 0.0):
            raise ArgumentError(
                f"times: expected at least one, not decreasing and not before the belief's {float(belief.time):g} s."
            )
        controls = self._door.control(controls, dts, dts.shape if controls is not None else ())
        n = len(times)
        events = (dts, np.full(n, -1, np.int32), np.zeros((n, 0)), np.zeros((n, 0), bool), np.zeros((n, 0)), controls)
        state, evidence, trail = self.scan((), belief, events, False)
        self._report(trail.info, lambda i: f"forecast to {times[i]:g} s", None)
        return Forecast(times, trail.means, trail.covs, self.belief_of(state, evidence, times[-1]))

    # -- inside -----------------------------------------------------------------------------------------------------

    def step_function(self, sensor: str, input_shape: tuple[int, ...] | None = None) -> Any:
        """The pure step of one sensor: `(state, dt, value, observed, inputs, control) -> (state, info)`.

        For those who compose it themselves with `jit`, `vmap`, `scan` or `grad`; nothing is checked inside.
        """
        channel = self._door.channel(sensor, input_shape)

        def step(state, dt, value, observed=None, inputs=None, control=None):
            seen = jnp.ones(channel.value_shape, bool) if observed is None else observed
            return compiled.advance(self.system, self.method, channel, state, dt, value, seen, inputs, control)

        return step

    def channel(self, sensor: str, input_shape: tuple[int, ...] | None = None) -> Channel:
        """A sensor as the compiled code knows it."""
        return self._door.channel(sensor, input_shape)

    def _static(self) -> tuple[Any, Any]:
        return self.system.recipe.key, self._method_key.static

    def belief_of(self, state: Any, evidence: Evidence, time: Any, history: tuple = ()) -> StreamBelief:
        """A belief of this filter's method with this state."""
        return StreamBelief.assemble(state, self.method, evidence, time, history, self.claim)

    def _step_to(self, belief: StreamBelief, t: Any, sensor: str | None) -> tuple[np.float64, np.float64]:
        if not isinstance(belief, StreamBelief):
            raise ArgumentTypeError(f"belief: expected one from start(), found {type(belief).__name__}.")
        now = belief.time
        if np.ndim(now):
            raise ArgumentError("belief: it is a batch; use update_batch.")
        t = _time("t", t)
        dt = t - now
        if dt < 0.0 and sensor is None:
            raise ArgumentError(
                f"predict: t = {t:g} s lies before the belief's time {float(belief.time):g} s; "
                "a prediction cannot go back."
            )
        if dt < -self.lag:
            raise ArgumentError(
                f"sensor {sensor!r}: the event at {t:g} s is {-dt:g} s older than the belief, which stands at "
                f"{float(belief.time):g} s; late events are taken up to the filter's lag, which is {self.lag:g} s. "
                "Sort the events by time, or give a lag: .filter(method, lag=...), --lag on the command line."
            )
        return t, dt

    def _call(self, make: Any, channel: Channel | None, belief: StreamBelief, dt: Any, event: tuple) -> Any:
        key = (make, channel)
        if key not in self._functions:
            self._functions[key] = make(*self._static(), channel)
        before = Traces.count
        out = self._functions[key](
            self.system.recipe.arrays,
            self._method_key.arrays,
            belief.state,
            belief.evidence,
            np.asarray(dt, self.system.dtype),
            event,
        )
        self.num_compiles += Traces.count - before
        return out

    def _advance(
        self, belief: StreamBelief, t: np.float64, channel: Channel | None, event: tuple
    ) -> tuple[StreamBelief, UpdateInfo]:
        state, evidence, info = self._call(compiled.step, channel, belief, t - belief.time, event)
        name = None if channel is None else channel.name
        self._report(info, lambda _: f"sensor {name!r}, t = {t:g} s" if name else f"prediction to {t:g} s", belief)
        if self.on_fault == "stop" and is_concrete(info.fault) and int(info.fault):
            return belief, info
        history = remember(belief, t, channel, event, self.lag)
        return self.belief_of(state, evidence, t, history), info

    def scan(self, channels: tuple, belief: StreamBelief, events: tuple, keep_states: bool) -> Any:
        """The compiled scan over prepared events: state, evidence, and the trail of what happened."""
        dts, index, values, observed, inputs, controls = events
        dtype = self.system.dtype
        floats = [None if a is None else jnp.asarray(np.asarray(a), dtype) for a in (dts, values, inputs, controls)]
        before = Traces.count
        out = compiled.scan(
            *self._static(),
            channels,
            values.shape[1],
            keep_states,
            self.system.recipe.arrays,
            self._method_key.arrays,
            belief.state,
            belief.evidence,
            (floats[0], jnp.asarray(index), floats[1], jnp.asarray(observed), floats[2], floats[3]),
        )
        self.num_compiles += Traces.count - before
        return out

    def _report(self, info: UpdateInfo, where: Any, partial: Any) -> None:
        """Raise for a fault flagged by compiled code, now that the host looks at it."""
        fault = info.fault
        if self.on_fault != "raise" or isinstance(fault, Tracer):
            return
        faults = np.asarray(fault)
        if not faults.any():
            return
        first = int(np.flatnonzero(faults)[0])
        error = InferenceError(f"{where(first)}: {Fault(int(faults.reshape(-1)[first])).explain()}")
        error.partial = partial
        raise error

    def __repr__(self) -> str:
        return f"Filter({self.system.name!r}, {type(self.method).__name__}, lag={self.lag:g} s)"


def _time(name: str, t: Any) -> np.float64:
    if isinstance(t, float) and math.isfinite(t):  # np.float64 is one
        return np.float64(t)
    try:
        value = np.float64(t)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name}: expected a number of seconds, found {type(t).__name__}.") from None
    if np.ndim(value) or not np.isfinite(value):
        raise ArgumentError(f"{name}: expected a finite number of seconds, found {t!r}.")
    return value
