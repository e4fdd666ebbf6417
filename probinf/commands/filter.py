"""Filter time-stamped measurements of a system in a file.

A belief comes out after each. The model is a `pi.System`, a function that returns one, or a
`pi.Filter`. The measurements are CSV with the columns `time` (seconds) and `value`, or
`value[0]`, `value[1]`, ...; `sensor` where the system has several; `input...` and `control...`
where sensors and motion take them. Trailing empty cells are left out; an empty sensor moves the
clock only. From standard input one line comes out for each line that goes in, at once. A bad row
ends the run with its number; what came before it stays.

Example:
  probinf filter model.py:boat --data log.csv --method particle --set num_particles=10000 --out beliefs.csv
  tail -f log.csv | probinf filter model.py:boat --method ekf
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probinf.commands.shared import model_file, settings, table
from probinf.commands.shared.result import check_writable
from probinf.entry_points import entry_points
from probinf.errors import ArgumentError, DataError, InferenceError, ProbinfError, UnknownNameError

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter
    from probinf.streaming.stream_belief import StreamBelief

_NUM_PARTICLES = 1000  # of the default method


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf filter`."""
    names = ", ".join(entry_points(settings.FILTERS))
    parser.add_argument("model", metavar="FILE.py:NAME", help="the file, and the name of the system in it")
    parser.add_argument("--data", default="-", metavar="CSV", help="measurements; - (default) is standard input")
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the function NAME"
    )
    parser.add_argument(
        "--method", metavar="METHOD", help=f"{names} (default particle, with {_NUM_PARTICLES} particles)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method; may be repeated"
    )
    parser.add_argument("--lag", type=float, default=0.0, help="seconds by which a measurement may come late")
    parser.add_argument("--t0", type=float, help="time of the prior (default: of the first measurement)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same beliefs (default 0)")
    parser.add_argument("--out", default="-", metavar="CSV", help="beliefs; - (default) is standard output")


def run(args: argparse.Namespace) -> int:
    """Filter row by row."""
    if args.out != "-":
        check_writable(args.out)
        if args.data != "-" and Path(args.out).exists() and Path(args.out).samefile(args.data):
            raise ArgumentError(f"--out: {args.out} holds the measurements; name another file.")
    filter = made(args)
    with contextlib.ExitStack() as stack:
        source: Any = sys.stdin
        if args.data != "-":
            source = stack.enter_context(open(args.data, encoding="utf-8-sig", newline=""))
        target: Any = sys.stdout if args.out == "-" else stack.enter_context(open(args.out, "w", newline=""))
        name = "standard input" if args.data == "-" else args.data
        write(target, beliefs(filter, events(source, name), args.seed, args.t0), filter.system.dim)
    return 0


def made(args: argparse.Namespace) -> Filter:
    """The filter of a model file.

    Raises:
        ArgumentError: the model is not a system, or has a method of its own and another is asked for.
    """
    from probinf.streaming.filter import Filter
    from probinf.streaming.system import System

    given = settings.pairs("--set", args.set)
    found = model_file.load(args.model)
    value, extra = found.value, settings.pairs("--arg", args.arg)
    if callable(value):
        known, needed = model_file.arguments_of(value)
        for name in extra:
            if name not in known:
                raise UnknownNameError(name, known, "argument", f"{found.name!r}")
        missing = [name for name in needed if name not in extra]
        if missing:
            raise ArgumentError(f"--arg: {found.name!r} needs {', '.join(f'{name}=VALUE' for name in missing)}.")
        model_file.check_kinds(found, extra)
        with model_file.blamed(found.path):
            value = value(**extra)
    elif extra:
        raise ArgumentError(f"--arg: {found.name!r} is no function, so it takes no arguments.")
    if isinstance(value, Filter):
        if args.method or given:
            raise ArgumentError(f"--method: {found.name!r} is a filter with a method of its own; leave it out.")
        return value
    if not isinstance(value, System):
        raise ArgumentError(
            f"model: {found.name!r} gives {type(value).__name__}; expected a pi.System, a function that returns one, "
            "or a pi.Filter. For the posterior of a @pi.model use probinf infer."
        )
    name = args.method or "particle"
    if name == "particle":
        given = {"num_particles": _NUM_PARTICLES} | given
    return Filter(value, settings.method(settings.FILTERS, name, given), lag=args.lag)


class Row(NamedTuple):
    """One measurement as text.

    Attributes:
        place: where it stands, for messages.
        time: seconds.
        sensor: its name, empty for none, or None without such a column.
        value, inputs, control: cells.
    """

    place: str
    time: str
    sensor: str | None
    value: list[str]
    inputs: list[str]
    control: list[str]


