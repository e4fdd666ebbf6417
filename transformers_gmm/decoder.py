"""The decoder: components attend to each other and to the data; masks leave tokens out."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

_FAR = -1e9  # a masked score: zero after the softmax, finite so that a row without any token gives no NaN


class Attention(nnx.Module):
    """Multi-head attention of queries (..., Q, d) to tokens (..., S, d)."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs, starts_at_zero: bool = False) -> None:
        self.heads = heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key_value = nnx.Linear(width, 2 * width, rngs=rngs)
        self.out = linear(width, width, rngs, starts_at_zero=starts_at_zero)

    def __call__(self, queries: Array, tokens: Array, mask: Bool[Array, "*batch tokens"] | None) -> Array:
        width = queries.shape[-1] // self.heads
        q = self._split(self.query(queries), width)
        k, v = (self._split(part, width) for part in jnp.split(self.key_value(tokens), 2, axis=-1))
        scores = jnp.einsum("...qhw,...shw->...hqs", q, k) / math.sqrt(width)
        if mask is not None:
            scores = jnp.where(mask[..., None, None, :], scores, jnp.asarray(_FAR, scores.dtype))
        mixed = jnp.einsum("...hqs,...shw->...qhw", jax.nn.softmax(scores, axis=-1), v)
        answer = self.out(mixed.reshape(queries.shape))
        if mask is None:
            return answer
        return jnp.where(jnp.any(mask, axis=-1)[..., None, None], answer, 0)

    def _split(self, x: Array, width: int) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, width)


class DecoderLayer(nnx.Module):
    """Self-attention among components, cross-attention to the data, feed-forward.

    Args:
        norm: "before": each part sees normalised tokens (stable in shallow, narrow networks); "after": each residual
            sum is normalised, as published, whose self-attention and feed-forward parts start at zero.
    """

    def __init__(self, width: int, heads: int, feedforward: int, *, rngs: nnx.Rngs, norm: str = "before") -> None:
        after = norm == "after"
        self.is_after = after
        self.among = Attention(width, heads, rngs=rngs, starts_at_zero=after)
        self.across = Attention(width, heads, rngs=rngs)
        self.widen = nnx.Linear(width, feedforward, rngs=rngs)
        self.narrow = linear(feedforward, width, rngs, starts_at_zero=after)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(3)])

    def __call__(
        self,
        tokens: Float[Array, "*batch comps width"],
        context: Float[Array, "*batch seq width"],
        token_mask: Bool[Array, "*batch comps"] | None = None,
        context_mask: Bool[Array, "*batch seq"] | None = None,
    ) -> Float[Array, "*batch comps width"]:
        parts = (
            lambda x: self.among(x, x, token_mask),
            lambda x: self.across(x, context, context_mask),
            lambda x: self.narrow(jax.nn.gelu(self.widen(x))),
        )
        for norm, part in zip(self.norms, parts, strict=True):
            tokens = norm(tokens + part(tokens)) if self.is_after else tokens + part(norm(tokens))
        return tokens


class Perceptron(nnx.Module):
    """Linear layers with GELU between them; computes in the precision of its weights, whatever comes in."""

    def __init__(self, *widths: int, rngs: nnx.Rngs, starts_at_zero: bool = False) -> None:
        pairs = list(itertools.pairwise(widths))
        last = len(pairs) - 1
        self.linears = nnx.List(
            [linear(a, b, rngs, starts_at_zero=starts_at_zero and i == last) for i, (a, b) in enumerate(pairs)]
        )

    def __call__(self, x: Array) -> Array:
        x = x.astype(self.linears[0].kernel.dtype)
        for linear in self.linears[:-1]:
            x = jax.nn.gelu(linear(x))
        return self.linears[-1](x)


def linear(before: int, after: int, rngs: nnx.Rngs, *, starts_at_zero: bool = False) -> nnx.Linear:
    """An affine map with Flax's usual start, or with a matrix of zeros."""
    start = nnx.initializers.zeros_init() if starts_at_zero else nnx.initializers.lecun_normal()
    return nnx.Linear(before, after, kernel_init=start, rngs=rngs)
