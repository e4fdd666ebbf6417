"""A bootstrap filter written as a program against the hand-written one in `reference_filter.py`."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
from benchmarks.record import Row, quartiles
from benchmarks.reference_filter import filter_evidence

_THRESHOLD = 0.5


def by_program(ys: jax.Array, num_particles: int, key: jax.Array) -> Any:
    """The program's filter, lowered and not yet compiled; nothing staged earlier is used again."""

    @pi.model
    def bootstrap(ys: Any) -> None:
        def step(x: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
            x = pi.sample("x", dist.Normal(0.9 * x, 1.0))
            pi.observe("y", dist.Normal(x, 1.0), y)
            return x, None

        jax.lax.scan(step, jnp.zeros(()), ys)

    program = pi.population(bootstrap(ys), num_particles, threshold=_THRESHOLD)
    return jax.jit(lambda key: program.run(key)[0].log_evidence).lower(key)


def by_hand(ys: jax.Array, num_particles: int, key: jax.Array) -> Any:
    """The hand-written filter, lowered and not yet compiled."""
    return jax.jit(lambda key: filter_evidence(key, ys, num_particles, _THRESHOLD)).lower(key)


MAKERS = {"program": by_program, "hand": by_hand}


def _series(length: int, seed: int) -> jax.Array:
    rng = np.random.default_rng(seed)
    x, ys = 0.0, []
    for _ in range(length):
        x = 0.9 * x + rng.normal()
        ys.append(x + rng.normal())
    return jnp.array(ys)


def _ratio(what: str, size: str, found: dict[str, list[float]], target: float, details: str) -> Row:
    program, hand = (np.array(found[name]) for name in MAKERS)
    return Row(
        f"bootstrap filter as a program, {size}: {what} over the hand-written filter's",
        float(np.median(program) / np.median(hand)),
        "ratio",
        target,
        peer=f"medians {1e3 * np.median(program):.1f} and {1e3 * np.median(hand):.1f} ms; {details}",
        n=program.size,
        spread=quartiles(program / hand),
    )


def run_time(quick: bool, seed: int) -> Row:
    """Run times turn by turn, medians; the evidence estimates show that both do the same work."""
    length, num_particles, num_runs = (200, 200, 5) if quick else (1000, 1000, 25)
    ys, key = _series(length, seed), jax.random.key(seed)
    compiled = {name: make(ys, num_particles, key).compile() for name, make in MAKERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in MAKERS}
    log_z: dict[str, list[float]] = {name: [] for name in MAKERS}
    for k in range(num_runs + 2):
        for name, function in compiled.items():
            begin = time.perf_counter()
            value = float(function(jax.random.fold_in(key, k)))
            if k >= 2:
                seconds[name].append(time.perf_counter() - begin)
                log_z[name].append(value)
    details = f"log evidence {np.mean(log_z['program']):.2f} and {np.mean(log_z['hand']):.2f}"
    return _ratio("run time", f"T = {length}, N = {num_particles}", seconds, 1.25, details)


def compile_time(quick: bool, seed: int) -> Row:
    """Times of staging, lowering and compiling with all caches cleared, turn by turn, medians."""
    length, num_particles, num_turns = (200, 200, 2) if quick else (1000, 1000, 15)
    ys, key = _series(length, seed), jax.random.key(seed)
    seconds: dict[str, list[float]] = {name: [] for name in MAKERS}
    for k in range(num_turns + 1):
        for name, make in MAKERS.items():
            jax.clear_caches()
            begin = time.perf_counter()
            make(ys, num_particles, key).compile()
            if k:  # the first turn pays for imports
                seconds[name].append(time.perf_counter() - begin)
    details = "staging, lowering and compiling, caches cleared"
    return _ratio("compile time", f"T = {length}, N = {num_particles}", seconds, 1.5, details)
