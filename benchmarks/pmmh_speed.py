"""PMMH on the volatility model beside other packages: time of an iteration, and the posterior against quadrature.

z ~ N(1.8, 0.5), s ~ N(-1.2, 0.5); x_t = tanh(z) x_{t-1} + N(0, exp(s)), y_t ~ N(0, exp(x_t / 2)). All take the same
random walk on (z, s), the same number of particles, and systematic resampling at ESS < N/2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

import probinf as pi
import smc
from benchmarks.filter_peers import StochasticVolatility
from benchmarks.record import Row, quartiles
from probinf.fast_random import fast_key
from probinf.inference.diagnostics import diagnose
from probinf.transformations.population import Resampling
from smc.pmmh_engine import BATCH, Walk, engine_for
from smc.static_parameters import with_parameters

_Z, _S, _SD = 1.8, -1.2, 0.5  # prior means and their standard deviation
_STEP = np.array([0.2, 0.2])  # of the random walk, about a posterior standard deviation

Chain = Callable[[int], float]  # a seed to the share of accepted moves


@pi.model
def volatility(ys):
    """The program that ours runs."""
    s = pi.sample("s", dist.Normal(_S, _SD))
    z = pi.sample("z", dist.Normal(_Z, _SD))
    slope, scale = jnp.tanh(z), jnp.exp(s)

    def step(x: Any, y: Any) -> tuple[Any, None]:
        x = pi.sample("x", dist.Normal(slope * x, scale))
        pi.observe("y", dist.Normal(0.0, jnp.exp(x / 2)), y)
        return x, None

    x0 = pi.sample("x0", dist.Normal(0.0, scale / jnp.sqrt(1 - slope**2)))
    pi.observe("y0", dist.Normal(0.0, jnp.exp(x0 / 2)), ys[0])
    jax.lax.scan(step, x0, ys[1:])


def ours(program: Any, num: int, num_steps: int, *, fast: bool) -> Chain:
    """So many steps of one chain of `smc.PMMH`, its walk fixed, started at the prior means."""
    engine = engine_for(
        program.staged, with_parameters(program, "PMMH"), num, Resampling("systematic", 0.5), paths=False
    )
    key = fast_key(0) if fast else jax.random.key(0)
    start = jnp.broadcast_to(jnp.array([_S, _Z], jnp.float32), (BATCH, 2))
    now = jax.tree.map(lambda leaf: leaf[0], engine.evaluate(program.operands, start, key))
    walk = Walk(jnp.diag(jnp.asarray(_STEP, jnp.float32)), jnp.float32(0.0), jnp.int32(0))
    steps = (np.int32(0), np.int32(num_steps), np.asarray(False))

    def run(seed: int) -> float:
        _, _, rows = engine.advance(program.operands, now, walk, jax.random.fold_in(key, seed), *steps)
        s = np.asarray(rows.now.x)[:num_steps, 0]
        return float(np.mean(s[1:] != s[:-1]))

    return run


def by_particles(ys: jax.Array, num: int, num_steps: int) -> Chain:
    """The package particles (NumPy)."""
    from particles import distributions, mcmc, state_space_models

    class Volatile(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal(scale=np.exp(self.s) / np.sqrt(1 - np.tanh(self.z) ** 2))

        def PX(self, t, xp):
            return distributions.Normal(loc=np.tanh(self.z) * xp, scale=np.exp(self.s))

        def PY(self, t, xp, x):
            return distributions.Normal(scale=np.exp(x / 2))

    class RandomWalk(mcmc.PMMH):
        def compute_post(self):
            # The package's line without the index fails from NumPy 2.4 on: an array of one number is no number there.
            self.prop.lpost[0] = self.prior.logpdf(self.prop.theta)[0]
            if np.isfinite(self.prop.lpost[0]):
                run = self.alg_instance({name: self.prop.theta[name][0] for name in ("s", "z")})
                run.run()
                self.prop.lpost[0] += run.logLt

    prior = distributions.StructDist(
        {
            "s": distributions.Normal(loc=_S, scale=_SD),
            "z": distributions.Normal(loc=_Z, scale=_SD),
        }
    )
    start = np.zeros(1, prior.dtype)
    start["s"], start["z"] = _S, _Z

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002 - the package draws from the global state
        chain = RandomWalk(
            niter=num_steps + 1,  # the first is the start
            ssm_cls=Volatile,
            prior=prior,
            data=np.asarray(ys, float),
            smc_options={"ESSrmin": 0.5, "resampling": "systematic"},
            Nx=num,
            theta0=start.copy(),
            adaptive=False,
            rw_cov=np.diag(_STEP**2),
        )
        chain.run()
        return float(chain.acc_rate)

    return run


def by_cuthbert(ys: jax.Array, num: int, num_steps: int) -> Chain:
    """The package cuthbert (JAX), which has filters and no PMMH: its filter inside a compiled random walk of ours."""
    import cuthbert
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator

    flags = jnp.arange(ys.shape[0]) == 0  # its time 0 carries no observation: the first one is folded in

    def log_evidence(x: jax.Array, key: jax.Array) -> jax.Array:
        slope, scale = jnp.tanh(x[1]), jnp.exp(x[0])

        def initial(key: jax.Array) -> jax.Array:
            return scale / jnp.sqrt(1 - slope**2) * jax.random.normal(key, (), jnp.float32)

        def propagate(key: jax.Array, state: jax.Array, inputs: Any) -> jax.Array:
            moved = slope * state + scale * jax.random.normal(key, (), jnp.float32)
            return jnp.where(inputs[1], state, moved)

        def log_potential(before: jax.Array, state: jax.Array, inputs: Any) -> jax.Array:
            return dist.Normal(0.0, jnp.exp(state / 2)).log_prob(inputs[0])

        resampling = ess_decorator(systematic.resampling, 0.5)
        filter_ = particle_filter.build_filter(initial, propagate, log_potential, num, resampling)
        key_start, key_run = jax.random.split(key)
        states = cuthbert.filter(filter_, (ys, flags), filter_.init_prepare(key=key_start), key=key_run)
        return states.log_normalizing_constant[-1]

    def log_target(x: jax.Array, key: jax.Array) -> jax.Array:
        prior = dist.Normal(jnp.array([_S, _Z]), _SD).log_prob(x).sum()
        return prior + log_evidence(x, key)

    @jax.jit
    def walk(key: jax.Array) -> jax.Array:
        def step(now: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
            key_step, key_filter, key_accept = jax.random.split(key, 3)
            x = now[0] + jnp.asarray(_STEP, jnp.float32) * jax.random.normal(key_step, (2,), jnp.float32)
            new = (x, log_target(x, key_filter))
            accepted = -jax.random.exponential(key_accept, (), jnp.float32) < new[1] - now[1]
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, now), accepted

        x = jnp.array([_S, _Z], jnp.float32)
        _, accepted = jax.lax.scan(step, (x, log_target(x, key)), jax.random.split(key, num_steps))
        return jnp.mean(accepted)

    return lambda seed: float(walk(jax.random.key(seed)))


def quadrature(ys: np.ndarray, centre: np.ndarray, sd: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations of (s, z): a filter on a grid of states at each point of a grid."""
    offsets = np.linspace(-5, 5, size)
    log_posterior = np.zeros((size, size))
    grid = np.linspace(-1, 1, 161)
    for i, s in enumerate(centre[0] + sd[0] * offsets):
        for j, z in enumerate(centre[1] + sd[1] * offsets):
            slope, scale = np.tanh(z), np.exp(s)
            wide = scale / np.sqrt(1 - slope**2)
            x = 6 * wide * grid
            kernel = stats.norm.pdf(x[:, None], slope * x, scale)
            kernel /= kernel.sum(axis=0)  # a chain on the grid
            density = np.exp(-0.5 * (x / wide) ** 2)
            density /= density.sum()
            seen = np.exp(-0.5 * ys[:, None] ** 2 * np.exp(-x) - x / 2)
            total = 0.0
            for t in range(len(ys)):
                density = (kernel @ density if t else density) * seen[t]
                mass = density.sum()
                total += np.log(mass)
                density = density / mass
            log_posterior[i, j] = total + stats.norm.logpdf([s, z], [_S, _Z], _SD).sum()
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    means, sds = np.zeros(2), np.zeros(2)
    for k, marginal in enumerate((weights.sum(1), weights.sum(0))):
        values = centre[k] + sd[k] * offsets
        means[k] = marginal @ values
        sds[k] = np.sqrt(marginal @ (values - means[k]) ** 2)
    return means, sds


