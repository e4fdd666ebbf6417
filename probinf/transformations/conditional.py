"""Ancestors given that particle 0 descends from particle 0: the resampling step of conditional SMC.

Sorted schemes are first rotated by a random number of places, so that every slot has each particle as its ancestor with
probability W_j; the law here is that of the rotated vector given its first entry (Chopin & Singh 2015, section 3).
Overwriting the first entry of an ordinary draw is right for multinomial resampling only.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.transformations.ancestors import Ancestors, rotate, weights_from_log
from probinf.transformations.resampling import scheme


class Conditional(dist.Distribution):
    """The law of `num` ancestors under a scheme, given that the first of them is particle 0.

    Args:
        log_weights: (N,) unnormalised; particle 0 has weight.
        num: number of ancestors.
        name: the scheme; one that is not of this file says for itself how (`Ancestors.given_first`).

    Raises:
        ArgumentError: when drawn from, the scheme has no conditional law.
    """

    support = dist.constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]
    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("log_weights",)
    pytree_aux_fields = ("num", "name")
    draw_dtype: ClassVar[Any] = jnp.dtype("int32")

    def __init__(self, log_weights: jax.Array, num: int, name: str) -> None:
        self.log_weights, self.num, self.name = log_weights, num, name
        super().__init__(batch_shape=log_weights.shape[:-1], event_shape=(num,))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        assert sample_shape == ()
        batch = self.log_weights.shape[:-1]
        keys = jax.random.split(key, batch)
        law = scheme(self.name)(self.log_weights.reshape(-1, self.log_weights.shape[-1])[0], self.num)

        def one(k: jax.Array, log_weights: jax.Array) -> jax.Array:
            half = _HALVES.get(self.name)
            return law.given_first(k, log_weights) if half is None else half(k, law, log_weights)

        for _ in batch:
            one = jax.vmap(one)
        return one(keys, self.log_weights)

    def lanes(self, mapped: tuple[bool, ...], size: int) -> Conditional:
        """Independent vectors for `size` lanes."""
        weights = self.log_weights if mapped[0] else jnp.broadcast_to(self.log_weights, (size, *self.log_weights.shape))
        return Conditional(weights, self.num, self.name)

    def enumerate(self) -> tuple[np.ndarray, np.ndarray]:
        """Every vector and its log probability, by conditioning the rotations of the scheme's own enumeration."""
        assert self.log_weights.ndim == 1
        vectors, log_probs = scheme(self.name)(jnp.asarray(self.log_weights), self.num).enumerate()
        table: dict[tuple[int, ...], float] = {}
        for vector, log_p in zip(vectors, log_probs, strict=True):
            for shift in np.flatnonzero(vector == 0):
                rotated = tuple(np.roll(vector, -shift))
                table[rotated] = table.get(rotated, 0.0) + float(np.exp(log_p))
        p = np.array(list(table.values()))
        return np.array(list(table), np.int32), np.log(p / p.sum())


def _copies(log_weights: jax.Array, num: int) -> jax.Array:
    """Expected number of children of particle 0."""
    weights = weights_from_log(log_weights)
    return num * weights[0] / jnp.sum(weights)


def _multinomial(key: jax.Array, law: Ancestors, log_weights: jax.Array) -> jax.Array:
    uniforms = jax.random.uniform(key, (law.num,), log_weights.dtype)
    return law.from_uniforms(uniforms, log_weights).at[0].set(0)


def systematic_given_first(uniforms: jax.Array, law: Ancestors, log_weights: jax.Array) -> jax.Array:
    """The deterministic half for the systematic scheme, from three uniform numbers.

    Particle 0 has k or k + 1 children, k + 1 where the scheme's uniform is below the fractional part r of N W_0. Given
    that one of them stands first, the more numerous case is weighted by its number.
    """
    expected = _copies(log_weights, law.num)
    whole = jnp.floor(expected)
    rest = expected - whole
    more = uniforms[0] * expected < rest * (whole + 1)
    uniform = jnp.where(more, rest * uniforms[1], rest + (1 - rest) * uniforms[1])
    # Rounding must not move the uniform across the boundary, nor to 1.
    below = jnp.nextafter(jnp.where(more, rest, jnp.ones_like(rest)), jnp.zeros_like(rest))
    uniform = jnp.clip(uniform, jnp.where(more, jnp.zeros_like(rest), rest), below)
    ancestors = law.from_uniforms(uniform, log_weights)
    first = jnp.maximum(jnp.sum(ancestors == 0), 1).astype(uniforms.dtype)
    shift = jnp.minimum(jnp.floor(uniforms[2] * first), first - 1)
    return rotate(ancestors, shift).at[0].set(0)


def _systematic(key: jax.Array, law: Ancestors, log_weights: jax.Array) -> jax.Array:
    return systematic_given_first(jax.random.uniform(key, (3,), log_weights.dtype), law, log_weights)


def _stratified(key: jax.Array, law: Ancestors, log_weights: jax.Array) -> jax.Array:
    key_where, key_in, key_rest = jax.random.split(key, 3)
    # Particle 0 covers [0, N W_0): its stratum is chosen by overlap, and its uniform lies in the overlap.
    overlap = jnp.clip(_copies(log_weights, law.num) - jnp.arange(law.num).astype(log_weights.dtype), 0, 1)
    stratum = jax.random.categorical(key_where, jnp.log(overlap))
    inside = overlap[stratum] * jax.random.uniform(key_in, (), log_weights.dtype)
    uniforms = jax.random.uniform(key_rest, (law.num,), log_weights.dtype).at[stratum].set(inside)
    return rotate(law.from_uniforms(uniforms, log_weights), stratum).at[0].set(0)


def _residual(key: jax.Array, law: Ancestors, log_weights: jax.Array) -> jax.Array:
    key_which, key_shift, key_rest = jax.random.split(key, 3)
    num = law.num
    weights = weights_from_log(log_weights)
    expected = num * weights / jnp.sum(weights)
    whole = jnp.floor(expected + 16 * jnp.finfo(expected.dtype).eps * expected)
    sure = jnp.sum(whole)
    left = jnp.maximum(expected - whole, 0)
    # Slot 0 is one of the sure copies of particle 0, or one of the random ones that fell on it.
    total = jnp.where(jnp.sum(left) > 0, jnp.sum(left), 1)
    random_share = (num - sure) * left[0] / total
    is_sure = jax.random.uniform(key_which, (), expected.dtype) * (whole[0] + random_share) < whole[0]
    u = jax.random.uniform(key_shift, (), expected.dtype)
    at = jnp.where(is_sure, jnp.floor(u * whole[0]), sure + jnp.floor(u * (num - sure)))
    at = jnp.clip(at, 0, num - 1).astype(jnp.int32)
    ancestors = law.from_uniforms(jax.random.uniform(key_rest, (num,), log_weights.dtype), log_weights)
    return rotate(ancestors.at[at].set(0), at)


_HALVES = {
    "multinomial": _multinomial,
    "systematic": _systematic,
    "stratified": _stratified,
    "residual": _residual,
}
