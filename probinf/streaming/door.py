"""Checks of events at the door: names, sizes, missing and impossible values, before anything is compiled."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, ArgumentTypeError, DataError
from probinf.representations.concrete import is_concrete
from probinf.streaming.columns import as_floats
from probinf.streaming.compiled import Channel
from probinf.streaming.dry_run import abstract_distribution
from probinf.streaming.log import Log
from probinf.streaming.system import System

_FEW = 16


class Door:
    """Remembers the shapes that a system's sensors and motion were first used with."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._channels: dict[str, Channel] = {}
        self._supports: dict[str, Any] = {}
        # Those of which a finite value of the right shape is a legal one, and that nothing of it is missing.
        self._plain: dict[str, tuple[Channel, np.ndarray]] = {}
        self._control_shape: tuple[int, ...] | None = None

    def channel(self, name: str, input_shape: tuple[int, ...] | None) -> Channel:
        """The sensor's shapes; a dry run the first time, a comparison afterwards."""
        sensor = self.system.sensor(name)
        where = self.system.label(name)
        if name not in self._channels:
            if input_shape is None and sensor.needs_inputs:
                declared = "" if sensor.inputs is None else f" of shape {sensor.inputs}"
                raise ArgumentError(
                    f"{where} takes inputs{declared} beside the state, none were given; pass inputs=..."
                )
            if input_shape is not None and not sensor.takes_inputs:
                raise ArgumentError(f"{where} takes only the state, but inputs of shape {input_shape} were given.")
            if input_shape is not None and sensor.inputs not in (None, input_shape):
                raise ArgumentError(f"{where}: expected inputs of shape {sensor.inputs}, given {input_shape}.")
            distribution = self.system.describe_sensor(name, input_shape)
            self._channels[name] = Channel(name, tuple(distribution.event_shape), input_shape)
            self._supports[name] = _checkable_support(distribution)
            if input_shape is None and self._supports[name] is None:
                self._plain[name] = (self._channels[name], np.ones(distribution.event_shape, bool))
        channel = self._channels[name]
        if channel.input_shape != input_shape:
            raise ArgumentError(
                f"{where}: expected inputs of shape {channel.input_shape} as for its first event, given {input_shape}."
            )
        return channel

    def event(self, name: str, value: Any, inputs: Any, batch: tuple[int, ...] = ()) -> tuple[Channel, tuple]:
        """The channel, and (value, observed, inputs) as arrays with missing coordinates set to zero."""
        if inputs is None and not batch and isinstance(name, str):
            plain = self._plain.get(name)
            found = None if plain is None else _few_finite(value, plain[0].value_shape)
            if plain is not None and found is not None:
                return plain[0], (found.astype(self.system.dtype), plain[1], None)
        where = self.system.label(name)
        self.system.sensor(name)
        inputs = None if inputs is None else self._array(f"{where}, inputs", inputs, batch)
        channel = self.channel(name, None if inputs is None else inputs.shape[len(batch) :])
        value = self._array(f"{where}, value", value, batch, allow_nan=True)
        given, expected = value.shape[len(batch) :], channel.value_shape
        if given != expected and not _same_scalar(given, expected):
            raise DataError(f"{where}: expected a value of shape {expected}, given shape {given}.")
        value = value.reshape(batch + expected)
        if not is_concrete(value):
            return channel, (value, np.ones(value.shape, bool), inputs)
        observed = np.asarray(~np.isnan(value))
        self._check_missing(name, observed.reshape(-1, *expected))
        self._check_support(name, value, observed)
        return channel, (np.where(observed, value, np.zeros((), value.dtype)), observed, inputs)

    def control(self, control: Any, dt: Any, batch: tuple[int, ...] = ()) -> Any:
        """The control as an array, checked against the motion."""
        system = self.system
        where = f"move of {system.name!r}"
        if control is None:
            if system.needs_control and np.any(dt > 0.0):
                raise ArgumentError(f"{where} needs a control for a step of {float(np.max(dt)):g} s; pass control=...")
            return None
        if not system.takes_control:
            raise ArgumentError(f"{where} takes (x, dt) only, but a control was given; write it as (x, dt, u).")
        control = self._array(f"{where}, control", control, batch)
        shape = control.shape[len(batch) :]
        if self._control_shape is None:
            arguments = [jax.ShapeDtypeStruct(s, system.dtype) for s in ((system.dim,), (), shape)]
            moved = abstract_distribution(where, system.move_distribution, *arguments)
            if moved.event_shape != (system.dim,):
                raise DataError(f"{where} with a control of shape {shape} gives event shape {moved.event_shape}.")
            self._control_shape = shape
        if shape != self._control_shape:
            raise ArgumentError(f"{where}: expected a control of shape {self._control_shape}, given {shape}.")
        return control

    def log(self, log: Log) -> tuple[Channel, ...]:
        """The channels of a log's sensors, in the log's order, after checking every event."""
        channels = []
        for i, name in enumerate(log.sensors):
            where = self.system.label(name)
            rows = np.flatnonzero(log.sensor_index == i)
            self.system.sensor(name)
            channel = self.channel(name, log.input_shapes[name])
            given = log.value_shapes[name]
            if given != channel.value_shape and not _same_scalar(given, channel.value_shape):
                raise DataError(f"{where}: expected values of shape {channel.value_shape}, the log has {given}.")
            channels.append(channel)
            if not len(rows):  # a slice of a longer log in which this sensor is silent
                continue
            size = int(np.prod(channel.value_shape, dtype=int))
            values, observed = log.values[rows, :size], log.observed[rows, :size]
            self._check_missing(name, observed, rows)
            shape = (len(rows), *channel.value_shape)
            self._check_support(name, values.reshape(shape), observed.reshape(shape), rows)
        return tuple(channels)

    def _array(self, name: str, value: Any, batch: tuple[int, ...], *, allow_nan: bool = False) -> Any:
        if not is_concrete(value):
            return value
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
            raise ArgumentTypeError(f"{name}: expected real numbers, found dtype {value.dtype}.")
        array = as_floats(name, value)
        if array.shape[: len(batch)] != batch:
            raise ArgumentError(f"{name}: expected a leading axis of {batch[0]} beliefs, given shape {array.shape}.")
        bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
        if np.any(bad):
            hint = "infinite values are never accepted as missing" if allow_nan else "expected finite numbers"
            raise DataError(f"{name}: {int(bad.sum())} of {array.size} entries are not finite: {array}; {hint}.")
        return array.astype(self.system.dtype)

    def _check_missing(self, name: str, observed: np.ndarray, rows: np.ndarray | None = None) -> None:
        """`observed`: one row per event."""
        observed = observed.reshape(len(observed), -1)
        missing = np.flatnonzero(~observed.all(axis=1))
        if not len(missing):
            return
        sensor, where = self.system.sensor(name), self.system.label(name)
        first = "" if rows is None else f", the first at row {int(rows[missing[0]])} of the log"
        if not sensor.missing:
            raise DataError(
                f"{where}: {len(missing)} of {len(observed)} values are NaN{first}. If NaN marks a missing value, "
                "declare it: Sensor(..., missing='nan')."
            )
        partly = observed[missing].any(axis=1)
        if sensor.whole and np.any(partly):
            raise DataError(
                f"{where}: {int(partly.sum())} values are partly missing{first}, but this family of distributions has "
                "no exact marginals here; mark the whole value missing or use independent coordinates (.to_event)."
            )

    def _check_support(
        self, name: str, value: np.ndarray, observed: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        support = self._supports[name]
        if support is None or not value.size:
            return
        event_dim = getattr(support, "event_dim", 0)
        legal = np.asarray(support(np.where(observed, value, np.zeros((), value.dtype))))
        illegal = ~legal & observed.reshape(legal.shape) if event_dim == 0 else ~legal
        if np.any(illegal):
            index = np.argwhere(illegal)[0]
            row = f" at row {int(rows[index[0]])} of the log" if rows is not None else ""
            raise DataError(
                f"{self.system.label(name)}: {int(illegal.sum())} values are outside the support {support}, "
                f"the first is {value[tuple(index)]}{row}."
            )


def _few_finite(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """A few finite numbers of this shape as an array, by Python's own arithmetic; None for all else, faults included.

    Events come one at a time, and array functions cost a microsecond each however small the array.
    """
    if not isinstance(value, np.ndarray | float | int) or isinstance(value, bool):
        return None
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "fiu" or array.size > _FEW:
        return None
    return array if all(map(math.isfinite, array.ravel().tolist())) else None


def _same_scalar(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return {given, expected} == {(), (1,)}


def _checkable_support(distribution: dist.Distribution) -> Any:
    """The support, if it needs no parameters and rules something out elementwise; else None."""
    support = distribution.support
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    everything = (type(dist.constraints.real), type(dist.constraints.circular), type(dist.constraints.real_vector))
    if support is None or isinstance(support, everything) or getattr(support, "event_dim", 0):
        return None
    leaves = jax.tree.leaves(support)
    return support if is_concrete(leaves) and is_concrete(*vars(support).values()) else None
