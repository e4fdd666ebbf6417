"""Static targets for samplers, each as a program, as JAX densities and as a NumPy model, with its log evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats
from scipy.special import expit, gammaln

import probinf as pi


@dataclasses.dataclass(frozen=True)
class Target:
    """One posterior, on unconstrained space for whoever needs densities.

    Attributes:
        name: with its size.
        dim: d.
        program: for our methods.
        log_prior: of one position (d,), in JAX.
        log_likelihood: of one position (d,), in JAX.
        log_likelihoods: of many positions (N, d), in NumPy.
        prior_sd: (d,) for normal priors; None for another prior.
        draw: n draws of the prior, (n, d), from a NumPy generator.
        exact: log evidence in closed form, or None.
    """

    name: str
    dim: int
    program: Any
    log_prior: Callable[[Any], Any]
    log_likelihood: Callable[[Any], Any]
    log_likelihoods: Callable[[np.ndarray], np.ndarray]
    prior_sd: np.ndarray | None
    draw: Callable[[np.random.Generator, int], np.ndarray]
    exact: float | None = None


@pi.model
def logistic(rows, prior_sd):
    """Logistic regression; rows are predictors times the label's sign."""
    b = pi.sample("b", dist.Normal(jnp.zeros_like(prior_sd), prior_sd).to_event(1))
    pi.factor("likelihood", jnp.sum(jax.nn.log_sigmoid(rows @ b)))


def _logistic(name: str, predictors: np.ndarray, rng: np.random.Generator, slope: float) -> Target:
    """Standardised predictors, prior sd 5, intercept 20 (Chopin & Ridgway 2017)."""
    predictors = (predictors - predictors.mean(0)) / predictors.std(0)
    x = np.concatenate([np.ones((len(predictors), 1)), predictors], axis=1)
    truth = slope * rng.normal(size=x.shape[1])
    sign = np.where(rng.random(len(x)) < expit(x @ truth), 1.0, -1.0)
    rows = sign[:, None] * x
    sd = np.array([20.0] + [5.0] * predictors.shape[1])
    a, s = jnp.asarray(rows), jnp.asarray(sd)

    def many(b: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0, -b @ rows.T).sum(axis=1)

    return Target(
        f"{name}, {len(x)} x {x.shape[1]}",
        x.shape[1],
        logistic(a, s),
        lambda b: jnp.sum(dist.Normal(0.0, s).log_prob(b)),
        lambda b: jnp.sum(jax.nn.log_sigmoid(a @ b)),
        many,
        sd,
        lambda rng, n: sd * rng.normal(size=(n, sd.size)),
    )


def credit_like(seed: int) -> Target:
    """As many rows and columns as the German credit data; weakly correlated predictors."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(24) + 0.2 * rng.normal(size=(24, 24)) / np.sqrt(24)
    return _logistic("logistic regression, credit-like", rng.normal(size=(1000, 24)) @ mixing, rng, 0.5)


def sonar_like(seed: int) -> Target:
    """As many rows and columns as the sonar data; neighbouring predictors have correlation 0.9."""
    rng = np.random.default_rng(seed)
    lags = np.abs(np.subtract.outer(np.arange(60), np.arange(60)))
    return _logistic(
        "logistic regression, sonar-like", rng.normal(size=(208, 60)) @ np.linalg.cholesky(0.9**lags).T, rng, 1.0
    )


@pi.model
def rates(counts):
    """Poisson counts with gamma rates, on the scale of log rates."""
    with pi.plate("row", counts.shape[0]):
        rate = pi.sample("rate", dist.Gamma(0.5, 0.02))
        pi.observe("count", dist.Poisson(rate), counts)


def skewed(seed: int) -> Target:
    """Log gamma rates, some of small counts: each posterior has one long tail."""
    counts = np.array([0, 1, 0, 2, 40, 0, 3, 1, 120, 0])
    a, b = 0.5, 0.02
    exact = np.sum(
        a * np.log(b) - gammaln(a) + gammaln(a + counts) - (a + counts) * np.log(b + 1) - gammaln(counts + 1)
    )
    k = jnp.asarray(counts, float)
    constant = float(gammaln(counts + 1).sum())
    normaliser = counts.size * (a * np.log(b) - gammaln(a))
    return Target(
        "skewed, 10 log gamma rates",
        counts.size,
        rates(jnp.asarray(counts)),
        lambda z: jnp.sum(a * z - b * jnp.exp(z)) + normaliser,
        lambda z: jnp.sum(k * z - jnp.exp(z)) - constant,
        lambda z: (counts * z - np.exp(z)).sum(axis=1) - constant,
        None,
        # Gamma(a) as Gamma(a + 1) times a power of a uniform number: its logarithm never underflows.
        lambda rng, n: (
            np.log(rng.gamma(a + 1, size=(n, counts.size))) - rng.exponential(size=(n, counts.size)) / a - np.log(b)
        ),
        float(exact),
    )


_HEAVY, _AWAY, _WIDTH, _PRIOR = 0.7, 3.0, 0.5, 5.0


@pi.model
def two_hills(zero):
    """Two normal hills of weight 0.7 and 0.3."""
    x = pi.sample("x", dist.Normal(zero, _PRIOR).to_event(1))
    pi.factor("hills", _hills(x))


def _hills(x: Any) -> Any:
    parts = [
        np.log(w) + jnp.sum(dist.Normal(at, _WIDTH).log_prob(x), axis=-1)
        for w, at in ((_HEAVY, _AWAY), (1 - _HEAVY, -_AWAY))
    ]
    return jnp.logaddexp(*parts)


def bimodal(seed: int) -> Target:
    """Two hills in 4 dimensions, far apart."""
    dim, spread = 4, float(np.hypot(_PRIOR, _WIDTH))
    exact = [np.log(w) + dim * stats.norm.logpdf(at, 0, spread) for w, at in ((_HEAVY, _AWAY), (1 - _HEAVY, -_AWAY))]

    def many(x: np.ndarray) -> np.ndarray:
        parts = [
            np.log(w) + stats.norm.logpdf(x, at, _WIDTH).sum(axis=1)
            for w, at in ((_HEAVY, _AWAY), (1 - _HEAVY, -_AWAY))
        ]
        return np.logaddexp(*parts)

    return Target(
        "bimodal, 4-d",
        dim,
        two_hills(jnp.zeros(dim)),
        lambda x: jnp.sum(dist.Normal(0.0, _PRIOR).log_prob(x)),
        _hills,
        many,
        np.full(dim, _PRIOR),
        lambda rng, n: _PRIOR * rng.normal(size=(n, dim)),
        float(np.logaddexp(*exact)),
    )


TARGETS = {"credit": credit_like, "sonar": sonar_like, "skewed": skewed, "bimodal": bimodal}
