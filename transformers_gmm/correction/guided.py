r"""Guided motions: every earlier point's motion, tilted by what the base filter learned from the event.

The base's belief before and after the event are mixtures π and q; their ratio stands for the likelihood. With one
Gaussian N(μ, Π) of π's moments in the denominator, motion times ratio is Gaussian for each point j and component k:

$$N(x; f_j, Q_j)\, \frac{v_k N(x; m_k, P_k)}{N(x; \mu, \Pi)} \propto v_k Z_{jk} N(x; c_{jk}, M_{jk}^{-1}), \qquad
  M_{jk} = Q_j^{-1} + P_k^{-1} - \Pi^{-1}.$$

M is positive definite because Π contains the noise of the motion. For a linear-Gaussian system and its Kalman filter
the mixture of all of them is the exact posterior of the weighted points.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.representations.mixture import GaussianMixture
from smc.small_normal import cholesky, solve_lower, solve_transposed


class PrecisionMixture(eqx.Module):
    """Gaussians given by means (K, d) and lower factors R of their precisions R R', and log weights (K,)."""

    log_weights: Float[Array, " comps"]
    means: Float[Array, "comps dim"]
    precision_tril: Float[Array, "comps dim dim"]

    def log_prob(self, x: Float[Array, "n dim"]) -> Float[Array, " n"]:
        """Log density at points, nats."""
        dim = x.shape[-1]
        # R'(x - m), without the difference of every pair of vectors in memory.
        turned = jnp.einsum("kij,ni->nkj", self.precision_tril, x)
        centres = jnp.einsum("kij,ki->kj", self.precision_tril, self.means)
        log_det = jnp.sum(jnp.log(jnp.diagonal(self.precision_tril, axis1=1, axis2=2)), axis=1)
        constant = self.log_weights + log_det - 0.5 * dim * math.log(2 * math.pi)
        return jax.nn.logsumexp(constant[None] - 0.5 * jnp.sum((turned - centres[None]) ** 2, axis=2), axis=1)

    def at(self, which: Array, noise: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
        """Draws of the components `which` (n,) from standard normal noise."""
        return self.means[which] + jax.vmap(solve_transposed)(self.precision_tril[which], noise)


def guide(prediction: GaussianMixture, before: GaussianMixture, after: GaussianMixture) -> PrecisionMixture:
    """The tilted motions of all N points and K components, N K Gaussians.

    Args:
        prediction: N weighted motions N(f_j, Q_j).
        before: the base's belief before the event.
        after: the base's belief after the event.

    Returns:
        The plain motions, each K times, where a tilted one is not a Gaussian (a base that is more certain before the
        event than the motion allows).
    """
    dim = prediction.dim
    centre, spread = before.mean, cholesky(before.cov)
    before_precision = _precision(spread)

    def pair(f: Array, root_q: Array, m: Array, root_p: Array) -> tuple[Array, Array, Array]:
        motion, gain = _precision(root_q), _precision(root_p)
        # Coordinates relative to f: the motion may be far narrower than anything else.
        a, b = m - f, centre - f
        factor = cholesky(motion + gain - before_precision)
        h = gain @ a - before_precision @ b
        white = solve_lower(factor, h)
        shift = solve_transposed(factor, white)
        log_dets = _log_det(root_q) + _log_det(root_p) - _log_det(spread) + _log_det(factor)
        log_z = 0.5 * (white @ white - a @ gain @ a + b @ before_precision @ b) - log_dets
        return f + shift, factor, log_z

    against_all = jax.vmap(pair, in_axes=(None, None, 0, 0))
    means, factors, log_z = jax.vmap(against_all, in_axes=(0, 0, None, None))(
        prediction.means, prediction.scale_tril, after.means, after.scale_tril
    )
    plain = jax.vmap(lambda root: cholesky(_precision(root)))(prediction.scale_tril)
    good = jnp.all(jnp.isfinite(factors)) & jnp.all(jnp.isfinite(log_z)) & jnp.all(jnp.isfinite(means))
    means = jnp.where(good, means, prediction.means[:, None])
    factors = jnp.where(good, factors, plain[:, None])
    log_z = jnp.where(good, log_z, jnp.zeros_like(log_z))
    log_weights = prediction.log_weights[:, None] + after.log_weights[None] + log_z
    return PrecisionMixture(
        jax.nn.log_softmax(log_weights.reshape(-1)), means.reshape(-1, dim), factors.reshape(-1, dim, dim)
    )


def _precision(root: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    inverse = solve_lower(root, jnp.eye(root.shape[0], dtype=root.dtype))
    return inverse.T @ inverse


def _log_det(root: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Half the log determinant of R R'."""
    return jnp.sum(jnp.log(jnp.diagonal(root)))
