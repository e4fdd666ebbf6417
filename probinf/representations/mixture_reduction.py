"""Reduce a Gaussian mixture to fewer components by merging the pair that costs least, again and again."""

from __future__ import annotations

import functools
from typing import Any

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


@functools.partial(jax.jit, static_argnames="k")
def runnalls(
    weights: Float[Array, " comps"],
    means: Float[Array, "comps dim"],
    covs: Float[Array, "comps dim dim"],
    k: int,
) -> tuple[Float[Array, " k"], Float[Array, "k dim"], Float[Array, "k dim dim"]]:
    r"""Greedy merging to `k` components, heaviest first; total mass, mean and covariance are kept exactly.

    The cost of merging i and j is Runnalls' upper bound on the Kullback-Leibler divergence it adds,

    $$B(i, j) = \tfrac12\big[(w_i + w_j)\log|P_{ij}| - w_i \log|P_i| - w_j \log|P_j|\big].$$

    Empty components, of weight zero, go first. O(K d^3) per merge after an O(K^2 d^3) start.

    References:
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE TAES 43(3), eq. 21.
    """
    size, dim = means.shape
    index = jnp.arange(size)

    # One row holds all there is of a component: in a batch, each access to an array of its own costs as much again.
    def row_of(weight: Array, mean: Array, cov: Array) -> Array:
        return jnp.concatenate([weight[None], mean, cov.reshape(-1)])

    def parts_of(row: Array) -> tuple[Array, Array, Array]:
        return row[0], row[1 : 1 + dim], row[1 + dim :].reshape(dim, dim)

    def log_det_of_pair(one: Array, other: Array) -> Array:
        return _log_det(merge_pair(*parts_of(one), *parts_of(other))[2])

    def merge_cheapest(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, active, log_dets = carry
        weight = rows[:, 0]
        own = weight * jnp.diagonal(log_dets)  # merged with itself, a component stays what it is
        costs = 0.5 * ((weight[:, None] + weight[None]) * log_dets - own[:, None] - own[None])
        costs = jnp.where((weight[:, None] > 0.0) & (weight[None] > 0.0), costs, -jnp.inf)
        costs = jnp.where(active[:, None] & active[None] & (index[:, None] != index[None]), costs, jnp.inf)
        first, second = (index == place for place in jnp.divmod(jnp.argmin(costs), size))
        pair = (jnp.sum(jnp.where(which[:, None], rows, 0.0), axis=0) for which in (first, second))
        merged = row_of(*merge_pair(*(part for row in pair for part in parts_of(row))))
        rows = jnp.where(first[:, None], merged[None], rows)
        new = jax.vmap(log_det_of_pair, (None, 0))(merged, rows)
        log_dets = jnp.where(first[:, None], new[None], jnp.where(first[None], new[:, None], log_dets))
        return rows, active & ~second, log_dets

    rows = jax.vmap(row_of)(weights, means, covs)
    log_dets = jax.vmap(jax.vmap(log_det_of_pair, (None, 0)), (0, None))(rows, rows)
    rows, active, _ = jax.lax.fori_loop(0, size - k, merge_cheapest, (rows, jnp.ones(size, bool), log_dets))
    _, order = jax.lax.top_k(jnp.where(active, rows[:, 0], -jnp.inf), k)
    return jax.vmap(parts_of)(rows[order])


def _log_det(cov: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Of a positive definite matrix; a pivot that rounding has made negative is raised to that rounding."""
    dim = cov.shape[0]
    if dim > _WRITTEN_OUT:
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(cov))))
    least = jnp.finfo(cov.dtype).eps * jnp.diagonal(cov)
    rest = [[cov[i, j] for j in range(dim)] for i in range(dim)]
    total = jnp.zeros((), cov.dtype)
    for k in range(dim):
        pivot = jnp.maximum(rest[k][k], least[k])
        total = total + jnp.log(pivot)
        for i in range(k + 1, dim):
            for j in range(i, dim):  # the upper triangle is enough
                rest[i][j] = rest[i][j] - rest[k][i] * rest[k][j] / pivot
    return total
