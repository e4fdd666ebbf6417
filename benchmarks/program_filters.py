"""A bootstrap filter written as a program beside `smc.particle_filter` on the same model: what the language costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from benchmarks.filter_peers import MODELS
from benchmarks.record import Row, quartiles
from smc.pipeline import recorded
from smc.smoothing.method import take_particles, trace_back

_LENGTH, _THRESHOLD = 1000, 0.5
_TARGETS = {False: 1.15, True: 1.25}


@pi.model
def linear_gaussian(ys: jax.Array, persistence: Any) -> None:
    """The linear-Gaussian model of `MODELS`."""

    x = pi.sample("x0", dist.Normal(0.0, 1.0))
    pi.observe("y0", dist.Normal(x, 1.0), ys[0])

    def step(x: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        x = pi.sample("x", dist.Normal(persistence * x, 1.0))
        pi.observe("y", dist.Normal(x, 1.0), y)
        return x, None

    jax.lax.scan(step, x, ys[1:])


def as_program(ys: jax.Array, num: int, *, history: bool) -> Callable[[int], float]:
    """A function of a seed; with `history` the paths of all particles come out too."""
    model = linear_gaussian(ys, jnp.float32(0.9))
    program = pi.population(recorded(model) if history else model, num, threshold=_THRESHOLD)

    @jax.jit
    def run(key: jax.Array) -> Any:
        found, _ = program.run(key)
        return found if history else found.log_evidence

    return _function(run, lambda found: found.log_evidence if history else found)


def as_state_space(ys: jax.Array, num: int, *, history: bool) -> Callable[[int], float]:
    """A function of a seed; with `history` the paths of all particles come out too, traced back through the history."""
    model = MODELS["linear-Gaussian"]

    @jax.jit
    def run(key: jax.Array) -> Any:
        found = smc.particle_filter(
            model, ys, key, num_particles=num, threshold=_THRESHOLD, moments=False, history=history
        )
        if not history:
            return found.log_evidence
        return found, take_particles(found.history, trace_back(found.history, jnp.arange(num, dtype=jnp.int32)))

    return _function(run, lambda found: found[0].log_evidence if history else found)


def _function(run: Callable[[jax.Array], Any], evidence: Callable[[Any], Any]) -> Callable[[int], float]:
    return lambda seed: float(evidence(jax.block_until_ready(run(jax.random.key(seed)))))


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """Ratios of wall times, turn by turn."""
    length, runs = (100, 3) if quick else (_LENGTH, 25)
    _, ys = MODELS["linear-Gaussian"].simulate(seed, length)
    for num in (100, 1000) if quick else (100, 1000, 10_000):
        for history, target in _TARGETS.items():
            if history and num > 1000:
                continue
            cases = {"program": as_program(ys, num, history=history), "model": as_state_space(ys, num, history=history)}
            taken: dict[str, list[float]] = {name: [] for name in cases}
            found: dict[str, list[float]] = {name: [] for name in cases}
            for k in range(runs + 2):
                for name, run in cases.items():
                    begin = time.perf_counter()
                    value = run(seed + k)
                    if k >= 2:
                        taken[name].append(time.perf_counter() - begin)
                        found[name].append(value)
            ours, theirs = (np.array(taken[name]) for name in cases)
            kept = "with the paths of all particles" if history else "without histories"
            yield Row(
                f"bootstrap filter as a program, linear-Gaussian, T = {length}, N = {num}, {kept}: wall time over the "
                "state-space path's",
                float(np.median(ours) / np.median(theirs)),
                "ratio",
                target,
                peer=f"{1e3 * np.median(ours):.3g} and {1e3 * np.median(theirs):.3g} ms; log evidence "
                f"{np.mean(found['program']):.2f} and {np.mean(found['model']):.2f}",
                n=runs,
                spread=quartiles(ours / theirs),
            )
