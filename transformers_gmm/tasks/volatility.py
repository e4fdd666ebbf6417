"""Ten log volatilities behind thirty returns: a sensor whose mean says nothing and whose variance says all."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks.ranges import known
from transformers_gmm.updates import chosen, factor

DIM, NUM_RETURNS = 10, 30
LEVEL, PERSISTENCE, SCALE = 0.0, 0.95, 0.3  # of the autoregression: chosen here, the paper gives none
LOADINGS = np.random.default_rng(20).standard_normal((NUM_RETURNS, DIM))
_GRAM = LOADINGS.T @ LOADINGS
NOISE = np.linalg.inv(_GRAM)  # covariance of the least-squares estimate's error
_PROJECTION = np.linalg.solve(_GRAM, LOADINGS.T)
_SWEEPS = 2
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
_LEAST_NOISE, _LEAST_PRECISION = 1e-4, 1e-4  # what rounding of 32 bits may not go below


class Volatility(AbstractRecurrentTask):
    """x' = 0.95 x + 0.3 e, z ~ N(0, F diag(exp x) F' + I): 10 states, 30 returns, F fixed and known.

    The returns enter as u = (F'F)^-1 F' z, which is sufficient: u ~ N(0, diag(exp x) + (F'F)^-1). The base is
    expectation propagation within each component.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.3.2 and appendix J.
    """

    name: str = eqx.field(static=True, default="volatility")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=DIM, num_components=4, context={"estimate": DIM, "previous": 1 + 2 * DIM}, token_features=2 * DIM,
            width=96, heads=4, layers=3, feedforward=192,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=4096, learning_rate=3e-4, warm_up=0.1, seed=5)
    )
    sensors: dict[str, int] = eqx.field(static=True, default_factory=lambda: {"returns": NUM_RETURNS})
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=1.0)
    horizon: int = eqx.field(static=True, default=100)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=8)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 5)
        k = self.config.num_components
        logits = jnp.log(jax.random.dirichlet(keys[0], jnp.full(k, 0.5), (n,)) + 1e-6)
        spread = jax.random.uniform(keys[1], (n, 1, 1), maxval=1.0)
        means = LEVEL * (1 - PERSISTENCE) + spread * jax.random.normal(keys[2], (n, k, DIM))
        factors = jnp.broadcast_to(jnp.eye(DIM), (n, k, DIM, DIM))
        prior = Components(jax.nn.log_softmax(logits, axis=-1), means, factors)
        start = prior.sample(keys[3], 1)[:, 0]
        keys = jax.random.split(keys[4], 2)
        noise = SCALE * jax.random.normal(keys[0], (self.horizon, n, DIM))

        def move(x, noise):
            x = LEVEL * (1 - PERSISTENCE) + PERSISTENCE * x + noise
            return x, x

        _, states = jax.lax.scan(move, start, noise)
        values = simulate_returns(keys[1], states)
        present = jnp.ones((self.horizon, n), bool)
        elapsed, none = jnp.ones((self.horizon, n)), jnp.zeros((self.horizon, n, 0))
        return Series(prior, states, Step(elapsed, none, {"returns": values}, {"returns": present}))

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array) -> dist.Distribution:
            return dist.Normal(LEVEL * (1 - PERSISTENCE) + PERSISTENCE * x, SCALE).to_event(1)

        def returns(x: Array) -> dist.Distribution:
            factors = jnp.asarray(LOADINGS, x.dtype) * jnp.exp(x / 2)[None, :]
            eye = jnp.eye(NUM_RETURNS, dtype=x.dtype)
            return dist.MultivariateNormal(jnp.zeros(NUM_RETURNS, x.dtype), factors @ factors.T + eye)

        return System(prior, move, {"returns": returns}, name="volatility")

    def problem(self, previous: Components, step: Step) -> Problem:
        predicted = chosen(step.elapsed > 0, _moved(previous), previous)
        present = step.present["returns"]
        kind = predicted.means.dtype
        estimate = step.values["returns"].astype(kind) @ jnp.asarray(_PROJECTION.T, kind)
        base = _updated(predicted, estimate, present)
        size = jnp.log(estimate**2 + _row(np.diag(NOISE), estimate))
        misfit = jnp.where(present[..., None, None], size[..., None, :] - base.means, 0)
        own = jnp.log(jnp.sqrt(jnp.sum(base.scale_tril**2, axis=-1)))
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate([misfit / 3, own], axis=-1),
            {"estimate": size[..., None, :] / 3, "previous": _summary(predicted)},
            {"estimate": present[..., None], "previous": known(predicted)},
        )


def simulate_returns(key: jax.Array, states: Float[Array, "*batch dim"]) -> Float[Array, "*batch returns"]:
    """Returns (..., 30) of log volatilities (..., 10)."""
    keys = jax.random.split(key)
    factors = jnp.exp(states / 2) * jax.random.normal(keys[0], states.shape, states.dtype)
    noise = jax.random.normal(keys[1], (*states.shape[:-1], NUM_RETURNS), states.dtype)
    return factors @ jnp.asarray(LOADINGS.T, states.dtype) + noise


def log_density(returns: Float[Array, "*batch returns"], states: Float[Array, "*batch dim"]) -> Array:
    """Log density of the least-squares estimate of the returns' factors given states, nats."""
    kind = states.dtype
    u = returns.astype(kind) @ jnp.asarray(_PROJECTION.T, kind)
    covariance = _diagonal(jnp.exp(states)) + _row2(NOISE, states)
    root = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(root, u[..., None], lower=True)[..., 0]
    log_det = jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
    return -0.5 * jnp.sum(white**2, axis=-1) - log_det - 0.5 * DIM * jnp.log(2 * jnp.pi)


def _moved(belief: Components) -> Components:
    covariances = PERSISTENCE**2 * belief.covariances
    noise = jnp.asarray(SCALE**2 * np.eye(DIM), covariances.dtype)
    means = LEVEL * (1 - PERSISTENCE) + PERSISTENCE * belief.means
    return Components(belief.log_weights, means, factor(covariances + _row2(noise, belief.means)))


class _Fit(NamedTuple):
    """A component's posterior so far, and the Gaussian factor exp(shift x - precision x^2 / 2) of each volatility."""

    mean: Array
    covariance: Array
    precision: Array
    shift: Array
    evidence: Array


def _updated(belief: Components, estimate: Array, present: Array) -> Components:
    """Expectation propagation within each component, and its evidence.

    References:
        Minka (2001), Expectation Propagation for Approximate Bayesian Inference, UAI, section 3.
    """
    none = jnp.zeros_like(belief.means)
    fit = _Fit(belief.means, belief.covariances, none, none, jnp.zeros_like(belief.log_weights))
    for _ in range(_SWEEPS):
        fit = _swept(fit, belief, estimate)
    here = present[..., None]
    return Components(
        jax.nn.log_softmax(belief.log_weights + jnp.where(here, fit.evidence, 0), axis=-1),
        jnp.where(here[..., None], fit.mean, belief.means),
        jnp.where(here[..., None, None], factor(fit.covariance), belief.scale_tril),
    )


def _swept(fit: _Fit, belief: Components, estimate: Array) -> _Fit:
    """All factors anew.

    Given the other volatilities, what the returns say of one of them is a single value u_i ~ N(0, exp(x_i) + n_i), so
    the moments of a component's marginal times that factor are a sum over a line. The others are held at their means,
    on which u_i and n_i hardly depend: the noise is almost diagonal. One sweep leaves a thousandth of a nat to two.
    """
    level = jnp.exp(jnp.clip(fit.mean, -12, 12))
    known, wider = _conditioned(_row2(_GRAM, fit.mean), level)  # inverse covariance of the estimate
    own, solved = _diagonal_of(known), jnp.sum(known * estimate[..., None, None, :], axis=-1)
    value, noise = solved / own, jnp.maximum(1 / own - level, _LEAST_NOISE)
    marginal = _diagonal_of(fit.covariance)
    variance = 1 / jnp.maximum(1 / marginal - fit.precision, _LEAST_PRECISION)  # without the factor: its cavity
    centre = variance * (fit.mean / marginal - fit.shift)
    log_mass, mean, tilted = _tilted(centre, variance, value, noise)
    precision = jnp.maximum(1 / tilted - 1 / variance, _LEAST_PRECISION)
    shift = mean * (precision + 1 / variance) - centre / variance
    covariance, narrower = _conditioned(belief.covariances, precision)
    pull = shift - precision * belief.means
    moved = jnp.sum(covariance * pull[..., None, :], axis=-1)
    # Log scale of each Gaussian factor, then the integral of the prior times all of them; both about the prior's mean.
    gap, growth = centre - belief.means, 1 + variance * precision
    scale = log_mass + 0.5 * (jnp.log(growth) - variance / growth * (pull - precision * gap) ** 2)
    scale = scale - pull * gap + 0.5 * precision * gap**2
    # The factors' product is no density of all returns: at the means held it is made so.
    scale = scale - 0.5 * (jnp.log(own) - value * solved + solved * estimate[..., None, :])
    evidence = jnp.sum(scale + 0.5 * pull * moved, axis=-1) - 0.5 * (narrower + wider)
    return _Fit(belief.means + moved, covariance, precision, shift, evidence)


def _tilted(centre: Array, variance: Array, value: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Log mass, mean and variance of N(x; centre, variance) N(value; 0, exp(x) + noise), by Gauss-Hermite sums."""
    x = centre[..., None] + jnp.sqrt(variance)[..., None] * _row(_NODES, centre[..., None])
    total = noise[..., None] + jnp.exp(jnp.clip(x, -12, 12))
    log_terms = _row(_LOG_WEIGHTS, x) - 0.5 * (jnp.log(2 * jnp.pi * total) + value[..., None] ** 2 / total)
    log_mass = jax.nn.logsumexp(log_terms, axis=-1)
    weights = jnp.exp(log_terms - log_mass[..., None])
    mean = jnp.sum(weights * x, axis=-1)
    return log_mass, mean, jnp.sum(weights * (x - mean[..., None]) ** 2, axis=-1)


def _conditioned(covariance: Array, precision: Array) -> tuple[Array, Array]:
    """(C^-1 + diag(p))^-1 and log det(I + C diag(p)), one coordinate after the other: no factorisation."""
    grown = jnp.zeros(jnp.broadcast_shapes(covariance.shape[:-2], precision.shape[:-1]), precision.dtype)
    for i in range(DIM):
        column, growth = covariance[..., i], 1 + precision[..., i] * covariance[..., i, i]
        taken = (precision[..., i] / growth)[..., None] * column
        covariance = covariance - taken[..., :, None] * column[..., None, :]
        grown = grown + jnp.log(growth)
    return covariance, grown


def _diagonal_of(matrices: Array) -> Array:
    return jnp.diagonal(matrices, axis1=-2, axis2=-1)


def _summary(belief: Components) -> Array:
    weight = jnp.maximum(belief.log_weights, -12.0)[..., None] / 4
    own = jnp.log(jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1)))
    return jnp.concatenate([weight, belief.means, own], axis=-1)


def _diagonal(vectors: Array) -> Array:
    return vectors[..., None] * _row2(np.eye(DIM), vectors)


def _row(vector: np.ndarray, like: Array) -> Array:
    return jnp.asarray(vector, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _row2(matrix: np.ndarray | Array, like: Array) -> Array:
    return jnp.asarray(matrix, like.dtype).reshape((1,) * (like.ndim - 1) + matrix.shape)
