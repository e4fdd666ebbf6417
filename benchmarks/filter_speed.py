"""A bootstrap filter written as a program against the hand-written one in `reference_filter.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
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


def filter_speed(quick: bool, seed: int) -> Iterator[Row]:
    """Ratios of run time and of compile time (staging, lowering, compiling), turn by turn, medians."""
    length, num_particles, num_runs, num_compilations = (200, 200, 5, 2) if quick else (1000, 1000, 25, 15)
    rng = np.random.default_rng(seed)
    x, ys = 0.0, []
    for _ in range(length):
        x = 0.9 * x + rng.normal()
        ys.append(x + rng.normal())
    ys, key = jnp.array(ys), jax.random.key(seed)
    makers = {"program": by_program, "hand": by_hand}
    compile_s: dict[str, list[float]] = {name: [] for name in makers}
    compiled = {}
    for k in range(num_compilations + 1):
        for name, make in makers.items():
            jax.clear_caches()
            begin = time.perf_counter()
            compiled[name] = make(ys, num_particles, key).compile()
            if k:  # the first turn pays for imports
                compile_s[name].append(time.perf_counter() - begin)
    run_s: dict[str, list[float]] = {name: [] for name in makers}
    log_z: dict[str, list[float]] = {name: [] for name in makers}
    for k in range(num_runs + 2):
        for name, function in compiled.items():
            begin = time.perf_counter()
            value = float(function(jax.random.fold_in(key, k)))
            if k >= 2:
                run_s[name].append(time.perf_counter() - begin)
                log_z[name].append(value)
    exact = f"log evidence {np.mean(log_z['program']):.2f} and {np.mean(log_z['hand']):.2f}"
    size = f"bootstrap filter as a program, T = {length}, N = {num_particles}"
    for what, found, target, extra in (
        ("run time", run_s, 1.25, exact),
        ("compile time", compile_s, 1.5, "staging, lowering and compiling, caches cleared"),
    ):
        program, hand = (np.array(found[name]) for name in ("program", "hand"))
        yield Row(
            f"{size}: {what} over the hand-written filter's",
            float(np.median(program) / np.median(hand)),
            "ratio",
            target,
            peer=f"medians {1e3 * np.median(program):.1f} and {1e3 * np.median(hand):.1f} ms; {extra}",
            n=program.size,
            spread=quartiles(program / hand),
        )
