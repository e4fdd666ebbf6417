"""Resampling alone: time per particle of every scheme, against BlackJAX, against one lane, and against memory.

Every scheme runs inside a compiled loop whose turns depend on each other, so that calls and hoisting play no part.
Times are taken turn by turn, all contestants in each turn, and are CPU seconds of all threads, except the bound set by
memory, which is wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Row, quartiles
from probinf.transformations.resampling import SCHEMES
from probinf.transformations.running import prefix_sum

Resample = Callable[[Any, Any], Any]


def _looped(resample: Resample, turns: int) -> Callable[[Any, Any], Any]:
    """`turns` resamplings of (randomness, log weights), each fed with the ancestors of the one before."""

    def turn(_: Any, carry: tuple) -> tuple:
        randomness, log_weights = carry
        ancestors = resample(randomness, log_weights)
        return randomness, log_weights + 1e-9 * ancestors.astype(jnp.float32)

    return jax.jit(lambda randomness, lw: jax.lax.fori_loop(0, turns, turn, (randomness, lw)))


def _interleaved(cases: dict[str, Callable[[], Any]], runs: int, clock: Callable[[], float]) -> dict[str, np.ndarray]:
    """Seconds of each case, turn by turn, after one turn that compiles."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for k in range(runs + 1):
        for name, case in cases.items():
            begin = clock()
            jax.block_until_ready(case())
            if k:
                found[name].append(clock() - begin)
    return {name: np.array(seconds) for name, seconds in found.items()}


def _halves(size: int, rng: np.random.Generator, lanes: int | None = None) -> dict[str, tuple[Resample, tuple]]:
    """The deterministic half of each scheme, with uniform numbers and log weights."""
    shape = () if lanes is None else (lanes,)
    log_weights = jnp.asarray(rng.normal(0, 1, (*shape, size)), jnp.float32)
    found = {}
    for name, law in SCHEMES.items():
        one = law(jnp.zeros(size, jnp.float32), size)
        uniforms = jnp.asarray(rng.random((*shape, *one.num_uniforms())), jnp.float32)
        half = one.from_uniforms if lanes is None else jax.vmap(one.from_uniforms)
        found[name] = (half, (uniforms, log_weights))
    return found


def _blackjax(size: int) -> Resample:
    from blackjax.smc.resampling import systematic

    def resample(key: Any, log_weights: Any) -> Any:
        return systematic(key, jax.nn.softmax(log_weights), size)

    return resample