def _turns(chains: dict[str, tuple[Chain, int]], num_turns: int) -> tuple[dict, dict, dict]:
    """Wall and CPU milliseconds of a step and the acceptance of each, turn by turn; the first turn compiles."""
    wall, cpu, accepted = ({name: [] for name in chains} for _ in range(3))
    for k in range(num_turns + 1):
        for name, (chain, num_steps) in chains.items():
            w, c = time.perf_counter(), time.process_time()
            rate = chain(k)
            if k:
                wall[name].append(1e3 * (time.perf_counter() - w) / num_steps)
                cpu[name].append(1e3 * (time.process_time() - c) / num_steps)
                accepted[name].append(rate)
    return wall, cpu, accepted


# Least speed-up over each peer, standard generator and fast one.
_TARGETS = {"particles": (6.0, 25.0), "cuthbert": (4.0, 15.0)}


def _speed(program: Any, ys: jax.Array, num: int, num_turns: int) -> Iterator[Row]:
    labels = ("standard generator", "fast generator")
    chains = {
        labels[0]: (ours(program, num, 100, fast=False), 100),
        labels[1]: (ours(program, num, 100, fast=True), 100),
    }
    missing = {}
    for peer, make, num_steps in (("particles", by_particles, 20), ("cuthbert", by_cuthbert, 40)):
        try:
            chains[peer] = (make(ys, num, num_steps), num_steps)
        except ImportError as error:
            missing[peer] = str(error)
    wall, cpu, accepted = _turns(chains, num_turns)
    for k, label in enumerate(labels):
        for peer, targets in _TARGETS.items():
            claim = f"PMMH, volatility, T = {len(ys)}, N = {num}, {label}: CPU time of an iteration of {peer} over ours"
            if peer in missing:
                yield Row(claim, None, "ratio", targets[k], "higher", peer=f"not installed: {missing[peer]}")
                continue
            yield Row(
                claim,
                float(np.median(cpu[peer]) / np.median(cpu[label])),
                "ratio",
                targets[k],
                "higher",
                peer=f"cpu {np.median(cpu[peer]):.3g} and {np.median(cpu[label]):.3g} ms, wall "
                f"{np.median(wall[peer]):.3g} and {np.median(wall[label]):.3g} ms; acceptance "
                f"{np.mean(accepted[peer]):.2f} and {np.mean(accepted[label]):.2f}",
                n=num_turns,
                spread=quartiles(np.array(cpu[peer]) / np.array(cpu[label])),
            )