def events(lines: io.TextIOBase, path: str) -> Iterator[Row]:
    """The rows of a stream of lines, each as soon as it is there.

    Raises:
        DataError: a column is missing or unknown, or a row has another length.
    """
    first = lines.readline()
    sign = table.separator(first)
    names = table.check_header(path, next(csv.reader([first], delimiter=sign), []))
    places = {kind: [i for i, n in enumerate(names) if _kind(n) == kind] for kind in ("value", "input", "control")}
    unknown = [n for n in names if n not in ("time", "sensor") and _kind(n) is None]
    lacking = [*([] if "time" in names else ["time"]), *([] if places["value"] else ["value"])]
    if lacking and any(map(table.is_number, unknown)):
        raise table.headless(path, names)
    if unknown or lacking:
        what = [f"no column {n!r}" for n in lacking] + [f"unknown column {n!r}" for n in unknown]
        raise DataError(
            f"{path}: {', '.join(what)}. Expected the columns time, value or value[0], value[1], ..., and perhaps "
            f"sensor, input..., control...; found {', '.join(names)}. Leave other columns out or rename them."
        )
    rows = csv.reader(iter(lines.readline, ""), delimiter=sign)
    number = 0
    for cells in rows:
        if not cells:
            continue
        number += 1
        where = table.place(path, number, rows.line_num + 1)
        if len(cells) != len(names):
            raise DataError(f"{where}: {len(cells)} cells, expected {len(names)} as in the header.")
        yield Row(
            where,
            cells[names.index("time")],
            cells[names.index("sensor")].strip() if "sensor" in names else None,
            *([cells[i] for i in places[kind]] for kind in ("value", "input", "control")),
        )
    if not number:
        raise DataError(f"{path}: a header and no rows.")


def beliefs(
    filter: Filter, rows: Iterator[Row], seed: int, t0: float | None
) -> Iterator[tuple[Row, str, StreamBelief | None]]:
    """The belief after each row, with the row's time and sensor; an error names its row."""
    sizes: dict[Any, tuple[int, ...]] = {}
    sensors = filter.system.sensors
    belief = None
    for row in rows:
        try:
            time = float(_numbers("time", [row.time], 1)[0])
            name = row.sensor
            if name is None:
                if len(sensors) > 1:
                    raise DataError(f"a column 'sensor' is needed: the system has {', '.join(sensors)}.")
                name = next(iter(sensors))
            if belief is None:
                belief = filter.start(seed, time if t0 is None else t0)
            control = _filled("control", row.control)
            if not name:
                belief = filter.predict(belief, time, control)
            else:
                inputs = _filled("input", row.inputs)
                value = _value(filter, name, row.value, inputs, sizes)
                belief, _ = filter.update(belief, time, name, value, inputs, control)
        except InferenceError as error:
            raise InferenceError(f"{row.place}: {error}") from error
        except ProbinfError as error:
            raise DataError(f"{row.place}: {error}") from error
        yield row, name, belief


def write(target: io.TextIOBase, found: Iterator[tuple[Row, str, Any]], dim: int) -> None:
    """A line for each belief, written at once: time, sensor, means, standard deviations, log evidence so far (nats)."""
    lines = csv.writer(target, lineterminator="\n")
    entries = range(dim)
    lines.writerow(["time", "sensor", *(f"mean[{i}]" for i in entries), *(f"sd[{i}]" for i in entries), "log_evidence"])
    target.flush()
    for row, sensor, belief in found:
        sd = np.sqrt(np.diagonal(np.asarray(belief.cov)))
        numbers = [*np.asarray(belief.mean), *sd, belief.log_evidence]
        lines.writerow([row.time.strip(), sensor, *(f"{float(x):.9g}" for x in numbers)])
        target.flush()


def _value(
    filter: Filter, sensor: str, cells: Sequence[str], inputs: np.ndarray | None, sizes: dict[Any, tuple[int, ...]]
) -> np.ndarray:
    """The value in the sensor's shape: the first cells; an empty one among them is missing."""
    key = (sensor, None if inputs is None else inputs.shape)
    if key not in sizes:
        sizes[key] = tuple(filter.system.describe_sensor(sensor, key[1]).event_shape)
    size = int(np.prod(sizes[key], dtype=int))
    return _numbers("value", cells, size).reshape(sizes[key])


def _filled(what: str, cells: Sequence[str]) -> np.ndarray | None:
    """Cells without the empty ones at the end; None where all are empty."""
    size = max((i + 1 for i, cell in enumerate(cells) if cell.strip()), default=0)
    return _numbers(what, cells, size) if size else None


def _numbers(what: str, cells: Sequence[str], size: int) -> np.ndarray:
    if len(cells) < size or any(cell.strip() for cell in cells[size:]):
        raise DataError(f"{what}: expected {size} number(s), found {', '.join(map(repr, cells))}.")
    try:
        return np.array([table.number(cell) for cell in cells[:size]])
    except ValueError:
        raise DataError(f"{what}: expected numbers, found {', '.join(map(repr, cells[:size]))}.") from None


def _kind(name: str) -> str | None:
    return next((kind for kind in ("value", "input", "control") if name.startswith(kind)), None)
