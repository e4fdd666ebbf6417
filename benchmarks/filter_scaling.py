"""How the particle filter's time grows with particles, steps and state dimension; `benchmarks.smc_page` draws it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.filter_memory import GENERATORS, compiled
from benchmarks.record import Row, quartiles

# What grows, its values, and (N, T, d) as a function of it.
_AXES = {
    "N": ((100, 1000, 10_000, 100_000, 1_000_000), lambda n: (n, max(10, min(1000, 2_000_000 // n)), 1)),
    "T": ((100, 300, 1000, 3000), lambda t: (1000, t, 1)),
    "d": ((1, 2, 4, 8, 16, 32), lambda d: (5000, 100, d)),
}
_QUICK = {"N": (100, 1000, 10_000), "T": (100, 300), "d": (1, 4)}
# The exponent is fitted above these values: below them the cost of starting operations shows, not their work.
_FITTED_FROM = {"N": 10_000, "T": 100, "d": 4}
_UNITS = {"N": "ns a particle-step", "T": "us a step", "d": "ns a particle-step and coordinate"}


def claim(axis: str, value: int, generator: str) -> str:
    """The name of one point's row, by which the page finds it."""
    return f"particle filter, {generator}, time as {axis} grows, {axis} = {value}"


def seconds(num: int, length: int, dim: int, generator: str, num_runs: int) -> np.ndarray:
    """Wall seconds of runs of the compiled filter; the first is thrown away."""
    program, (persistence, ys, key) = compiled(num, dim, length, GENERATORS[generator](0))
    found = []
    for k in range(num_runs + 1):
        begin = time.perf_counter()
        jax.block_until_ready(program(persistence, ys, jax.random.fold_in(key, k)))
        found.append(time.perf_counter() - begin)
    return np.array(found[1:])


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """A shown row for each point, and the exponent of the time in N, T and d."""
    del seed  # the time does not depend on the data
    num_runs = 3 if quick else 7
    for axis, (values, sizes) in _AXES.items():
        values = _QUICK[axis] if quick else values
        for generator in GENERATORS:
            times = []
            for value in values:
                num, length, dim = sizes(value)
                # By what it should be proportional to: a line that stays level is a linear cost.
                units = {"N": num * length * 1e-9, "T": length * 1e-6, "d": num * length * dim * 1e-9}[axis]
                found = seconds(num, length, dim, generator, num_runs)
                times.append(np.median(found) / (length if axis != "T" else 1))
                yield Row(
                    claim(axis, value, generator),
                    float(np.median(found) / units),
                    _UNITS[axis],
                    None,
                    peer=f"N = {num}, T = {length}, d = {dim}; {1e3 * np.median(found):.3g} ms a run",
                    n=num_runs,
                    spread=quartiles(found / units),
                )
            fitted = [k for k, value in enumerate(values) if value >= _FITTED_FROM[axis]]
            if len(fitted) < 2:
                fitted = list(range(len(values)))
            x, y = np.log([values[k] for k in fitted]), np.log([times[k] for k in fitted])
            yield Row(
                f"particle filter, {generator}: exponent of the time in {axis}, {values[fitted[0]]} to {values[-1]}",
                float(np.polyfit(x, y, 1)[0]),
                "exponent",
                1.1,
                n=len(fitted),
            )
