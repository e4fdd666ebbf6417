"""Finer components for a base: Gaussians split into several with the same mean and variances, and updated by data."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from smc.small_normal import cholesky, solve_lower
from transformers_gmm.components import Components, from_covariances
from transformers_gmm.tasks.prior_change.priors import Prior, diagonal

#: Three Gaussians whose mixture is N(0, 1) within 2 % of its peak, and in mean and variance exactly.
THREE_WEIGHTS, THREE_MEANS, THREE_SCALE = (0.21, 0.58, 0.21), (-1.12, 0.0, 1.12), (1 - 0.42 * 1.12**2) ** 0.5


def corners(prior: Prior, count: int, reach: float = 0.5) -> Components:
    """Each component as `count` equal ones, a power of two above D, moved by +-`reach` standard deviations per axis.

    The moves are rows of a Hadamard matrix, so that means and covariances are kept.
    """
    moves = reach * jnp.asarray(scipy.linalg.hadamard(count)[:, 1 : prior.means.shape[-1] + 1], prior.means.dtype)
    return _split(prior, jnp.full(count, 1 / count, moves.dtype), moves, (1 - reach**2) ** 0.5)


def thirds(prior: Prior) -> Components:
    """Each component as three per axis, 3^D in all."""
    dim, kind = prior.means.shape[-1], prior.means.dtype
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*[range(3)] * dim, indexing="ij")], axis=-1)
    each = np.prod(np.asarray(THREE_WEIGHTS)[grid], axis=-1)
    return _split(prior, jnp.asarray(each, kind), jnp.asarray(np.asarray(THREE_MEANS)[grid], kind), THREE_SCALE)


def laplace(
    split: Components, residuals: Callable[[Float[Array, " dim"]], Float[Array, " rows"]], steps: int = 4
) -> Components:
    r"""Update of diagonal components by data with log likelihood $-\tfrac12 |r(\theta)|^2$, by Gauss-Newton steps.

    Args:
        split: prior components, without batch axes.
        residuals: r, the whitened residuals of one parameter vector.
        steps: iterations; each moves by at most three of the component's standard deviations per axis.
    """
    scales = jnp.diagonal(split.scale_tril, axis1=-2, axis2=-1)
    jacobian = jax.jacfwd(residuals)

    def update(mean: Array, scale: Array) -> tuple[Array, Array, Array]:
        def curvature(theta: Array) -> tuple[Array, Array]:
            """Gradient of the log posterior, and the inverse of the Cholesky factor of its precision."""
            slope = jacobian(theta)
            gradient = (mean - theta) / scale**2 - slope.T @ residuals(theta)
            factor = cholesky(slope.T @ slope + jnp.diag(scale**-2))
            return gradient, solve_lower(factor, jnp.eye(len(theta), dtype=theta.dtype))

        def step(_: Array, theta: Array) -> Array:
            gradient, inverse = curvature(theta)
            return theta + jnp.clip(inverse.T @ (inverse @ gradient), -3 * scale, 3 * scale)

        theta = jax.lax.fori_loop(0, steps, step, mean)
        _, inverse = curvature(theta)
        fit = jnp.sum(residuals(theta) ** 2) + jnp.sum(((theta - mean) / scale) ** 2)
        log_det = jnp.sum(jnp.log(jnp.diagonal(inverse))) - jnp.sum(jnp.log(scale))
        return theta, inverse.T @ inverse, log_det - 0.5 * fit

    means, covariances, log_evidence = jax.vmap(update)(split.means, scales)
    return from_covariances(split.log_weights + log_evidence, means, covariances)


def _split(prior: Prior, weights: Array, moves: Array, shrink: float) -> Components:
    """Each prior component as J: moved by `moves` (J, D) standard deviations, its own shrunk."""
    batch, dim = prior.log_weights.shape[:-1], prior.means.shape[-1]
    ahead = tuple(range(len(batch) + 1))
    log_weights = prior.log_weights[..., :, None] + jnp.expand_dims(jnp.log(weights), ahead)
    means = prior.means[..., :, None, :] + prior.scales[..., :, None, :] * jnp.expand_dims(moves, ahead)
    scales = shrink * jnp.broadcast_to(prior.scales[..., :, None, :], means.shape)
    return Components(
        log_weights.reshape(*batch, -1),
        means.reshape(*batch, -1, dim),
        diagonal(scales).reshape(*batch, -1, dim, dim),
    )
