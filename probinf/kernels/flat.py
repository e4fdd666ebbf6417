"""Positions as vectors: a dict of unconstrained sites to and from one array of shape (dim,)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class FlatLayout:
    """Where each site lives in the vector; sites in alphabetical order, each raveled in C order.

    Args:
        shapes: site -> anything with `shape` and `dtype`.
    """

    def __init__(self, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        self.shapes = {name: tuple(shapes[name].shape) for name in sorted(shapes)}
        self.dtypes = {name: shapes[name].dtype for name in self.shapes}
        self.dtype = jnp.zeros(()).dtype  # the default float: float64 where x64 is on
        self.dim = sum(math.prod(shape) for shape in self.shapes.values())

    def unravel(self, x: Float[Array, " dim"]) -> dict[str, Array]:
        """The sites of a vector."""
        position, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            position[name] = x[start : start + size].reshape(shape).astype(self.dtypes[name])
            start += size
        return position

    def ravel(self, position: Mapping[str, Array]) -> Float[Array, " dim"]:
        """The vector of a position."""
        parts = [jnp.asarray(position[name]).reshape(-1).astype(self.dtype) for name in self.shapes]
        return jnp.concatenate(parts) if parts else jnp.zeros(0, self.dtype)
