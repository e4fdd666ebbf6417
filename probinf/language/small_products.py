"""Products with small matrices, for many particles at once: written out column by column.

XLA's CPU backend calls a library for every product and rearranges the particles before and after. Written out, products
are one operation with the arithmetic around them, which the compiler vectorises: a draw from a normal law of four
dimensions then takes two thirds of the time, and a linear motion half.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf import _jax

SMALL = 8  # rows and columns beyond which the written-out form is long to compile, and a library is quicker
MANY = 64  # vectors from which on it pays


def product(matrix: Any, vectors: Any) -> jax.Array:
    """Products (..., i) of matrices (..., i, j) and vectors (..., j); leading axes agree or are 1."""

    def by_columns(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
        columns = range(vectors.shape[-1])
        return functools.reduce(operator.add, (matrix[..., :, j] * vectors[..., j : j + 1] for j in columns))

    return _apart(by_columns, matrix, vectors)


def draw_normal(law: dist.MultivariateNormal, key: jax.Array) -> jax.Array:
    """What `law.sample(key)` draws, up to rounding."""
    shape = law.shape()
    if shape[-1] > SMALL or math.prod(law.batch_shape) < MANY:
        return jnp.asarray(law.sample(key))
    return jnp.asarray(law.loc) + product(law.scale_tril, _apart(lambda key: jax.random.normal(key, shape), key))


def _apart(function: Callable[..., jax.Array], *args: Any) -> jax.Array:
    """A call of its own on CPU.

    In one operation with a product, numbers would be drawn again for every column; and in one with what makes a matrix,
    its entries would be computed again for every particle.
    """
    if jax.default_backend() != "cpu":
        return function(*args)
    closed = jax.make_jaxpr(jax.jit(function))(*args)
    (call,) = closed.jaxpr.eqns
    values = dict(zip((*closed.jaxpr.constvars, *closed.jaxpr.invars), (*closed.consts, *args), strict=True))
    # Traced before it is marked, so that calls inside it are not marked as well.
    with _jax.xla_marks(inlineable="false"):
        return call.primitive.bind(*(values[v] for v in call.invars), **call.params)[0]
