"""A batch of Gaussian mixtures as arrays: what the networks read and write."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.representations.mixture import GaussianMixture
from smc.small_normal import SMALL, cholesky


class Components(eqx.Module):
    """Gaussian mixtures of K components in D dimensions, with any leading batch axes.

    Attributes:
        log_weights: normalised log weights, shape (..., K); `-inf` marks an empty component.
        means: shape (..., K, D).
        scale_tril: lower Cholesky factors of the covariances, shape (..., K, D, D).
    """

    log_weights: Float[Array, "*batch comps"]
    means: Float[Array, "*batch comps dim"]
    scale_tril: Float[Array, "*batch comps dim dim"]

    @classmethod
    def from_mixture(cls, mixture: GaussianMixture) -> Components:
        """The same mixture, without batch axes."""
        return cls(mixture.log_weights, mixture.means, mixture.scale_tril)

    def as_mixture(self) -> GaussianMixture:
        """The same as a `GaussianMixture`; there must be no batch axes."""
        return GaussianMixture(jnp.exp(self.log_weights), self.means, scale_tril=self.scale_tril)

    @property
    def num_components(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[-1]

    @property
    def covariances(self) -> Float[Array, "*batch comps dim dim"]:
        """Shape (..., K, D, D)."""
        return self.scale_tril @ jnp.swapaxes(self.scale_tril, -1, -2)

    @property
    def mean(self) -> Float[Array, "*batch dim"]:
        """Shape (..., D)."""
        return jnp.sum(jnp.exp(self.log_weights)[..., None] * self.means, axis=-2)

    @property
    def variance(self) -> Float[Array, "*batch dim"]:
        """Marginal variances, shape (..., D)."""
        gaps = self.means - self.mean[..., None, :]
        within = jnp.sum(self.scale_tril**2, axis=-1)
        return jnp.sum(jnp.exp(self.log_weights)[..., None] * (within + gaps**2), axis=-2)

    @property
    def cov(self) -> Float[Array, "*batch dim dim"]:
        """Shape (..., D, D)."""
        gaps = self.means - self.mean[..., None, :]
        spread = self.covariances + gaps[..., :, None] * gaps[..., None, :]
        return jnp.sum(jnp.exp(self.log_weights)[..., None, None] * spread, axis=-3)

    def log_prob(self, x: Float[Array, "*batch points dim"]) -> Float[Array, "*batch points"]:
        """Log density of points (..., M, D), shape (..., M), in nats."""
        gap = x[..., :, None, :] - self.means[..., None, :, :]
        factor = self.scale_tril[..., None, :, :, :]
        white = _whiten(factor, gap)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
        constant = 0.5 * self.dim * math.log(2 * math.pi)
        each = -0.5 * jnp.sum(white**2, axis=-1) - log_det - constant
        return jax.nn.logsumexp(self.log_weights[..., None, :] + each, axis=-1)

    def sample(self, key: jax.Array, n: int) -> Float[Array, "*batch n dim"]:
        """`n` draws of each mixture, shape (..., n, D)."""
        key_which, key_noise = jax.random.split(key)
        batch = self.log_weights.shape[:-1]
        which = jax.random.categorical(key_which, self.log_weights, shape=(n, *batch), axis=-1)
        which = jnp.moveaxis(which, 0, -1)
        means = jnp.take_along_axis(self.means, which[..., None], axis=-2)
        factors = jnp.take_along_axis(self.scale_tril, which[..., None, None], axis=-3)
        noise = jax.random.normal(key_noise, means.shape, means.dtype)
        return means + jnp.sum(factors * noise[..., None, :], axis=-1)


def from_covariances(
    log_weights: Float[Array, "*batch comps"],
    means: Float[Array, "*batch comps dim"],
    covariances: Float[Array, "*batch comps dim dim"],
) -> Components:
    """Components from covariance matrices, and weights that need not be normalised."""
    return Components(jax.nn.log_softmax(log_weights, axis=-1), means, cholesky(covariances))


def heaviest(components: Components, k: int) -> Components:
    """The `k` components of most weight, heaviest first, renormalised; with fewer than `k`, empty ones are added."""
    missing = k - components.num_components
    if missing > 0:
        components = Components(
            jnp.concatenate([components.log_weights, _empty(components.log_weights, missing)], -1),
            jnp.concatenate([components.means, jnp.repeat(components.means[..., :1, :], missing, -2)], -2),
            jnp.concatenate([components.scale_tril, jnp.repeat(components.scale_tril[..., :1, :, :], missing, -3)], -3),
        )
    log_weights, which = jax.lax.top_k(components.log_weights, k)
    means = jnp.take_along_axis(components.means, which[..., None], axis=-2)
    factors = jnp.take_along_axis(components.scale_tril, which[..., None, None], axis=-3)
    return Components(jax.nn.log_softmax(log_weights, axis=-1), means, factors)


def _empty(like: Array, count: int) -> Array:
    return jnp.full((*like.shape[:-1], count), -jnp.inf, like.dtype)


def _whiten(factor: Array, gap: Array) -> Array:
    """L^-1 gap for factors (..., D, D) and gaps (..., D); written out for few dimensions."""
    dim = gap.shape[-1]
    if dim > SMALL:
        factor = jnp.broadcast_to(factor, (*gap.shape, dim))
        return jax.scipy.linalg.solve_triangular(factor, gap[..., None], lower=True)[..., 0]
    white: list[Array] = []
    for i in range(dim):
        rest = gap[..., i]
        for k in range(i):
            rest = rest - factor[..., i, k] * white[k]
        white.append(rest / factor[..., i, i])
    return jnp.stack(white, axis=-1)
