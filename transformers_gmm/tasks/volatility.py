"""Ten log volatilities behind thirty returns: a sensor whose mean says nothing and whose variance says all."""

from __future__ import annotations

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
_SCORING_STEPS = 3  # one leaves most of a nat to a particle filter, three hardly any


class Volatility(AbstractRecurrentTask):
    """x' = 0.95 x + 0.3 e, z ~ N(0, F diag(exp x) F' + I): 10 states, 30 returns, F fixed and known.

    The returns enter as u = (F'F)^-1 F' z, which is sufficient: u ~ N(0, diag(exp x) + (F'F)^-1). The base is
    Laplace's approximation of each component's posterior.

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


def _updated(belief: Components, estimate: Array, present: Array) -> Components:
    """The mode of each component's posterior by Fisher scoring, the information there, and Laplace's evidence."""
    precision, _ = _inverse(belief.scale_tril)
    x = belief.means
    for _ in range(_SCORING_STEPS):
        _, gradient, information = _likelihood(x, estimate)
        pull = jnp.einsum("...ij,...j->...i", precision, x - belief.means)
        root = jnp.linalg.cholesky(precision + information)
        shift = jax.scipy.linalg.cho_solve((root, True), (gradient - pull)[..., None])[..., 0]
        x = x + jnp.clip(shift, -2, 2)  # a step from where the volatility is far too low overshoots
    fit, _, information = _likelihood(x, estimate)
    covariances, _ = _inverse(jnp.linalg.cholesky(precision + information))
    factors = factor(covariances)
    gap = x - belief.means
    narrower = _log_diagonal(factors) - _log_diagonal(belief.scale_tril)
    evidence = fit - 0.5 * jnp.einsum("...i,...ij,...j->...", gap, precision, gap) + narrower
    here = present[..., None]
    return Components(
        jax.nn.log_softmax(belief.log_weights + jnp.where(here, evidence, 0), axis=-1),
        jnp.where(here[..., None], x, belief.means),
        jnp.where(here[..., None, None], factors, belief.scale_tril),
    )


def _likelihood(x: Array, estimate: Array) -> tuple[Array, Array, Array]:
    """Log density of the estimate at x (..., K, D) up to a constant, its gradient, and the Fisher information."""
    level = jnp.exp(jnp.clip(x, -12, 12))
    inverse, log_det = _inverse(jnp.linalg.cholesky(_diagonal(level) + _row2(NOISE, x)))
    solved = jnp.einsum("...ij,...j->...i", inverse, jnp.broadcast_to(estimate[..., None, :], x.shape))
    gradient = 0.5 * level * (solved**2 - jnp.diagonal(inverse, axis1=-2, axis2=-1))
    information = 0.5 * level[..., :, None] * level[..., None, :] * inverse**2
    fit = -0.5 * log_det - 0.5 * jnp.sum(solved * estimate[..., None, :], axis=-1)
    return fit, gradient, information


def _inverse(root: Array) -> tuple[Array, Array]:
    """Inverse and log determinant of matrices (..., D, D) with these lower Cholesky factors."""
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    half = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
    return jnp.swapaxes(half, -1, -2) @ half, 2 * _log_diagonal(root)


def _summary(belief: Components) -> Array:
    weight = jnp.maximum(belief.log_weights, -12.0)[..., None] / 4
    own = jnp.log(jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1)))
    return jnp.concatenate([weight, belief.means, own], axis=-1)


def _log_diagonal(factors: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)


def _diagonal(vectors: Array) -> Array:
    return vectors[..., None] * _row2(np.eye(DIM), vectors)


def _row(vector: np.ndarray, like: Array) -> Array:
    return jnp.asarray(vector, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _row2(matrix: np.ndarray | Array, like: Array) -> Array:
    return jnp.asarray(matrix, like.dtype).reshape((1,) * (like.ndim - 1) + matrix.shape)
