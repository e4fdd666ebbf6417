r"""Is E[Zhat f] = Z E[f]? A test of particle algorithms on continuous programs, with an error rate at any sample size.

On linear-Gaussian programs the evidence Z and the posterior are known in closed form. One run of an algorithm gives
Zhat and weighted particles; the test looks at

    X = (Zhat / Z) sum_i W_i f(x_i),   E[X] = E[f(x) | y],

for f = 1 (the evidence) and for f(x) = Phi(x_t) at the first and the last time, whose posterior mean is
Phi(m_t / sqrt(1 + v_t)). Particles are realigned where f looks at the past.

*Assumption*: independent runs, and nothing else. X lies in [0, B / Z] where B is the product of the peaks of the
observations' densities, because a population's estimate is a product of means of those densities. Whether the mean is
right is then decided by betting (`probinf.validity.significance.p_of_mean`), which is exact at every sample size.
Algorithms whose estimates may exceed B (proposals, priorities) are held to "the mean is not too large", for which
X >= 0 is enough; what they are then not held to is said in the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from jax.scipy.stats import norm

from probinf.errors import ProbinfError
from probinf.language import statements as pi
from probinf.language.handlers import Forward
from probinf.language.program import Program, model
from probinf.representations.population import Population
from probinf.transformations.algorithms import population
from probinf.transformations.resampling import SCHEMES
from probinf.validity.report import LEAST_P, Check, statistical_check
from probinf.validity.significance import p_of_mean

_RUNS = 4000
_PARTICLES = 16


@dataclasses.dataclass(frozen=True)
class Known:
    """A program whose evidence and posterior are known.

    Attributes:
        program: returns a vector, Gaussian given the data.
        log_evidence: log Z, nats.
        log_peak: log of the product of the peaks of the observations' densities, nats.
        mean: (D,) of the posterior.
        variance: (D,) of the posterior.
    """

    program: Program
    log_evidence: float
    log_peak: float
    mean: np.ndarray
    variance: np.ndarray


@model
def local_level(ys: Any) -> Any:
    """An autoregression observed with noise; returns the path."""

    def step(x: Any, y: Any) -> Any:
        x = pi.sample("x", dist.Normal(0.9 * x, 0.7))
        pi.observe("y", dist.Normal(x, 0.8), y)
        return x, x

    return jax.lax.scan(step, pi.sample("x0", dist.Normal(0.0, 0.5)), ys)[1]


@model
def two_coefficients(ys: Any) -> Any:
    """A regression whose coefficients are drawn before the loop that observes; returns them."""
    b = pi.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def step(carry: Any, xy: Any) -> Any:
        h, y = xy
        pi.observe("y", dist.Normal(b @ h, 0.8), y)
        return carry, None

    jax.lax.scan(step, (), (jnp.asarray(_DESIGN), ys))
    return b


_PATH = np.array([0.6, -0.3, 0.4])
_DESIGN = np.array([[1.0, 0.2], [1.0, -0.9], [1.0, 1.1]])
_RESPONSE = np.array([0.4, -0.5, 0.9])


def known_programs() -> tuple[Known, ...]:
    """The programs of the test, with their truth by conditioning a joint normal law."""
    size = len(_PATH)
    # x_t = 0.9^t x_0 + sum_s 0.9^(t-s) e_s
    powers = np.array([[0.9 ** (t - s) if s <= t else 0.0 for s in range(size)] for t in range(size)])
    start = 0.9 ** np.arange(1, size + 1)
    cov = 0.7**2 * powers @ powers.T + 0.5**2 * np.outer(start, start)
    return (
        _conditioned(local_level(jnp.asarray(_PATH)), cov, np.eye(size), _PATH),
        _conditioned(two_coefficients(jnp.asarray(_RESPONSE)), np.eye(2), _DESIGN, _RESPONSE),
    )


def _conditioned(program: Program, cov: np.ndarray, design: np.ndarray, y: np.ndarray) -> Known:
    """A N(0, cov) vector x given y ~ N(design x, 0.8^2)."""
    noise = 0.8
    law: Any = scipy.stats.multivariate_normal
    cov_y = design @ cov @ design.T + noise**2 * np.eye(len(y))
    gain = np.linalg.solve(cov_y, design @ cov).T
    return Known(
        program,
        float(law(np.zeros(len(y)), cov_y).logpdf(y)),
        float(-len(y) * (np.log(noise) + 0.5 * np.log(2 * np.pi))),
        gain @ y,
        np.diag(cov - gain @ design @ cov),
    )


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Z": lambda x: jnp.ones(()),
    "first": lambda x: norm.cdf(x[0]),
    "last": lambda x: norm.cdf(x[-1]),
}


def _truth(known: Known) -> dict[str, float]:
    level = scipy.stats.norm.cdf(known.mean / np.sqrt(1 + known.variance))
    return {"Z": 1.0, "first": float(level[0]), "last": float(level[-1])}


def estimates(program: Program, log_evidence: float, num_runs: int, seed: int) -> dict[str, np.ndarray]:
    """Independent copies of X for each function: (num_runs,) arrays.

    Args:
        program: returns a vector, or a population of vectors, or a population of those.
        log_evidence: what estimates are divided by, nats.
        num_runs: how many.
        seed: of the runs.
    """

    def one(key: jax.Array) -> jax.Array:
        handler = Forward()
        value, state, _ = program.staged.run(program.operands, handler, handler.start(key), {})
        return jnp.exp(state["log_weight"] - log_evidence) * _integral(value)

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(
        jax.random.split(jax.random.key(seed), num_runs)
    )
    return dict(zip(_FUNCTIONS, np.asarray(found, np.float64).T, strict=True))


def _integral(value: Any) -> jax.Array:
    """(functions,), the integrals of the functions against the measure that a returned value stands for."""
    if isinstance(value, Population):
        each = jax.vmap(_integral)(value.particles)
        return jnp.exp(value.collected) * jnp.mean(jnp.exp(value.log_weights)[:, None] * each, axis=0)
    return jnp.stack([f(value) for f in _FUNCTIONS.values()])


def check_unbiased(
    transform: Callable[[Program], Program],
    name: str,
    seed: int = 0,
    programs: Iterable[Known] | None = None,
    num_runs: int = _RUNS,
) -> Iterator[Check]:
    """Test a transformation of programs for unbiasedness on the known programs.

    Args:
        transform: program to program, returning the program's value or (nested) populations of it.
        name: as it is called in the table.
        seed: of the runs.
        programs: `known_programs()` by default.
        num_runs: independent runs for each program.
    """
    for known in known_programs() if programs is None else programs:
        label = known.program.name
        try:
            found = estimates(transform(known.program), known.log_evidence, num_runs, seed)
        except ProbinfError as error:
            yield Check(name, "unbiased", label, np.nan, LEAST_P, "statistical", None, f"Does not apply: {error}")
            continue
        bound = float(np.exp(known.log_peak - known.log_evidence))
        exceeded = bool(found["Z"].max() > bound * (1 + 1e-9))
        for quantity, mean in _truth(known).items():
            p = p_of_mean(found[quantity], mean, None if exceeded else bound)
            check = statistical_check(
                name,
                "unbiased",
                f"{label}, {quantity}",
                p,
                num_runs,
                f"; mean {found[quantity].mean():.4g}, expected {mean:.4g}",
            )
            if exceeded and check.passed:
                note = f"Estimates of Z exceed {bound:.3g} Z, no bound is known: only that they are not too large."
                check = dataclasses.replace(check, passed=None, note=note)
            yield check


def populations() -> Iterator[tuple[str, Callable[[Program], Program]]]:
    """Every scheme, resampling always and where the effective sample size is low."""
    for scheme in SCHEMES:
        for threshold in (1.0, 0.5):

            def apply(program: Program, scheme: str = scheme, threshold: float = threshold) -> Program:
                return population(program, _PARTICLES, resample=scheme, threshold=threshold)

            yield f"population({_PARTICLES}, {scheme}, {threshold:g})", apply
