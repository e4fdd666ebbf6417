"""The posteriors of `benchmarks.ensembles`, as each package takes them, and the targets.

A program for us, a function of the unconstrained vector for NumPyro and BlackJAX, a PyMC model for nutpie and a program
for Stan: constants apart, the same density with the same data. Eight schools is non-centred for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi

_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


class Target(NamedTuple):
    """How many times the peer's effective draws a CPU second ours must reach; None where no such target is set."""

    ours: str
    peer: str
    must: float | None
    ambitious: float | None


@dataclasses.dataclass(frozen=True)
class Case:
    """One posterior.

    Attributes:
        dim: number of unconstrained coordinates.
        program: of a number that changes the data, so that a second call has new ones.
        logdensity: of the unconstrained vector, for NumPyro and BlackJAX.
        pymc: builds the PyMC model, for nutpie.
        stan: Stan's program and its data.
        sites: the variables of the last two that make up the vector.
        targets: the ratios that are wanted.
        non_centred: sites that we sample through their standardised value.
        turns: runs of each contestant that count.
    """

    dim: int
    program: Callable[[float], Any]
    logdensity: Callable[[Any], Any]
    pymc: Callable[[], Any]
    stan: tuple[str, dict[str, Any]]
    sites: tuple[str, ...]
    targets: tuple[Target, ...]
    non_centred: tuple[str, ...] = ()
    turns: int = 7


@pi.model
def eight_schools(y: Any, sigma: Any) -> None:
    """Treatment effects in eight schools."""
    mu = pi.sample("mu", dist.Normal(0.0, 5.0))
    tau = pi.sample("tau", dist.HalfCauchy(5.0))
    with pi.plate("school", 8):
        theta = pi.sample("theta", dist.Normal(mu, tau))
        pi.observe("y", dist.Normal(theta, sigma), y)


@pi.model
def logistic(X: Any, y: Any) -> None:
    """Logistic regression with standard normal coefficients."""
    beta = pi.sample("beta", dist.Normal(jnp.zeros(X.shape[1]), 1.0).to_event(1))
    pi.observe("y", dist.Bernoulli(logits=X @ beta).to_event(1), y)


@pi.model
def gaussian(sd: Any) -> None:
    """Independent normals of given standard deviations."""
    pi.sample("x", dist.Normal(jnp.zeros_like(sd), sd).to_event(1))


@pi.model
def correlated(precision: Any) -> None:
    """A normal vector of given precision matrix."""
    pi.sample("x", dist.MultivariateNormal(jnp.zeros(len(precision)), precision_matrix=precision))


_SCHOOLS_STAN = """
data { vector[8] y; vector<lower=0>[8] sigma; }
parameters { real mu; real<lower=0> tau; vector[8] z; }
model {
  mu ~ normal(0, 5);
  tau ~ cauchy(0, 5);
  z ~ std_normal();
  y ~ normal(mu + tau * z, sigma);
}
"""

_LOGISTIC_STAN = """
data { int n; int d; matrix[n, d] X; array[n] int<lower=0, upper=1> y; }
parameters { vector[d] beta; }
model {
  beta ~ std_normal();
  y ~ bernoulli_logit_glm(X, 0, beta);
}
"""

_GAUSSIAN_STAN = """
data { int d; vector<lower=0>[d] sd; }
parameters { vector[d] x; }
model { x ~ normal(0, sd); }
"""


_CORRELATED_STAN = """
data { int d; matrix[d, d] precision; }
parameters { vector[d] x; }
model { target += -0.5 * dot_product(x, precision * x); }
"""


