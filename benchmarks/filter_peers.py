"""The bootstrap filter beside those of other packages: same model, same data, one process, turn by turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import smc
from benchmarks.record import Row, quartiles
from probinf.fast_random import fast_key
from smc.paired_threefry import sooner

_LENGTH = 1000


class LinearGaussian(smc.StateSpaceModel):
    """x_0 ~ N(0, 1), x_t = 0.9 x + N(0, 1), y_t = x_t + N(0, 1)."""

    persistence: Any

    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, t, x):
        return dist.Normal(self.persistence * x, 1.0)

    def observation(self, t, x):
        return dist.Normal(x, 1.0)


class StochasticVolatility(smc.StateSpaceModel):
    """x_t = 0.95 x + N(0, 0.3), y_t ~ N(0, exp(x_t / 2))."""

    persistence: Any

    def initial(self):
        return dist.Normal(0.0, 0.3 / math.sqrt(1 - 0.95**2))

    def transition(self, t, x):
        return dist.Normal(self.persistence * x, 0.3)

    def observation(self, t, x):
        return dist.Normal(0.0, jnp.exp(x / 2))


MODELS = {"linear-Gaussian": LinearGaussian(jnp.float32(0.9)), "volatility": StochasticVolatility(jnp.float32(0.95))}


def kalman_evidence(ys: np.ndarray) -> float:
    """Exact log evidence of the linear-Gaussian series."""
    mean, variance, total = 0.0, 1.0, 0.0
    for t, y in enumerate(np.asarray(ys, float)):
        if t:
            mean, variance = 0.9 * mean, 0.81 * variance + 1
        spread = variance + 1
        total += -0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance / spread
    return float(total)


def ours(model: Any, ys: jax.Array, num: int, threshold: float, *, fast: bool) -> Callable[[int], float]:
    """Our filter, evidence only; a function of a seed."""
    key = fast_key(0) if fast else jax.random.key(0)
    run = jax.jit(
        lambda key: (
            smc.particle_filter(model, ys, key, num_particles=num, threshold=threshold, moments=False).log_evidence
        )
    )
    return lambda seed: float(run(jax.random.fold_in(key, seed)))


def numbers_alone(length: int, num: int) -> Callable[[int], float]:
    """The fast generator's numbers of a filter and one sum for each: no filter that draws them takes less."""
    key = fast_key(0)

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        keys = jax.random.split(sooner(key), length)

        def move(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return 0.9 * x + jax.random.normal(key, (num,), jnp.float32), None

        return jnp.sum(jax.lax.scan(move, jnp.zeros(num, jnp.float32), keys)[0])

    return lambda seed: float(run(jax.random.fold_in(key, seed)))


def by_particles(name: str, ys: jax.Array, num: int, threshold: float) -> Callable[[int], float]:
    """The package particles (NumPy, resampling in numba)."""
    import particles
    from particles import distributions, state_space_models

    class Linear(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal()

        def PX(self, t, xp):
            return distributions.Normal(loc=0.9 * xp)

        def PY(self, t, xp, x):
            return distributions.Normal(loc=x)

    class Volatile(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal(scale=0.3 / math.sqrt(1 - 0.95**2))

        def PX(self, t, xp):
            return distributions.Normal(loc=0.95 * xp, scale=0.3)

        def PY(self, t, xp, x):
            return distributions.Normal(scale=np.exp(x / 2))

    model = Linear() if name == "linear-Gaussian" else Volatile()
    data = np.asarray(ys, float)

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002 - the package draws from the global state
        found = particles.SMC(
            fk=state_space_models.Bootstrap(ssm=model, data=data), N=num, resampling="systematic", ESSrmin=threshold
        )
        found.run()
        return float(found.logLt)

    return run


def by_cuthbert(name: str, ys: jax.Array, num: int, threshold: float) -> Callable[[int], float]:
    """The package cuthbert (JAX); its time 0 carries no observation, so the first one is folded in by a flag."""
    import cuthbert
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator

    linear = name == "linear-Gaussian"
    first = 1.0 if linear else 0.3 / math.sqrt(1 - 0.95**2)
    slope, scale = (0.9, 1.0) if linear else (0.95, 0.3)

    def initial(key: jax.Array) -> jax.Array:
        return first * jax.random.normal(key, (), jnp.float32)

    def propagate(key: jax.Array, state: jax.Array, inputs: Any) -> jax.Array:
        _, is_first = inputs
        moved = slope * state + scale * jax.random.normal(key, (), jnp.float32)
        return jnp.where(is_first, state, moved)

    def log_potential(before: jax.Array, state: jax.Array, inputs: Any) -> jax.Array:
        y, _ = inputs
        spread = jnp.float32(1.0) if linear else jnp.exp(state / 2)
        loc = state if linear else jnp.float32(0.0)
        return -0.5 * ((y - loc) / spread) ** 2 - jnp.log(spread) - 0.5 * math.log(2 * math.pi)

    resampling = ess_decorator(systematic.resampling, threshold)
    filter_ = particle_filter.build_filter(initial, propagate, log_potential, num, resampling)
    flags = jnp.arange(ys.shape[0]) == 0

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        k_start, k_run = jax.random.split(key)
        states = cuthbert.filter(filter_, (ys, flags), filter_.init_prepare(key=k_start), key=k_run)
        return states.log_normalizing_constant[-1]

    return lambda seed: float(run(jax.random.key(seed)))


def _seconds(functions: dict[str, Callable[[int], float]], num_runs: int) -> tuple[dict, dict, dict]:
    """Wall and CPU seconds and evidence of each, turn by turn; the first turn compiles and is thrown away."""
    wall, cpu, found = ({name: [] for name in functions} for _ in range(3))
    for k in range(num_runs + 1):
        for name, function in functions.items():
            w, c = time.perf_counter(), time.process_time()
            value = function(k)
            if k:
                wall[name].append(time.perf_counter() - w)
                cpu[name].append(time.process_time() - c)
                found[name].append(value)
    return wall, cpu, found


# (particles, threshold): least speed-up over particles and cuthbert, standard generator and fast one.
_TARGETS = {
    (100, 0.5): ((15.0, 4.0), (30.0, 10.0)),
    (1000, 0.5): ((3.0, 2.5), (12.0, 10.0)),
    (10_000, 0.5): ((2.5, 3.0), (8.0, 9.0)),
    (10_000, 1.0): ((1.5, 2.0), (3.5, 5.5)),
}


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """Wall time of each peer over ours, and the variance of the evidence over theirs."""
    length, num_runs = (200, 3) if quick else (_LENGTH, 15)
    for name, model in MODELS.items():
        _, ys = model.simulate(seed, length)
        for (num, threshold), targets in _TARGETS.items():
            if quick and num > 1000:
                continue
            functions: dict[str, Callable[[int], float]] = {
                "ours": ours(model, ys, num, threshold, fast=False),
                "ours, fast generator": ours(model, ys, num, threshold, fast=True),
                "the numbers alone": numbers_alone(length, num),
                "the filter without resampling": ours(model, ys, num, 0.0, fast=True),
            }
            missing = {}
            for peer, make in (("particles", by_particles), ("cuthbert", by_cuthbert)):
                try:
                    functions[peer] = make(name, ys, num, threshold)
                except ImportError as error:
                    missing[peer] = str(error)
            wall, cpu, found = _seconds(functions, num_runs)
            rule = "resampling at ESS < N/2" if threshold == 0.5 else "resampling at every step"
            what = f"bootstrap filter, {name}, T = {length}, N = {num}, {rule}"
            for label, wanted in zip(("ours", "ours, fast generator"), targets, strict=True):
                generator = "standard generator" if label == "ours" else "fast generator"
                for peer, target in zip(("particles", "cuthbert"), wanted, strict=True):
                    claim = f"{what}, {generator}: wall time of {peer} over ours"
                    if peer in missing:
                        yield Row(claim, None, "ratio", target, "higher", peer=f"not installed: {missing[peer]}")
                        continue
                    ratio = np.array(wall[peer]) / np.array(wall[label])
                    yield Row(
                        claim,
                        float(np.median(wall[peer]) / np.median(wall[label])),
                        "ratio",
                        target,
                        "higher",
                        peer=f"wall {1e3 * np.median(wall[peer]):.3g} and {1e3 * np.median(wall[label]):.3g} ms, cpu "
                        f"{1e3 * np.median(cpu[peer]):.3g} and {1e3 * np.median(cpu[label]):.3g} ms",
                        n=num_runs,
                        spread=quartiles(ratio),
                    )
            for part in ("the numbers alone", "the filter without resampling"):
                yield Row(
                    f"{what}, fast generator: bound, wall time of {part} over ours",
                    float(np.median(wall[part]) / np.median(wall["ours, fast generator"])),
                    "ratio",
                    None,
                    peer=f"wall {1e3 * np.median(wall[part]):.3g} ms, cpu {1e3 * np.median(cpu[part]):.3g} ms",
                    n=num_runs,
                )
            theirs = [p for p in ("particles", "cuthbert") if p in found]
            if theirs:
                best = min(np.var(found[p], ddof=1) for p in theirs)
                spread = float(np.var(found["ours"] + found["ours, fast generator"], ddof=1))
                exact = f"; exact {kalman_evidence(np.asarray(ys)):.2f}" if name == "linear-Gaussian" else ""
                # A ratio of variances with these degrees of freedom is below this with probability 0.999.
                import scipy.stats

                bound = float(scipy.stats.f.ppf(0.999, 2 * num_runs - 1, num_runs - 1))
                yield Row(
                    f"{what}: variance of log evidence over the best peer's",
                    spread / best,
                    "ratio",
                    bound,
                    peer=f"means {np.mean(found['ours']):.2f}, "
                    + ", ".join(f"{p} {np.mean(found[p]):.2f}" for p in theirs)
                    + exact
                    + "; the target is what equal variances exceed once in a thousand times",
                    n=num_runs,
                )
