"""Reduce a Gaussian mixture to fewer components by merging the pair that costs least, again and again."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: dimensions up to which determinants are written out: batched, a call of LAPACK costs a microsecond for each matrix
_WRITTEN_OUT = 8


def merge_pair(
    weight_a: Float[Array, ""],
    mean_a: Float[Array, " dim"],
    cov_a: Float[Array, "dim dim"],
    weight_b: Float[Array, ""],
    mean_b: Float[Array, " dim"],
    cov_b: Float[Array, "dim dim"],
) -> tuple[Float[Array, ""], Float[Array, " dim"], Float[Array, "dim dim"]]:
    """The weighted Gaussian with the total weight, mean and covariance of two weighted Gaussians."""
    weight = weight_a + weight_b
    # Two components of weight zero merge into one of weight zero; the share is then irrelevant but must be finite.
    share = jnp.where(weight > 0.0, weight_a / jnp.where(weight > 0.0, weight, 1.0), 0.5)
    gap = mean_a - mean_b
    mean = share * mean_a + (1.0 - share) * mean_b
    cov = share * cov_a + (1.0 - share) * cov_b + share * (1.0 - share) * jnp.outer(gap, gap)
    return weight, mean, cov


def _log_det(cov: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Of a positive definite matrix; a pivot that rounding has spoiled becomes a rounding error of its diagonal."""
    dim = cov.shape[0]
    if dim > _WRITTEN_OUT:
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(cov))))
    total = jnp.zeros((), cov.dtype)
    least = jnp.finfo(cov.dtype).eps * jnp.diagonal(cov)
    for i in range(dim):
        pivot = jnp.maximum(cov[0, 0], least[i])
        total = total + jnp.log(pivot)
        cov = cov[1:, 1:] - jnp.outer(cov[1:, 0], cov[0, 1:]) / pivot
    return total


@functools.partial(jax.jit, static_argnames="k")
def runnalls(
    weights: Float[Array, " comps"],
    means: Float[Array, "comps dim"],
    covs: Float[Array, "comps dim dim"],
    k: int,
) -> tuple[Float[Array, " k"], Float[Array, "k dim"], Float[Array, "k dim dim"]]:
    r"""Greedy merging; total mass, mean and covariance of the mixture are kept exactly.

    Empty components, of weight zero, go first.

    The cost of merging i and j is Runnalls' upper bound on the Kullback-Leibler divergence it adds,

    $$B(i, j) = \tfrac12\big[(w_i + w_j)\log|P_{ij}| - w_i \log|P_i| - w_j \log|P_j|\big].$$

    O(K d^3) per merge after an O(K^2 d^3) start.

    References:
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE TAES 43(3), eq. 21.
    """
    size = weights.shape[0]
    log_dets = jax.vmap(_log_det)(covs)

    def costs_of(i, weights, means, covs, log_dets, active):
        def cost(j):
            weight, _, cov = merge_pair(weights[i], means[i], covs[i], weights[j], means[j], covs[j])
            bound = 0.5 * (weight * _log_det(cov) - weights[i] * log_dets[i] - weights[j] * log_dets[j])
            bound = jnp.where((weights[i] > 0) & (weights[j] > 0), bound, -jnp.inf)
            return jnp.where((i != j) & active[i] & active[j], bound, jnp.inf)

        return jax.vmap(cost)(jnp.arange(size))

    active = jnp.ones(size, bool)
    costs = jax.vmap(lambda i: costs_of(i, weights, means, covs, log_dets, active))(jnp.arange(size))

    def merge_cheapest(_, carry):
        weights, means, covs, log_dets, active, costs = carry
        i, j = jnp.unravel_index(jnp.argmin(costs), costs.shape)
        weight, mean, cov = merge_pair(weights[i], means[i], covs[i], weights[j], means[j], covs[j])
        weights = weights.at[i].set(weight).at[j].set(0.0)
        means, covs = means.at[i].set(mean), covs.at[i].set(cov)
        log_dets, active = log_dets.at[i].set(_log_det(cov)), active.at[j].set(False)
        row = costs_of(i, weights, means, covs, log_dets, active)
        costs = costs.at[i].set(row).at[:, i].set(row).at[j].set(jnp.inf).at[:, j].set(jnp.inf)
        return weights, means, covs, log_dets, active, costs

    carry = (weights, means, covs, log_dets, active, costs)
    weights, means, covs, _, active, _ = jax.lax.fori_loop(0, size - k, merge_cheapest, carry)
    # Exactly k are active: put them first, heaviest first.
    order = jnp.argsort(jnp.where(active, -weights, jnp.inf))[:k]
    return weights[order], means[order], covs[order]
