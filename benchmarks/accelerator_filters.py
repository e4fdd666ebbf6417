"""The bootstrap filter and the streaming filter on an accelerator, beside the same written by hand in JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import smc
from benchmarks import tracking_peers as tracking
from benchmarks.accelerator_timing import bandwidth, compiled, in_turn, peak_bytes
from benchmarks.filter_peers import LinearGaussian, kalman_evidence
from benchmarks.record import Row, quartiles
from benchmarks.reference_filter import filter_evidence, systematic
from benchmarks.streaming import latencies
from probinf.fast_random import fast_key
from smc.paired_threefry import paired

_RESAMPLED_AT = 0.5
_PLAIN, _XLA, _PAIRED = "plain JAX", "XLA's own generator", "threefry of paired words"


class Radar(smc.StateSpaceModel):
    """Constant velocity in the plane, range and bearing: the problem of benchmarks/tracking_peers.py."""

    matrix: Any
    factor: Any

    def initial(self):
        mean, sd = (jnp.asarray(v, jnp.float32) for v in (tracking.PRIOR_MEAN, np.sqrt(tracking.PRIOR_VARIANCE)))
        return dist.Normal(mean, sd).to_event(1)

    def transition(self, t, x):
        return dist.MultivariateNormal(self.matrix @ x, scale_tril=self.factor)

    def observation(self, t, x):
        seen = jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])
        return dist.Normal(seen, jnp.array([tracking.RANGE_SD, tracking.BEARING_SD], jnp.float32)).to_event(1)


def plain_radar(key: jax.Array, ys: jax.Array, num: int, threshold: float) -> jax.Array:
    """Log evidence by hand, resampling before a move as ours does."""
    constant = -np.float32(np.log(2 * np.pi * tracking.RANGE_SD * tracking.BEARING_SD))

    def weigh(x: jax.Array, y: jax.Array) -> jax.Array:
        gaps = y[0] - jnp.hypot(x[:, 0], x[:, 1]), y[1] - jnp.arctan2(x[:, 1], x[:, 0])
        return constant - 0.5 * ((gaps[0] / tracking.RANGE_SD) ** 2 + (gaps[1] / tracking.BEARING_SD) ** 2)

    def step(carry: tuple, inputs: tuple) -> tuple:
        x, log_weights, collected = carry
        y, key = inputs
        key_resample, key_move = jax.random.split(key)
        top = jnp.max(log_weights)
        weights = jnp.exp(log_weights - top)
        total = jnp.sum(weights)
        due = total**2 / jnp.sum(weights**2) <= threshold * num
        uniform = jax.random.uniform(key_resample, dtype=jnp.float32)
        x = jax.lax.cond(due, lambda x: x[systematic(uniform, weights)], lambda x: x, x)
        collected = collected + jnp.where(due, top + jnp.log(total / num), 0.0)
        x = x @ tracking.F.T + jax.random.normal(key_move, x.shape, jnp.float32) @ tracking.L.T
        return (x, jnp.where(due, 0.0, log_weights) + weigh(x, y), collected), None

    key, key_start = jax.random.split(key)
    noise = jax.random.normal(key_start, (num, 4), jnp.float32)
    x = tracking.PRIOR_MEAN.astype(np.float32) + np.sqrt(tracking.PRIOR_VARIANCE).astype(np.float32) * noise
    start = x, weigh(x, ys[0]), jnp.zeros((), jnp.float32)
    (_, log_weights, collected), _ = jax.lax.scan(step, start, (ys[1:], jax.random.split(key, ys.shape[0] - 1)))
    return collected + jax.scipy.special.logsumexp(log_weights) - jnp.log(num)


MODELS: dict[str, tuple[int, Callable[[], smc.StateSpaceModel], Callable]] = {
    "linear-Gaussian": (1, lambda: LinearGaussian(jnp.float32(0.9)), filter_evidence),
    "range and bearing": (4, lambda: Radar(jnp.asarray(tracking.F), jnp.asarray(tracking.L)), plain_radar),
}
GENERATORS: dict[str, Callable[[int], jax.Array]] = {
    "standard generator": jax.random.key,
    "fast generator": fast_key,
    _XLA: lambda seed: jax.random.key(seed, impl="rbg"),
    _PAIRED: lambda seed: paired(jax.random.key(seed)),
}


def _series(name: str, seed: int, length: int) -> np.ndarray:
    if name == "range and bearing":
        return tracking.radar_series(seed, length)
    rng, x, ys = np.random.default_rng(seed), 0.0, []
    for _ in range(length):
        x = 0.9 * x + rng.standard_normal()
        ys.append(x + rng.standard_normal())
    return np.array(ys, np.float32)


def filters(name: str, quick: bool, seed: int, sizes: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """One model at all sizes (N, T): the programs are compiled together, then each size is timed in turn."""
    dim, model, plain = MODELS[name]
    ys = jnp.asarray(_series(name, seed, max(length for _, length in sizes)))

    def program(kind: str, num: int) -> Callable[[jax.Array, jax.Array], Any]:
        if kind == _PLAIN:
            return lambda key, ys: plain(key, ys, num, _RESAMPLED_AT)
        return lambda key, ys: smc.particle_filter(
            model(), ys, key, num_particles=num, threshold=_RESAMPLED_AT, moments=False
        )

    kinds, jobs = {**GENERATORS, _PLAIN: jax.random.key}, {}
    for num, length in sizes:
        for kind, make_key in kinds.items():
            if kind not in (_XLA, _PAIRED) or num == 1_000_000 or quick:
                jobs[kind, num] = (program(kind, num), (make_key(0), ys[:length]))
    programs = compiled(jobs)
    for num, length in sizes:
        cut, runs = ys[:length], 3 if quick else 16 if num <= 1_000_000 else 8
        calls = {
            kind: _call(run, [kinds[kind](seed + k) for k in range(runs + 1)], cut)
            for (kind, n), run in programs.items()
            if n == num
        }
        yield from _size(name, dim, num, calls, runs, programs, np.asarray(cut), bandwidth(quick))


def _call(run: Callable, keys: list[jax.Array], ys: jax.Array) -> Callable[[int], jax.Array]:
    """The log evidence by key k; keys are made before, and the population is let go."""

    def call(k: int) -> jax.Array:
        found = run(keys[k], ys)
        return getattr(found, "log_evidence", found)

    return call


def _size(
    name: str, dim: int, num: int, calls: dict, runs: int, programs: dict, ys: np.ndarray, speed: float
) -> Iterator[Row]:
    length, peaks = len(ys), {}
    for kind, call in calls.items():  # once each, before their turns, to see who raises the device's peak
        before = peak_bytes()
        jax.block_until_ready(call(0))
        after = peak_bytes()
        peaks[kind] = after if before is not None and after is not None and after > before else None
    seconds, found = in_turn(calls, runs)
    evidence = {kind: np.array(found[kind], float) for kind in calls}
    copy, steps = 4 * (dim + 1) * num, num * length
    bound = 2 * copy / speed  # states and log weights read and written once
    plain, what = seconds[_PLAIN], f"bootstrap filter, {name}, N = {num:,}, T = {length}"
    for kind, taken in seconds.items():
        told = programs[kind, num].memory_analysis()
        asked = f"asks for {(told.temp_size_in_bytes + told.output_size_in_bytes) / copy:.3g} copies of the population"
        if peaks[kind] is not None:
            asked += f"; the device held {peaks[kind] / copy:.3g} copies at most"
        yield Row(
            f"{what}, {kind}: time",
            1e9 * float(np.median(taken)) / steps,
            "ns per particle-step",
            None,
            peer=f"{1e3 * np.median(taken):.4g} ms; {np.median(taken) / length / bound:.3g} times the memory's bound, "
            f"{8 * (dim + 1)} bytes at {speed / 1e9:.4g} GB/s; {asked}",
            n=runs,
            spread=quartiles(1e9 * taken / steps),
        )
        if kind != _PLAIN:
            yield Row(
                f"{what}, {kind}: time over plain JAX's",
                float(np.median(taken) / np.median(plain)),
                "ratio",
                None,
                n=runs,
                spread=quartiles(taken / plain),
            )
    exact = kalman_evidence(ys) if name == "linear-Gaussian" else None
    for kind, values in evidence.items():
        if exact is None and kind == _PLAIN:
            continue
        # The log of an unbiased estimate is low by half its variance.
        expected = exact if exact is not None else float(np.mean(evidence[_PLAIN]) + np.var(evidence[_PLAIN]) / 2)
        error = np.var(values, ddof=1) / runs + (0.0 if exact is not None else np.var(evidence[_PLAIN], ddof=1) / runs)
        gap = float(np.mean(values) + np.var(values, ddof=1) / 2 - expected)
        yield Row(
            f"{what}, {kind}: log evidence, distance from {'the exact value' if exact is not None else 'plain JAX'}",
            abs(gap) / float(np.sqrt(error)),
            "standard errors",
            4.0,
            peer=f"{gap:+.5f} nats, standard error {np.sqrt(error):.5f}; {'exact' if exact is not None else _PLAIN} "
            f"{expected:.4f}; standard deviation of a run {np.std(values, ddof=1):.4f}",
            n=runs,
        )


def linear_gaussian(quick: bool, seed: int) -> Iterator[Row]:
    """The linear-Gaussian model at all sizes."""
    sizes = ((1000, 10),) if quick else ((10_000, 100), (100_000, 100), (1_000_000, 100), (10_000_000, 20))
    return filters("linear-Gaussian", quick, seed, sizes)


def radar(quick: bool, seed: int) -> Iterator[Row]:
    """The tracking problem at three sizes."""
    sizes = ((1000, 10),) if quick else ((10_000, 100), (1_000_000, 100), (10_000_000, 20))
    return filters("range and bearing", quick, seed, sizes)


def streaming(quick: bool, seed: int) -> Iterator[Row]:
    """One update of one track and of a thousand."""
    sizes, tracks, length = ((1000,), 5, 14) if quick else ((1000, 10_000, 1_000_000), 1000, 100)
    one = tracking.radar_series(seed, length)
    many = np.stack([tracking.radar_series(seed + k, length // 2) for k in range(tracks)], 1)
    steps: dict[tuple, tracking.Step] = {}
    for num in sizes:
        method = smc.ParticleFilter(num)
        steps[num, "standard generator"] = tracking.ours(method)
        if num == 10_000 or quick:  # every generator compiles anew
            steps[num, "fast generator"] = tracking.ours(method, fast=True)
        steps[num, _PLAIN] = tracking.plain_jax(num)
    method, thousand = smc.ParticleFilter(1000), ("tracks", 1000)
    steps[*thousand, "standard generator"] = tracking.ours_batched(method, tracks, fast=False)
    steps[*thousand, "fast generator"] = tracking.ours_batched(method, tracks, fast=True)
    steps[*thousand, _PLAIN] = tracking.plain_jax_batched(1000, tracks)
    groups = {f"one update, range-bearing tracking, N = {num:,}": ((num,), one, 1) for num in sizes}
    groups[f"{tracks:,} tracks in one call, N = 1,000"] = (thousand, many, tracks)
    for what, (which, series, at_once) in groups.items():
        kinds = {name[-1]: step for name, step in steps.items() if name[:-1] == which}
        found = latencies(kinds, series, skip=4)
        theirs = found.pop(_PLAIN)
        for name, taken in found.items():
            yield Row(
                f"{what}, {name}: time over plain JAX's{' under vmap' if at_once > 1 else ''}",
                float(np.median(taken) / np.median(theirs)),
                "ratio",
                None,
                peer=f"{np.median(taken):.4g} ms (fastest {np.min(taken):.4g}) beside {np.median(theirs):.4g} ms "
                f"(fastest {np.min(theirs):.4g}); {1e3 * at_once / np.median(taken):.4g} updates per second",
                n=len(taken),
                spread=quartiles(taken / theirs),
            )


def kalman(quick: bool, seed: int) -> Iterator[Row]:
    """The Kalman smoother's filtered means beside float64, with the device's usual products and in full float32."""
    length, dim = (8 if quick else 64), 4
    matrix, noise = (a.astype(np.float64) for a in (tracking.F, tracking.Q))
    see, sd = np.eye(2, dim), tracking.RANGE_SD
    rng, x = np.random.default_rng(seed), tracking.PRIOR_MEAN
    ys = np.empty((length, 2))
    for t in range(length):
        ys[t] = see @ x + sd * rng.standard_normal(2)
        x = matrix @ x + tracking.L @ rng.standard_normal(dim)
    mean, cov = tracking.PRIOR_MEAN, np.diag(tracking.PRIOR_VARIANCE)
    means, sds = [], []
    for t, y in enumerate(ys):
        if t:
            mean, cov = matrix @ mean, matrix @ cov @ matrix.T + noise
        gain = np.linalg.solve(see @ cov @ see.T + sd**2 * np.eye(2), see @ cov).T
        mean, cov = mean + gain @ (y - see @ mean), cov - gain @ see @ cov
        means.append(mean)
        sds.append(np.sqrt(np.diag(cov)))

    given = (
        smc.Gaussian(tracking.PRIOR_MEAN, np.diag(tracking.PRIOR_VARIANCE)),
        *(smc.LinearGaussian(*law) for law in ((matrix, noise), (see, sd**2 * np.eye(2)))),
    )
    args = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (*given, ys))

    def run(parallel: bool, precision: str | None) -> Callable:
        def smooth(*args: Any) -> jax.Array:
            with jax.default_matmul_precision(precision):
                return smc.kalman_smoother(*args, parallel=parallel).filtered_mean

        return smooth

    ways = {
        f"{how}, {products}": (run(how == "in parallel", precision), args)
        for how in ("step by step", "in parallel")
        for products, precision in (("the device's usual products", None), ("full float32", "highest"))
    }
    for name, smooth in compiled(ways).items():
        errors = np.abs(np.asarray(smooth(*args), np.float64) - np.array(means)) / np.array(sds)
        yield Row(
            f"Kalman filter, 4 states, T = {length}, {name}: worst error of a filtered mean beside float64",
            float(errors.max()),
            "standard deviations",
            None,
            peer=f"median {np.median(errors):.2g}",
            n=errors.size,
        )
