"""SMC² beside the package particles at equal accuracy: variance of the log evidence times CPU time.

phi ~ Uniform(-1, 1), q ~ LogNormal(0, 1/2); x_t = phi x_{t-1} + N(0, q), x_{-1} = 0, y_t ~ N(x_t, 1/2): Kalman filters
on a grid of (phi, q) give the evidence. Both take the same numbers of parameter and state particles, four moves at each
rejuvenation and ESS < N/2. Turn by turn in one process; the first turn, which compiles, is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

import probinf as pi
import smc
from benchmarks.record import Row, quartiles
from benchmarks.samplers import work, work_spread
from probinf.fast_random import fast_key

_NOISE, _MOVES = 0.5, 4

Run = Callable[[int], float]  # a seed to the log evidence


@pi.model
def autoregression(ys):
    """The program that ours runs."""
    phi = pi.sample("phi", dist.Uniform(-1.0, 1.0))
    q = pi.sample("q", dist.LogNormal(0.0, 0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(phi * x, q))
        pi.observe("y", dist.Normal(x, _NOISE), y)
        return x, None

    jax.lax.scan(step, 0.0, ys)


def series(length: int, seed: int) -> np.ndarray:
    """One series with phi = 0.7 and q = 1."""
    rng, x, ys = np.random.default_rng(seed), 0.0, []
    for _ in range(length):
        x = 0.7 * x + rng.normal()
        ys.append(x + _NOISE * rng.normal())
    return np.array(ys)


def exact(ys: np.ndarray) -> float:
    """Log evidence by the midpoint rule over (phi, log q)."""
    phi, log_q = np.linspace(-1, 1, 401)[1::2], np.linspace(-2.5, 2.5, 201)
    a, s = (g.ravel() for g in np.meshgrid(phi, np.exp(log_q), indexing="ij"))
    mean, variance, total = np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)
    for y in ys:
        mean, variance = a * mean, a**2 * variance + s**2
        spread = variance + _NOISE**2
        total += stats.norm(mean, np.sqrt(spread)).logpdf(y)
        mean, variance = mean + variance / spread * (y - mean), variance * _NOISE**2 / spread
    joint = total + np.log(0.5) + stats.norm(0.0, 0.5).logpdf(np.log(s))
    return float(np.logaddexp.reduce(joint) + np.log((phi[1] - phi[0]) * (log_q[1] - log_q[0])))


def ours(ys: np.ndarray, num_parameters: int, num_particles: int) -> Run:
    """`smc.SMC2` with the fast generator."""
    program = autoregression(jnp.asarray(ys))
    method = smc.SMC2(num_parameters, num_particles, num_moves=_MOVES)

    def run(seed: int) -> float:
        found = pi.infer(program, method, seed=fast_key(seed), progress=False).log_evidence
        assert found is not None
        return found

    return run


def by_particles(ys: np.ndarray, num_parameters: int, num_particles: int) -> Run:
    """The package particles (NumPy)."""
    import particles
    from particles import distributions, smc_samplers, state_space_models

    class Model(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal(scale=self.q)

        def PX(self, t, xp):
            return distributions.Normal(loc=self.phi * xp, scale=self.q)

        def PY(self, t, xp, x):
            return distributions.Normal(loc=x, scale=_NOISE)

    prior = distributions.StructDist(
        {"phi": distributions.Uniform(-1.0, 1.0), "q": distributions.LogNormal(mu=0.0, sigma=0.5)}
    )

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002 - the package draws from the global state
        kernel = smc_samplers.SMC2(
            ssm_cls=Model,
            prior=prior,
            data=ys,
            init_Nx=num_particles,
            wastefree=False,
            len_chain=_MOVES + 1,
            smc_options={"ESSrmin": 0.5, "resampling": "systematic"},
        )
        found = particles.SMC(fk=kernel, N=num_parameters, ESSrmin=0.5)
        found.run()
        return float(found.logLt)

    return run


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """Work of particles over ours, and the time alone."""
    length, num_parameters, num_particles, num_runs = (15, 16, 32, 3) if quick else (50, 128, 100, 48)
    ys = series(length, seed + 1)
    what = f"SMC², T = {length}, {num_parameters} parameter x {num_particles} state particles, {_MOVES} moves"
    functions = {"ours": ours(ys, num_parameters, num_particles)}
    claim = f"{what}: variance of log evidence x CPU time of particles over ours"
    try:
        functions["particles"] = by_particles(ys, num_parameters, num_particles)
    except ImportError as error:
        yield Row(claim, None, "ratio", 5.0, "higher", peer=f"not installed: {error}")
        return
    cpu, found = ({name: [] for name in functions} for _ in range(2))
    for k in range(num_runs + 1):
        for name, function in functions.items():
            begin = time.process_time()
            value = function(seed + k)
            if k:
                cpu[name].append(time.process_time() - begin)
                found[name].append(value)
    truth = exact(ys)
    told = "; ".join(
        f"{name}: off by {np.mean(found[name]) - truth:+.3f}, sd {np.std(found[name], ddof=1):.3f}, "
        f"{np.median(cpu[name]):.3g} CPU s"
        for name in functions
    )
    pairs = {name: (np.array(cpu[name]), np.array(found[name])) for name in functions}
    value = work(*pairs["particles"]) / work(*pairs["ours"])
    spread = work_spread(pairs["particles"], pairs["ours"], seed)
    yield Row(claim, value, "ratio", 5.0, "higher", peer=f"{told}; exact {truth:.3f}", n=num_runs, spread=spread)
    ratio = pairs["particles"][0] / pairs["ours"][0]
    yield Row(
        f"{what}: CPU time of particles over ours",
        float(np.median(ratio)),
        "ratio",
        None,
        "higher",
        peer="the same settings, whatever the accuracy",
        n=num_runs,
        spread=quartiles(ratio),
    )
