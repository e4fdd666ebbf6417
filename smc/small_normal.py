"""Multivariate normals of few dimensions for many particles: linear algebra written out, entry by entry.

Batched LAPACK calls cost a microsecond for every small matrix. Written out, each entry is an array over the particles,
and the compiler vectorises over them. On two cores jaxlib 0.10 may also wait for ever where two such calls, each for
some thousand matrices, run at the same time.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

_TINY = 1e-30  # a floor under zero matrices
SMALL = 8  # beyond this the written-out form is long to compile, and LAPACK's overhead no longer dominates


def cholesky(matrix: jax.Array, floor: float = 0.0) -> jax.Array:
    """Lower Cholesky factors (..., d, d); NaN where a matrix is not positive definite and there is no floor.

    Args:
        matrix: symmetric, shape (..., d, d).
        floor: share of its diagonal entry that a pivot is raised to where rounding has made it smaller.
    """
    dim = matrix.shape[-1]
    if dim > SMALL:
        symmetric = (matrix + jnp.swapaxes(matrix, -1, -2)) / 2
        if floor:
            symmetric = symmetric + floor * symmetric * jnp.eye(dim, dtype=matrix.dtype).reshape(
                (1,) * (matrix.ndim - 2) + (dim, dim)
            )
        return jnp.linalg.cholesky(symmetric)
    rows: list[list[Any]] = []
    for i in range(dim):
        row: list[Any] = []
        for j in range(i + 1):
            rest = matrix[..., i, j] - sum(row[k] * (row[k] if i == j else rows[j][k]) for k in range(j))
            if i == j and floor:
                rest = jnp.maximum(rest, floor * matrix[..., i, i] + _TINY)
            row.append(jnp.sqrt(rest) if i == j else rest / rows[j][j])
        rows.append(row)
    zero = jnp.zeros_like(matrix[..., 0, 0])
    return jnp.stack([jnp.stack([*r, *[zero] * (dim - len(r))], axis=-1) for r in rows], axis=-2)


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """The matrix product A B, (n, m) and (m, p)."""
    if max(*left.shape, *right.shape) > SMALL:
        return left @ right
    return jnp.sum(left[:, :, None] * right[None, :, :], axis=1)


def solve_lower(factor: jax.Array, right: jax.Array) -> jax.Array:
    """L^-1 b for a lower factor (d, d) and b of shape (d,) or (d, m)."""
    dim = factor.shape[-1]
    if dim > SMALL:
        return jax.scipy.linalg.solve_triangular(factor, right, lower=True)
    solved: list[Any] = []
    for i in range(dim):
        rest = right[i] - sum(factor[i, k] * solved[k] for k in range(i))
        solved.append(rest / factor[i, i])
    return jnp.stack(solved)


def solve_transposed(factor: jax.Array, right: jax.Array) -> jax.Array:
    """L'^-1 b for a lower factor (d, d) and b of shape (d,) or (d, m)."""
    # Read backwards, the transpose is a lower factor.
    return jnp.flip(solve_lower(jnp.flip(factor.T), jnp.flip(right, axis=0)), axis=0)


def cho_solve(factor: jax.Array, right: jax.Array) -> jax.Array:
    """(L L')^-1 b for a lower factor (d, d) and b of shape (d,) or (d, m)."""
    return solve_transposed(factor, solve_lower(factor, right))


class SmallNormal(dist.MultivariateNormal):
    """`MultivariateNormal(loc, scale_tril=...)` whose draws and densities are written out for few dimensions."""

    def __init__(self, loc: Any, scale_tril: Any, *, validate_args: bool | None = None) -> None:
        super().__init__(loc=loc, scale_tril=scale_tril, validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        noise = jax.random.normal(key, shape, jnp.result_type(self.loc))
        factor, dim = jnp.asarray(self.scale_tril), self.event_shape[0]
        if dim > SMALL:
            return jnp.asarray(self.loc) + jnp.squeeze(factor @ noise[..., None], -1)
        moved = [sum(factor[..., i, k] * noise[..., k] for k in range(i + 1)) for i in range(dim)]
        return jnp.asarray(self.loc) + jnp.stack([jnp.broadcast_to(m, shape[:-1]) for m in moved], axis=-1)

    def log_prob(self, value: Any) -> jax.Array:
        factor, dim = jnp.asarray(self.scale_tril), self.event_shape[0]
        if dim > SMALL:
            return jnp.asarray(super().log_prob(value))
        gap = jnp.asarray(value) - self.loc
        white: list[Any] = []
        for i in range(dim):
            rest = gap[..., i] - sum(factor[..., i, k] * white[k] for k in range(i))
            white.append(rest / factor[..., i, i])
        log_det = sum(jnp.log(factor[..., i, i]) for i in range(dim))
        return jnp.asarray(-0.5 * sum(w * w for w in white) - log_det - 0.5 * dim * math.log(2 * math.pi))