def per_element(quick: bool, seed: int) -> list[Row]:
    """Nanoseconds a particle of every scheme without its random numbers, and systematic over BlackJAX's."""
    rows = []
    for size in (1_000,) if quick else (10_000, 1_000_000):
        turns, runs = max(1, 1_000_000 // size), 3 if quick else 9
        halves = _halves(size, np.random.default_rng(seed))
        cases = {}
        for name, (half, arguments) in halves.items():
            run = _looped(half, turns)
            cases[name] = lambda run=run, a=arguments: run(*a)
        peer = _looped(_blackjax(size), turns)
        key, log_weights = jax.random.key(seed), halves["systematic"][1][1]
        cases["blackjax"] = lambda peer=peer, key=key, lw=log_weights: peer(key, lw)
        seconds = _interleaved(cases, runs, time.process_time)
        ns = {name: 1e9 * s / (turns * size) for name, s in seconds.items()}
        for name in SCHEMES:
            target = 8.0 if name == "systematic" else None
            rows.append(
                Row(
                    f"{name} resampling, N = {size:,}, float32, in a loop",
                    float(np.median(ns[name])),
                    "ns per particle",
                    target,
                    peer="CPU time, without the random numbers",
                    n=runs,
                    spread=quartiles(ns[name]),
                )
            )
        ratio = ns["blackjax"] / ns["systematic"]
        rows.append(
            Row(
                f"systematic resampling, N = {size:,}: BlackJAX's time over ours",
                float(np.median(ns["blackjax"]) / np.median(ns["systematic"])),
                "ratio",
                2.0,
                better="higher",
                peer=f"blackjax {np.median(ns['blackjax']):.1f} ns per particle, softmax and one uniform included",
                n=runs,
                spread=quartiles(ratio),
            )
        )
    return rows


def in_lanes(quick: bool, seed: int) -> list[Row]:
    """Systematic resampling of 8 lanes under `vmap`: time per lane over that of one lane alone."""
    lanes, rows = 8, []
    for size in (1_000,) if quick else (1_000, 10_000):
        turns, runs = max(1, 500_000 // size), 3 if quick else 9
        rng = np.random.default_rng(seed)
        (one, alone), (many, together) = (_halves(size, rng, k)["systematic"] for k in (None, lanes))
        single, batch = _looped(one, turns), _looped(many, turns)
        cases = {"one": lambda s=single, a=alone: s(*a), "lanes": lambda b=batch, a=together: b(*a)}
        seconds = _interleaved(cases, runs, time.process_time)
        per_lane = seconds["lanes"] / lanes
        rows.append(
            Row(
                f"systematic resampling of {lanes} lanes, N = {size:,}: time per lane over one lane alone",
                float(np.median(per_lane) / np.median(seconds["one"])),
                "ratio",
                1.0,
                peer=f"one lane alone {1e9 * np.median(seconds['one']) / (turns * size):.1f} ns per particle, CPU time",
                n=runs,
                spread=quartiles(per_lane / seconds["one"]),
            )
        )
    return rows


def against_memory(quick: bool, seed: int) -> list[Row]:
    """Systematic resampling and the gather of 4 float32 states, against the time to move the bytes that it must move.

    The arrays that have to be read or written: log weights twice (maximum, then weights), cumulative weights and
    ancestors written and read, states read and written. The bound is that many bytes at the speed of a copy, measured
    in the same run.
    """
    size, runs, width, turns = (100_000, 3, 4, 10) if quick else (1_000_000, 15, 4, 10)
    rng = np.random.default_rng(seed)
    log_weights = jnp.asarray(rng.normal(0, 1, size), jnp.float32)
    states = jnp.asarray(rng.normal(size=(size, width)), jnp.float32)
    law = SCHEMES["systematic"](log_weights, size)

    def turn(_: Any, carry: tuple) -> tuple:
        u, lw, x = carry
        ancestors = law.from_uniforms(u, lw)
        x = jnp.take(x, ancestors, axis=0, mode="clip")
        return u, lw + 1e-9 * x[:, 0], x

    work = jax.jit(lambda u, lw, x: jax.lax.fori_loop(0, turns, turn, (u, lw, x)))
    sums = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x + 1e-9 * prefix_sum(x), x))
    gather_index = jnp.asarray(np.sort(rng.integers(0, size, size)), jnp.int32)
    gather = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: jnp.take(x, gather_index, 0, mode="clip"), x))
    big = jnp.zeros(16 * size, jnp.float32)
    # Every byte read and written, in an array beyond any cache, and in place: fresh pages would make memory look slow.
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x + 1, x))
    u = jnp.float32(rng.random())
    cases = {
        "copy": lambda: copy(big),
        "work": lambda: work(u, log_weights, states),
        "sums": lambda: sums(jnp.exp(log_weights)),
        "gather": lambda: gather(states),
    }
    seconds = _interleaved(cases, runs, time.perf_counter)
    bandwidth = 2 * turns * big.nbytes / np.median(seconds["copy"])
    moved = 4 * size * (2 + 2 + 2 + 2 * width)
    bound, taken = moved / bandwidth, seconds["work"] / turns
    ns = {name: 1e9 * np.median(s) / (turns * size) for name, s in seconds.items()}
    return [
        Row(
            f"systematic resampling and gather of {width} float32 states, N = {size:,}: time over the memory's bound",
            float(np.median(taken) / bound),
            "ratio",
            3.0,
            peer=f"{ns['work']:.1f} ns per particle (prefix sum alone {ns['sums']:.1f}, gather {ns['gather']:.1f}); "
            f"copy at {bandwidth / 1e9:.1f} GB/s, bound {1e9 * bound / size:.2f} ns for {moved // size} bytes",
            n=runs,
            spread=quartiles(taken / bound),
        )
    ]


def rows(quick: bool, seed: int) -> list[Row]:
    """All rows."""
    return [*per_element(quick, seed), *in_lanes(quick, seed), *against_memory(quick, seed)]