def _accuracy(program: Any, ys: jax.Array, num: int, num_draws: int, size: int, seed: int) -> Iterator[Row]:
    method = smc.PMMH(num, num_draws=num_draws, num_warmup=num_draws // 2)
    found = pi.infer(program, method, seed=fast_key(seed), progress=False)
    draws = np.stack([found["s"], found["z"]], axis=-1)
    centre, sd = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1))  # where to put the grid
    means, sds = quadrature(np.asarray(ys, float), centre, sd, size)
    told = diagnose(draws)
    details = (
        f"R-hat {told.r_hat.max():.3f}, bulk ESS {told.ess_bulk.min():.0f}, acceptance "
        f"{found.sample_stats['acceptance_rate'].mean():.2f}; {found.method}; {found.seconds:.3g} s"
    )
    what = f"PMMH, volatility, T = {len(ys)}, N = {num}, 4 chains of {num_draws} draws"
    yield Row(
        f"{what}: means of the parameters against quadrature, the larger deviation",
        float(np.max(np.abs(centre - means) / told.mcse_mean)),
        "MCSE",
        4.0,
        peer=f"means {centre.round(3)} and {means.round(3)}; {details}",
        n=method.num_chains,
    )
    yield Row(
        f"{what}: standard deviations against quadrature, the larger relative error",
        float(np.max(np.abs(sd / sds - 1))),
        "relative",
        0.15,
        peer=f"{sd.round(3)} and {sds.round(3)}",
        n=method.num_chains,
    )
    yield Row(f"{what}: R-hat, the larger", float(told.r_hat.max()), "R-hat", 1.01, peer=details, n=method.num_chains)


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """CPU time of an iteration, and the posterior against quadrature."""
    length, num, num_turns, num_draws, size = (100, 100, 2, 200, 11) if quick else (500, 300, 9, 4000, 25)
    _, ys = StochasticVolatility(jnp.float32(0.95)).simulate(seed, length)
    program = volatility(ys)
    yield from _speed(program, ys, num, num_turns)
    yield from _accuracy(program, ys, num, num_draws, size, seed)
