"""Drawing one of N by weight for each of many rows: an inverse cdf on two levels, one uniform per row."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def block_size(num: int) -> int:
    """Length of a block: the power of two nearest to sqrt(N), so that both levels are short."""
    return 2 ** round(math.log2(math.sqrt(num)))


def search(weights: Float[Array, "rows num"], uniforms: Float[Array, " rows"]) -> Int[Array, " rows"]:
    """The deterministic half: the first n with w_0 + ... + w_n > u (w_0 + ... + w_{N-1}), in each row.

    Blocks are added up first, then only the block that holds the target is searched: O(N) additions that the compiler
    vectorises, and O(sqrt N) comparisons. Whatever the rounding, an index of weight zero is never returned if the row
    has a positive weight.

    Args:
        weights: at least 0; they need not add up to 1.
        uniforms: in [0, 1).
    """
    rows, num = weights.shape
    size = block_size(num)
    short = -num % size
    if short:
        weights = jnp.pad(weights, ((0, 0), (0, short)))
    blocks = weights.reshape(rows, -1, size)
    sums = jnp.sum(blocks, axis=2)
    ends = jnp.cumsum(sums, axis=1)
    target = uniforms * ends[:, -1]
    block = _first_above(ends, sums, target)
    at_block = block[:, None]
    before = jnp.take_along_axis(ends, at_block, axis=1)[:, 0] - jnp.take_along_axis(sums, at_block, axis=1)[:, 0]
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * size + _first_above(jnp.cumsum(inside, axis=1), inside, target - before)


def _first_above(
    ends: Float[Array, "rows num"], weights: Float[Array, "rows num"], target: Float[Array, " rows"]
) -> Int[Array, " rows"]:
    """The first positive entry whose cumulative sum exceeds the target; the last positive one if rounding left none."""
    index = jnp.arange(ends.shape[1], dtype=jnp.int32)[None, :]
    positive = weights > 0
    last = jnp.max(jnp.where(positive, index, 0), axis=1)
    first = jnp.min(jnp.where(positive & (ends > target[:, None]), index, ends.shape[1]), axis=1)
    return jnp.minimum(first, last)


class InverseCdf(NamedTuple):
    """Weights prepared for many independent draws.

    Attributes:
        ends: (N,) cumulative sums, flat wherever the weight is zero.
        last: the last index of positive weight.
    """

    ends: Array
    last: Array

    @classmethod
    def of(cls, log_weights: Float[Array, " num"]) -> InverseCdf:
        """Prepare unnormalised log weights, nats."""
        weights = jnp.exp(log_weights - safe_max(log_weights, axis=0))
        positive = weights > 0
        # A parallel prefix sum may creep up where the weight is zero; the running maximum of the others does not.
        ends = jax.lax.cummax(jnp.where(positive, jnp.cumsum(weights), 0))
        return cls(ends, jnp.max(jnp.where(positive, jnp.arange(ends.shape[0], dtype=jnp.int32), 0)))

    def __call__(self, uniforms: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The first n with w_0 + ... + w_n > u (w_0 + ... + w_{N-1}), by binary search: O(log N) each.

        An index of weight zero is never returned if one is positive.
        """
        found = jnp.searchsorted(self.ends, uniforms * self.ends[-1], side="right").astype(jnp.int32)
        return jnp.minimum(found, self.last)


def safe_max(log_weights: Array, axis: int) -> Array:
    """Largest entry, axis kept; 0 where all are -inf, so that nothing becomes NaN."""
    top = jnp.max(log_weights, axis=axis, keepdims=True)
    return jnp.where(jnp.isneginf(top), jnp.zeros((), top.dtype), top)
