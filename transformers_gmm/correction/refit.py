r"""A mixture moved towards a target by weighted points, without noise where it is right already.

With points $x_i$ from a proposal r, target p and mixture q, the M-step of expectation maximisation needs
$E_p[t_k]$ of the statistics $t_k(x) = \gamma_k(x)\,(1, x, x x^\top)$, whose expectations under q are known. Hence

$$E_p[t_k] \approx E_q[t_k] + \frac1n \sum_i \frac{p(x_i) - q(x_i)}{r(x_i)}\, t_k(x_i),$$

q as a control variate: the error is that of the difference alone. An exact mixture stays as it is to rounding, where
the plain weighted moments of n points would move it by a half n-th nat for every parameter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.representations.mixture_reduction import merge_pair
from smc.gaussian_filter import wrap_entries
from smc.small_normal import cholesky, solve_lower
from transformers_gmm.components import Components

_REACH = 0.75  # of one step, in Frobenius norm of the change of a component's moments over its own; below 1


def refit(
    q: Components,
    x: Float[Array, "n dim"],
    log_weights: Float[Array, " n"],
    log_proposal: Float[Array, " n"],
    angles: tuple[int, ...] = (),
    *,
    steps: int = 4,
) -> Components:
    """A few steps of expectation maximisation from `q`, components with few points staying near where they were.

    Each step moves each component by the mean of its old and new moments, the new ones with weight n_k / (n_k + p): n_k
    points fall to it, and it has p parameters. Steps are bounded, so covariances stay positive definite.

    Args:
        q: without batch axes.
        x: points.
        log_weights: of the points, target over proposal with a mean of one, nats.
        log_proposal: log density of the points' proposal, nats.
        angles: indices of the entries that are angles.
        steps: how many.

    References:
        Cappé, Douc, Guillin, Marin & Robert (2008), Adaptive importance sampling in general mixture classes, without
        the control variate.
    """
    n, dim = x.shape
    start = (jnp.exp(q.log_weights), q.means, q.covariances)
    per_component = 1 + dim + dim * (dim + 1) // 2
    trust = n * start[0] / (n * start[0] + per_component)

    def step(now: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        weights, means, covs = now
        factors = cholesky(covs)
        gaps = wrap_entries(x[None] - means[:, None], angles)  # (K, n, d)
        white = jax.vmap(lambda factor, gap: solve_lower(factor, gap.T))(factors, gaps)  # (K, d, n)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
        each = -0.5 * jnp.sum(white**2, axis=1) - log_det[:, None] - 0.5 * dim * jnp.log(2 * jnp.pi)
        each = jnp.log(weights)[:, None] + each
        log_q = jax.nn.logsumexp(each, axis=0)
        excess = jnp.exp(log_weights) - jnp.exp(log_q - log_proposal)
        safe = jnp.where(weights > 0, weights, 1)
        shares = excess[None] * jnp.exp(each - log_q[None]) / (n * safe[:, None])
        # Of (1, y), y the whitened gap: the matrix of second moments is I under the component itself.
        extended = jnp.concatenate([jnp.ones_like(white[:, :1]), white], axis=1)
        change = jnp.einsum("kn,kin,kjn->kij", shares, extended, extended)
        size = jnp.sqrt(jnp.sum(change**2, axis=(1, 2)))
        change = change * jnp.minimum(1, _REACH / jnp.maximum(size, _REACH))[:, None, None]
        mass, shift = 1 + change[:, 0, 0], change[:, 1:, 0] / (1 + change[:, :1, 0])
        inner = (jnp.eye(dim, dtype=x.dtype)[None] + change[:, 1:, 1:]) / mass[:, None, None]
        inner = inner - shift[:, :, None] * shift[:, None, :]
        moved = means + jnp.einsum("kij,kj->ki", factors, shift)
        spread = jnp.einsum("kij,kjl,kml->kim", factors, inner, factors)
        pairs = (trust * mass * weights, moved, spread, (1 - trust) * start[0], *start[1:])
        weights, means, covs = jax.vmap(merge_pair)(*pairs)
        return (weights / jnp.sum(weights), wrap_entries(means, angles), covs), None

    weights, means, covs = jax.lax.scan(step, start, length=steps)[0]
    return Components(jnp.log(weights), means, cholesky(covs))
