"""Backward sampling beside that of other packages: same model, same sizes, one process, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

import smc
from benchmarks.filter_peers import LinearGaussian
from benchmarks.record import Row, quartiles
from smc.filtering import FilterRun, particle_filter
from smc.smoothing.backward_sampling import BackwardSampling
from smc.smoothing.smooth import smooth


def ours(model: LinearGaussian, ys: jax.Array, run: FilterRun, method: BackwardSampling) -> Callable[[int], np.ndarray]:
    """Our smoother on a stored history; a function of a seed that gives smoothed means."""
    return lambda seed: np.asarray(smooth(model, ys, seed, method=method, run=run).mean)


def by_cuthbert(run: FilterRun, num_moves: int | None) -> Callable[[int], np.ndarray]:
    """The package cuthbert (JAX) on the same history: exact, or by Metropolis moves."""
    from cuthbertlib.smc.smoothing import exact_sampling, mcmc

    history = run.history
    assert history is not None

    def log_density(before: jax.Array, after: jax.Array) -> jax.Array:
        return -0.5 * (after - 0.9 * before) ** 2

    @jax.jit
    def smoothed(key: jax.Array, particles: jax.Array, log_weights: jax.Array, ancestors: jax.Array) -> jax.Array:
        k_last, k_rest = jax.random.split(key)
        num = log_weights.shape[1]
        last = jax.random.categorical(k_last, log_weights[-1], shape=(num,))

        def step(carry: tuple, row: tuple) -> tuple[tuple, jax.Array]:
            after, parents = carry
            x, log_weight, ancestor, key = row
            if num_moves is None:
                found, index = exact_sampling.simulate(key, x, after, log_weight, log_density, parents)
            else:
                found, index = mcmc.simulate(key, x, after, log_weight, log_density, parents, num_moves)
            return (found, ancestor[index]), jnp.mean(found)

        rows = (particles[:-1], log_weights[:-1], ancestors[:-1], jax.random.split(k_rest, log_weights.shape[0] - 1))
        begin = (particles[-1][last], ancestors[-1][last])
        _, means = jax.lax.scan(step, begin, rows, reverse=True)
        return jnp.append(means, jnp.mean(begin[0]))

    kept = (history.particles, history.log_weights, history.ancestors)
    return lambda seed: np.asarray(smoothed(jax.random.key(seed), *kept))


def by_particles(ys: jax.Array, num: int, rule: str) -> Callable[[int], np.ndarray]:
    """The package particles (NumPy): one filter run, then backward passes over it."""
    import particles
    from particles import distributions, state_space_models

    class Linear(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal()

        def PX(self, t, xp):
            return distributions.Normal(loc=0.9 * xp)

        def PY(self, t, xp, x):
            return distributions.Normal(loc=x)

        def upper_bound_log_pt(self, t):
            return -0.5 * np.log(2 * np.pi)

    fk = state_space_models.Bootstrap(ssm=Linear(), data=np.asarray(ys, float))
    found = particles.SMC(fk=fk, N=num, store_history=True)
    found.run()
    backward = {"exact": found.hist.backward_sampling_ON2, "rejection": found.hist.backward_sampling_reject}[rule]

    def run(seed: int) -> np.ndarray:
        np.random.seed(seed)  # noqa: NPY002 - the package draws from the global state
        return np.array([np.mean(x) for x in backward(num)])

    return run


# ours, peer, and how many times its CPU time ours must stay below.
_PAIRS = (
    ("exact", "particles", "exact", (25.0, 60.0)),
    ("exact", "cuthbert", "exact", (10.0, 25.0)),
    ("rejection", "particles", "rejection", (None,)),
    ("mcmc", "cuthbert", "mcmc", (None,)),
)


def rows(quick: bool, seed: int) -> Iterable[Row]:
    """CPU time for each pair (particle, successor) and the peers' over ours, T short because times are per step."""
    num, length, num_runs = (200, 20, 2) if quick else (1000, 50, 5)
    model = LinearGaussian(jnp.float32(0.9))
    _, ys = model.simulate(seed, length)
    run = particle_filter(model, ys, seed, num_particles=num, history=True)
    methods = {
        "exact": BackwardSampling(),
        "rejection": BackwardSampling(rule="rejection"),
        "mcmc": BackwardSampling(rule="mcmc", moves=5),
    }
    functions = {("ours", rule): ours(model, ys, run, method) for rule, method in methods.items()}
    peers = {
        ("particles", "exact"): lambda: by_particles(ys, num, "exact"),
        ("particles", "rejection"): lambda: by_particles(ys, num, "rejection"),
        ("cuthbert", "exact"): lambda: by_cuthbert(run, None),
        ("cuthbert", "mcmc"): lambda: by_cuthbert(run, 5),
    }
    missing: dict[tuple[str, str], str] = {}
    for name, make in peers.items():
        try:
            functions[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    cpu: dict[tuple[str, str], list[float]] = {name: [] for name in functions}
    wall: dict[tuple[str, str], list[float]] = {name: [] for name in functions}
    means: dict[tuple[str, str], list[np.ndarray]] = {name: [] for name in functions}
    for k in range(num_runs + 1):
        for name, function in functions.items():
            w, c = time.perf_counter(), time.process_time()
            found = function(seed + k)
            if k:  # the first turn compiles
                wall[name].append(time.perf_counter() - w)
                cpu[name].append(time.process_time() - c)
                means[name].append(found)
    pairs = (length - 1) * num**2
    what = f"backward sampling, linear-Gaussian, N = M = {num}"
    made: list[Row] = []
    for rule in methods:
        times = np.array(cpu["ours", rule]) / pairs * 1e9
        made.append(
            Row(
                f"{what}, {rule}: CPU time a pair",
                float(np.median(times)),
                "ns",
                None,
                peer=f"wall {np.median(wall['ours', rule]) / pairs * 1e9:.3g} ns; T = {length}",
                n=num_runs,
                spread=quartiles(times),
            )
        )
    for rule, peer, theirs, targets in _PAIRS:
        for target in targets:
            claim = f"{what}, {rule}: CPU time of {peer} ({theirs}) over ours"
            if (peer, theirs) in missing:
                why = f"not installed: {missing[peer, theirs]}"
                made.append(Row(claim, None, "ratio", 1.0 if target is None else target, "higher", peer=why))
                continue
            other, mine = np.array(cpu[peer, theirs]), np.array(cpu["ours", rule])
            # Both means are of the same smoothing law: the gap shows that they do the same work.
            gap = np.mean(means[peer, theirs], axis=0) - np.mean(means["ours", rule], axis=0)
            made.append(
                Row(
                    claim,
                    float(np.median(other) / np.median(mine)),
                    "ratio",
                    target,
                    "higher",
                    peer=f"{np.median(other) / pairs * 1e9:.3g} and {np.median(mine) / pairs * 1e9:.3g} ns a pair; "
                    f"wall ratio {np.median(wall[peer, theirs]) / np.median(wall['ours', rule]):.3g}; root mean square "
                    f"gap of the means {np.sqrt(np.mean(gap**2)):.3g}",
                    n=num_runs,
                    spread=quartiles(other / mine),
                )
            )
    made.append(parallel_in_time(quick))
    return made


def parallel_in_time(quick: bool) -> Row:
    """The Kalman smoother in parallel rounds beside itself step by step, on this machine."""
    length, dim = (1_000 if quick else 10_000), 4
    parts = (
        smc.Gaussian(jnp.zeros(dim), jnp.eye(dim)),
        smc.LinearGaussian(0.9 * jnp.eye(dim), 0.1 * jnp.eye(dim)),
        smc.LinearGaussian(jnp.eye(2, dim), jnp.eye(2)),
    )
    ys = np.random.default_rng(0).normal(size=(length, 2)).astype(np.float32)
    times: dict[bool, list[float]] = {True: [], False: []}
    for k in range(6):
        for parallel, taken in times.items():
            begin = time.perf_counter()
            jax.block_until_ready(smc.kalman_smoother(*parts, ys, parallel=parallel))
            if k:  # the first turn compiles
                taken.append(time.perf_counter() - begin)
    ratio = np.array(times[True]) / np.array(times[False])
    return Row(
        f"Kalman smoother, T = {length}, d = {dim}: wall time in parallel rounds over step by step",
        float(np.median(ratio)),
        "ratio",
        None,
        peer=f"{np.median(times[True]):.3g} and {np.median(times[False]):.3g} s; the default here is "
        f"{'step by step' if jax.default_backend() == 'cpu' else 'in parallel rounds'}",
        n=len(ratio),
        spread=quartiles(ratio),
    )
