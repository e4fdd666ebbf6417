"""A log: time-stamped events of named sensors, in order, as padded arrays that one compiled scan can run over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, UnknownNameError
from probinf.streaming.columns import as_floats, check_finite


class Event(NamedTuple):
    """One event.

    Attributes:
        time: seconds.
        sensor: its name; None for a row that only moves the clock (and brings a control).
        value: array of the sensor's value shape, NaN where missing; None without a sensor.
        inputs: what the sensor function takes beside the state, or None.
        control: what `move` takes for the interval that ends at this event, or None.
    """

    time: float
    sensor: str | None
    value: Any = None
    inputs: Any = None
    control: Any = None


class Log:
    """Events sorted by time (ties keep the order in which they were given).

    `Log(source)` takes

    - a dictionary: sensor name to `(times, values)`, `(times, values, inputs)` or a dictionary of these names;
    - a list of tuples `(time, sensor, value[, inputs[, control]])`;
    - a data frame with columns `time`, `sensor`, `value` (see `from_frame` for other forms).

    Attributes:
        times: seconds, float64, shape (n,).
        sensors: names of the sensors that occur.
        sensor_index: position in `sensors` of each event's sensor, shape (n,); -1 for rows without a sensor.
        values: values flattened and padded with zeros, shape (n, max_value_dim); NaN where missing.
        observed: False where a value is missing or is padding, shape (n, max_value_dim).
        inputs: inputs flattened and padded with zeros, shape (n, max_input_dim).
        controls: shape (n, *control_shape), or None. `controls[k]` belongs to the interval from event k - 1 to event k.
        value_shapes, input_shapes: per sensor; the input shape is None for sensors without inputs.
    """

    times: np.ndarray
    sensors: tuple[str, ...]
    sensor_index: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    inputs: np.ndarray
    controls: np.ndarray | None
    value_shapes: dict[str, tuple[int, ...]]
    input_shapes: dict[str, tuple[int, ...] | None]

    def __init__(self, source: Any) -> None:
        if isinstance(source, Log):
            self.__dict__.update(source.__dict__)
        elif hasattr(source, "columns") and hasattr(source, "__getitem__"):
            self.__dict__.update(Log.from_frame(source).__dict__)
        elif isinstance(source, Mapping):
            self._assemble(*_blocks_of_mapping(source))
        elif isinstance(source, Iterable) and not isinstance(source, str | bytes | np.ndarray):
            self._assemble(*_blocks_of_events(source))
        else:
            raise ArgumentTypeError(
                "Log: expected a dictionary of sensors, a list of (time, sensor, value) tuples or a data frame, "
                f"found {type(source).__name__}."
            )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        time: str = "time",
        sensor: str = "sensor",
        value: str | Sequence[str] = "value",
        inputs: str | Sequence[str] | None = None,
    ) -> Log:
        """A log from a data frame (anything with `columns` and `frame[column]`).

        Args:
            frame: one row per event.
            time: name of the column of times, seconds.
            sensor: name of the column of sensor names; if there is no such column, the name of the one sensor.
            value: one column for scalar values, a list of columns for vectors.
            inputs: likewise.
        """
        columns = list(frame.columns)
        wanted = [time, *_names(value), *([] if inputs is None else _names(inputs))]
        for column in wanted:
            if column not in columns:
                raise UnknownNameError(column, map(str, columns), "column", "the frame")
        times = as_floats(f"column {time!r}", frame[time])
        values = _stack(frame, value)
        extra = None if inputs is None else _stack(frame, inputs)
        if sensor not in columns:
            names = np.full(len(times), sensor, object)
        else:
            names = np.asarray(frame[sensor], object)
        blocks = {}
        for name in dict.fromkeys(names):
            rows = np.flatnonzero(names == name)
            blocks[_sensor_name(name)] = (
                times[rows],
                values[rows],
                None if extra is None else extra[rows],
                rows,
            )
        log = object.__new__(cls)
        log._assemble(blocks, None)
        return log

    @classmethod
    def merge(cls, *logs: Log) -> Log:
        """All events of several logs; at equal times those of earlier logs come first."""
        return cls([event for log in logs for event in log])

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[Event]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | np.ndarray) -> Any:
        """One `Event`, or the log of a slice or an index array."""
        if isinstance(index, slice | np.ndarray):
            return self._take(np.arange(len(self))[index])
        i = range(len(self))[index]
        control = None if self.controls is None else self.controls[i]
        if self.sensor_index[i] < 0:
            return Event(float(self.times[i]), None, None, None, control)
        name = self.sensors[self.sensor_index[i]]
        shape, input_shape = self.value_shapes[name], self.input_shapes[name]
        value = self.values[i, : _size(shape)].reshape(shape)
        inputs = None if input_shape is None else self.inputs[i, : _size(input_shape)].reshape(input_shape)
        return Event(float(self.times[i]), name, value, inputs, control)

    def between(self, start: float, end: float) -> Log:
        """The events with start <= time < end."""
        first, last = np.searchsorted(self.times, [start, end], side="left")
        return self[int(first) : int(last)]

    def select(self, *sensors: str) -> Log:
        """The events of these sensors only."""
        for name in sensors:
            if name not in self.sensors:
                raise UnknownNameError(name, self.sensors, "sensor", "the log")
        wanted = [self.sensors.index(name) for name in sensors]
        return self._take(np.flatnonzero(np.isin(self.sensor_index, wanted)))

    def dt(self, t0: float | None = None) -> np.ndarray:
        """Seconds from the previous event (from `t0` for the first), float64, shape (n,)."""
        if len(self) == 0:
            return np.zeros(0)
        start = self.times[0] if t0 is None else float(t0)
        if not start <= self.times[0]:
            raise ArgumentError(f"t0: {start:g} s is after the first event, at {self.times[0]:g} s.")
        return np.diff(self.times, prepend=start)

    @property
    def sensor_names(self) -> np.ndarray:
        """Sensor of every event, shape (n,), None for rows without."""
        table = np.array([*self.sensors, None], object)
        return table[self.sensor_index]

    def __repr__(self) -> str:
        if len(self) == 0:
            return "Log(0 events)"
        counts = ", ".join(f"{name}: {int(np.sum(self.sensor_index == i))}" for i, name in enumerate(self.sensors))
        return f"Log({len(self)} events from {self.times[0]:g} s to {self.times[-1]:g} s; {counts})"

    def _take(self, rows: np.ndarray) -> Log:
        log = object.__new__(Log)
        log.__dict__.update(self.__dict__)
        for name in ("times", "sensor_index", "values", "observed", "inputs"):
            setattr(log, name, getattr(self, name)[rows])
        log.controls = None if self.controls is None else self.controls[rows]
        return log

    def _assemble(self, blocks: dict[str | None, tuple], controls: np.ndarray | None) -> None:
        """Fill the arrays from `(times, values, inputs, row numbers)` per sensor."""
        named = {name: block for name, block in blocks.items() if name is not None}
        for name, block in blocks.items():
            _check_block(name, block)
        self.sensors = tuple(named)
        self.value_shapes = {name: block[1].shape[1:] for name, block in named.items()}
        self.input_shapes = {name: None if block[2] is None else block[2].shape[1:] for name, block in named.items()}
        n = sum(len(block[0]) for block in blocks.values())
        width = max((_size(s) for s in self.value_shapes.values()), default=0)
        extra = max((_size(s) for s in self.input_shapes.values() if s is not None), default=0)
        times, index = np.zeros(n), np.full(n, -1, np.int32)
        values, inputs = np.zeros((n, width)), np.zeros((n, extra))
        observed = np.zeros((n, width), bool)
        for name, (block_times, block_values, block_inputs, rows) in blocks.items():
            times[rows] = block_times
            if name is None:
                continue
            flat = block_values.reshape(len(rows), -1)
            index[rows] = self.sensors.index(name)
            values[rows, : flat.shape[1]] = flat
            observed[rows, : flat.shape[1]] = ~np.isnan(flat)
            if block_inputs is not None:
                flat = block_inputs.reshape(len(rows), -1)
                inputs[rows, : flat.shape[1]] = flat
        order = np.argsort(times, kind="stable")
        self.times, self.sensor_index = times[order], index[order]
        self.values, self.observed, self.inputs = values[order], observed[order], inputs[order]
        self.controls = None if controls is None else controls[order]


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=int))


def _names(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _stack(frame: Any, columns: str | Sequence[str]) -> np.ndarray:
    if isinstance(columns, str):
        return as_floats(f"column {columns!r}", frame[columns])
    return np.stack([as_floats(f"column {c!r}", frame[c]) for c in columns], axis=1)


def _sensor_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"Log: a sensor name must be a string, found {name!r}.")
    return name


def _check_block(name: str | None, block: tuple) -> None:
    times, values, inputs, _ = block
    label = "rows without a sensor" if name is None else f"sensor {name!r}"
    if times.ndim != 1:
        raise DataError(f"{label}: expected times of shape (n,), found {times.shape}.")
    check_finite(f"{label}, times", times)
    if name is None:
        return
    if values.shape[:1] != times.shape:
        raise DataError(f"{label}: {len(times)} times but values of shape {values.shape}.")
    check_finite(f"{label}, values", values, allow_nan=True)
    if inputs is not None:
        if inputs.shape[:1] != times.shape:
            raise DataError(f"{label}: {len(times)} times but inputs of shape {inputs.shape}.")
        check_finite(f"{label}, inputs", inputs)


def _blocks_of_mapping(source: Mapping) -> tuple[dict, None]:
    blocks, start = {}, 0
    for name, entry in source.items():
        name = _sensor_name(name)
        if isinstance(entry, Mapping):
            unknown = set(entry) - {"times", "values", "inputs"}
            if unknown or not {"times", "values"} <= set(entry):
                raise ArgumentError(
                    f"sensor {name!r}: expected 'times', 'values' and perhaps 'inputs', found {list(entry)}."
                )
            entry = (entry["times"], entry["values"], entry.get("inputs"))
        if not isinstance(entry, tuple | list) or len(entry) not in (2, 3):
            raise ArgumentTypeError(f"sensor {name!r}: expected (times, values) or (times, values, inputs).")
        times, values = as_floats(f"sensor {name!r}, times", entry[0]), as_floats(f"sensor {name!r}, values", entry[1])
        inputs = None
        if len(entry) == 3 and entry[2] is not None:
            inputs = as_floats(f"sensor {name!r}, inputs", entry[2])
        rows = np.arange(start, start + np.size(times))
        start += np.size(times)
        blocks[name] = (times, values, inputs, rows)
    return blocks, None


def _blocks_of_events(source: Iterable) -> tuple[dict, np.ndarray | None]:
    events = []
    for i, row in enumerate(source):
        if not isinstance(row, tuple | list) or not 2 <= len(row) <= 5:
            raise ArgumentTypeError(
                f"Log: event {i} is not a tuple (time, sensor, value[, inputs[, control]]): {row!r}."
            )
        events.append(Event(*row))
    groups: dict[str | None, list[int]] = {}
    for i, event in enumerate(events):
        groups.setdefault(None if event.sensor is None else _sensor_name(event.sensor), []).append(i)
    blocks = {}
    for name, rows in groups.items():
        label = "rows without a sensor" if name is None else f"sensor {name!r}"
        times = as_floats(f"{label}, times", [events[i].time for i in rows])
        values = inputs = None
        if name is not None:
            values = _column(f"{label}, values", [events[i].value for i in rows])
            given = [events[i].inputs for i in rows]
            if any(g is not None for g in given):
                inputs = _column(f"{label}, inputs", given)
        blocks[name] = (times, values, inputs, np.asarray(rows))
    controls = [event.control for event in events]
    if all(control is None for control in controls):
        return blocks, None
    stacked = _column("controls", controls)
    check_finite("controls", stacked)
    return blocks, stacked


def _column(label: str, entries: list) -> np.ndarray:
    """Entries of one shape, stacked; the first that differs is named."""
    missing = [i for i, entry in enumerate(entries) if entry is None]
    if missing:
        raise DataError(f"{label}: event {missing[0]} of its kind has none; mark missing values with NaN.")
    arrays = [as_floats(label, entry) for entry in entries]
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DataError(f"{label}: event {i} of its kind has shape {array.shape}, the first {arrays[0].shape}.")
    return np.stack(arrays)
