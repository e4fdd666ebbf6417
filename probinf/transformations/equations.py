"""Equations of one particle's program that have a quicker form when they are computed for all particles at once."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.language.arctangent import arctan2
from probinf.language.small_products import MANY, SMALL, product


def quicker(eqn: _jax.JaxprEqn, operands: list[jax.Array], is_many: list[bool]) -> jax.Array | None:
    """The result for all particles, up to rounding; None for equations without another form.

    Args:
        eqn: an equation with at least one operand that differs between particles.
        operands: arrays, those with a leading axis of particles.
        is_many: which those are.
    """
    if eqn.primitive is _jax.reduce_sum_p:
        (x,) = operands
        if x.ndim != 2 or eqn.params["axes"] != (0,) or not 0 < x.shape[1] <= SMALL:
            return None
        return functools.reduce(operator.add, (x[:, j] for j in range(x.shape[1])))
    if eqn.primitive is _jax.dot_general_p and not all(is_many):
        return _shared_matrix(eqn, operands, is_many.index(True))
    if eqn.primitive is _jax.atan2_p and operands[0].dtype == jnp.float32 and jax.default_backend() == "cpu":
        y, x = (a if many else a[None] for a, many in zip(operands, is_many, strict=True))
        shape = jnp.broadcast_shapes(y.shape, x.shape)
        return arctan2(jnp.broadcast_to(y, shape), jnp.broadcast_to(x, shape))
    return None


def _shared_matrix(eqn: _jax.JaxprEqn, operands: list[jax.Array], many: int) -> jax.Array | None:
    """A small matrix that all particles share times a vector of each one's own."""
    contracted, batched = eqn.params["dimension_numbers"]
    matrix, vectors = operands[1 - many], operands[many]
    if any(batched) or matrix.ndim != 2 or vectors.ndim != 2 or vectors.shape[0] < MANY:
        return None
    if not 0 < vectors.shape[1] <= SMALL >= max(matrix.shape):
        return None
    if matrix.dtype != vectors.dtype or eqn.params["preferred_element_type"] not in (None, matrix.dtype):
        return None
    return product((matrix if tuple(contracted[1 - many]) == (1,) else matrix.T)[None], vectors)