def _schools_case() -> Case:
    y, sigma = jnp.asarray(_EFFECTS, jnp.float32), jnp.asarray(_ERRORS, jnp.float32)

    def logdensity(x: Any) -> Any:
        mu, log_tau, z = x[0], x[1], x[2:]
        tau = jnp.exp(log_tau)
        prior = -0.5 * (mu / 5.0) ** 2 - jnp.log1p((tau / 5.0) ** 2) + log_tau - 0.5 * jnp.sum(z**2)
        return prior - 0.5 * jnp.sum(((y - mu - tau * z) / sigma) ** 2)

    def pymc() -> Any:
        import pymc as pm

        with pm.Model() as model:
            mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
            z = pm.Normal("z", 0.0, 1.0, shape=8)
            pm.Normal("y", mu + tau * z, _ERRORS, observed=_EFFECTS)
        return model

    return Case(
        10,
        lambda shift: eight_schools(y + shift, sigma),
        logdensity,
        pymc,
        (_SCHOOLS_STAN, {"y": _EFFECTS, "sigma": _ERRORS}),
        ("mu", "tau", "z"),
        (
            Target("default", "nutpie", 2.0, 4.0),
            Target("NUTS", "nutpie", 1.5, 3.0),
            Target("NUTS", "numpyro", None, 5.0),
        ),
        ("theta",),
    )


def _logistic_case() -> Case:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 25))
    labels = (rng.random(1000) < 1.0 / (1.0 + np.exp(-rows @ (0.5 * rng.normal(size=25))))).astype(np.int32)
    X, t = jnp.asarray(rows, jnp.float32), jnp.asarray(labels)

    def logdensity(beta: Any) -> Any:
        logits = X @ beta
        return -0.5 * jnp.sum(beta**2) + jnp.sum(jax.nn.log_sigmoid(jnp.where(t == 1, logits, -logits)))

    def pymc() -> Any:
        import pymc as pm

        with pm.Model() as model:
            beta = pm.Normal("beta", 0.0, 1.0, shape=25)
            pm.Bernoulli("y", logit_p=pm.math.dot(rows, beta), observed=labels)
        return model

    return Case(
        25,
        lambda shift: logistic(X + shift, t),
        logdensity,
        pymc,
        (_LOGISTIC_STAN, {"n": 1000, "d": 25, "X": rows, "y": labels}),
        ("beta",),
        (Target("default", "nutpie", 2.0, None), Target("default", "numpyro", 1.5, 3.0)),
    )


def _gaussian_case() -> Case:
    scales = np.logspace(-1.0, 1.0, 100)
    sd = jnp.asarray(scales, jnp.float32)

    def pymc() -> Any:
        import pymc as pm

        with pm.Model() as model:
            pm.Normal("x", 0.0, scales, shape=100)
        return model

    return Case(
        100,
        lambda shift: gaussian(sd + shift),
        lambda x: -0.5 * jnp.sum((x / sd) ** 2),
        pymc,
        (_GAUSSIAN_STAN, {"d": 100, "sd": scales}),
        ("x",),
        (Target("default", "nutpie", 2.0, 4.0), Target("NUTS", "nutpie", 1.0, 2.0)),
    )


def _correlated_case() -> Case:
    """Standard deviations over two decades along random axes, so that a diagonal metric does not undo them."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    matrix = (axes / np.logspace(-1.0, 1.0, 100) ** 2) @ axes.T
    matrix = (matrix + matrix.T) / 2
    precision = jnp.asarray(matrix, jnp.float32)

    def pymc() -> Any:
        import pymc as pm

        with pm.Model() as model:
            x = pm.Flat("x", shape=100)
            pm.Potential("density", -0.5 * pm.math.dot(x, pm.math.dot(matrix, x)))
        return model

    return Case(
        100,
        lambda shift: correlated((1.0 + shift) * precision),
        lambda x: -0.5 * x @ precision @ x,
        pymc,
        (_CORRELATED_STAN, {"d": 100, "precision": matrix}),
        ("x",),
        (Target("default", "nutpie", 2.0, 4.0), Target("NUTS", "nutpie", 1.0, 2.0)),
        turns=2,  # of minutes for some
    )


def cases() -> dict[str, Case]:
    """The posteriors of the table of targets; its 100-dimensional Gaussian with independent coordinates and without."""
    return {
        "eight schools": _schools_case(),
        "logistic 1000 x 25": _logistic_case(),
        "Gaussian, 100 dimensions, independent": _gaussian_case(),
        "Gaussian, 100 dimensions, correlated": _correlated_case(),
    }
