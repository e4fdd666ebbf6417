"""Ancestor vectors: from log weights to weights, from run ends to ancestors, and the base class of all schemes."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.errors import ArgumentError, DataError
from probinf.transformations.running import latest


def weights_from_log(log_weights: jax.Array) -> jax.Array:
    """Weights relative to the largest one; zeros where all are -inf."""
    top = jnp.max(log_weights)
    is_sound = jnp.isfinite(top)
    return jnp.exp(jnp.where(is_sound, log_weights - jnp.where(is_sound, top, 0), -jnp.inf))


def ancestors_from_run_ends(run_ends: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    """Ancestors from the position where each particle's run of children ends; the next one's begins there.

    Args:
        run_ends: int32 in 0..num, one per particle, non-decreasing up to rounding.
        weights: a particle of weight zero gets no child, whatever rounding did to its run: its run, and what is left
            over at the end, go to the live particle before; to the first live one where there is none.
        num: number of children.

    Returns:
        Sorted indices of shape (num,).
    """
    n = weights.shape[0]

    def search(weights: jax.Array) -> jax.Array:
        first = jnp.argmax(weights > 0).astype(jnp.int32)
        return jnp.where(weights[first] > 0, first, n - 1)

    def zero(weights: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    # Nearly always particle 0. On a CPU the search takes as long as the scatter that follows.
    first = jax.lax.platform_dependent(
        weights, cpu=lambda weights: jax.lax.cond(weights[0] > 0, zero, search, weights), default=search
    )
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), run_ends[:-1].astype(jnp.int32)])
    # The last particle whose run begins at a position or before it owns the position: of several that begin at the same
    # one all but the last have empty runs.
    return latest(starts, weights > 0, first, size=num)


def _check_log_weights(log_weights: Any) -> None:
    """Refuse what cannot be log weights. Compiled code cannot raise: what runs there flags its weights itself."""
    values = np.asarray(log_weights)
    bad = np.isnan(values) | (values == np.inf)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"log_weights: {int(bad.sum())} of {bad.size} are NaN or inf, the first at index {first}. A log weight is "
            "a number, or -inf for a particle of weight zero; negative weights have no logarithm."
        )


class Ancestors(dist.Distribution):
    """A law of `num` ancestors given log weights; the base of all schemes. Batched over leading axes of the weights.

    A scheme overrides `from_uniforms` and `outcomes`, `num_uniforms` where it takes other than one uniform number per
    child, and `given_first` to serve conditional SMC. Validity needs E[#{i: a_i = j}] = num W_j and nothing else.
    """

    # A class attribute, as in NumPyro's own families; its base class annotates a property.
    support = dist.constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]
    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("log_weights",)
    pytree_aux_fields = ("num",)
    draw_dtype: ClassVar[Any] = jnp.dtype("int32")

    def __init__(self, log_weights: jax.Array, num: int) -> None:
        if not isinstance(log_weights, _jax.Tracer):
            _check_log_weights(log_weights)
        self.log_weights = log_weights
        self.num = num
        super().__init__(batch_shape=log_weights.shape[:-1], event_shape=(num,))

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        """The deterministic half, for one weight vector."""
        raise NotImplementedError

    def num_uniforms(self) -> tuple[int, ...]:
        """Shape of the uniform numbers that one vector of ancestors takes."""
        return (self.num,)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        """Every ancestor vector and its probability, given normalised weights; a vector may come more than once."""
        raise NotImplementedError

    def given_first(self, key: jax.Array, log_weights: jax.Array) -> jax.Array:
        """Ancestors turned by a random number of places, given that the first one is particle 0.

        Raises:
            ArgumentError: the scheme does not say how.
        """
        raise ArgumentError(
            f"resample: {type(self).__name__} has no conditional law, which conditional SMC needs. Override "
            "`given_first`, or use another scheme."
        )

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        assert sample_shape == ()
        batch = self.log_weights.shape[:-1]
        dtype = self.log_weights.dtype
        uniforms = jax.random.uniform(key, (*batch, *self.num_uniforms()), dtype)
        one = self.from_uniforms
        for _ in batch:
            one = jax.vmap(one)
        return one(uniforms, self.log_weights)

    def lanes(self, mapped: tuple[bool, ...], size: int) -> Ancestors:
        """Independent vectors for `size` lanes (see language.distributions.lanes)."""
        weights = self.log_weights
        if not mapped[0]:
            weights = jnp.broadcast_to(weights, (size, *weights.shape))
        return type(self)(weights, self.num)

    def enumerate(self) -> tuple[np.ndarray, np.ndarray]:
        """Every possible value (V, *batch, num) and its log probability (V,), in NumPy and double precision."""
        lw = np.asarray(self.log_weights, np.float64)
        if lw.ndim > 1:  # populations of populations: the lanes are independent
            batch = lw.shape[:-1]
            laws = [type(self)(jnp.asarray(row), self.num).enumerate() for row in lw.reshape(-1, lw.shape[-1])]
            choices = list(itertools.product(*(range(len(lp)) for _, lp in laws)))
            vectors = [[law[0][k] for law, k in zip(laws, c, strict=True)] for c in choices]
            log_probs = [sum(law[1][k] for law, k in zip(laws, c, strict=True)) for c in choices]
            return np.array(vectors).reshape(len(choices), *batch, self.num), np.array(log_probs, np.float64)
        if not np.isfinite(lw.max()):
            return np.arange(self.num)[None] % len(lw), np.zeros(1)
        w = np.exp(lw - lw.max())
        vectors, probabilities = self.outcomes(w / w.sum())
        table: dict[tuple[int, ...], float] = {}
        for vector, p in zip(vectors, probabilities, strict=True):
            if p > 0:
                table[tuple(vector)] = table.get(tuple(vector), 0.0) + p
        return np.array(list(table)), np.log(np.array(list(table.values())))


def rotate(ancestors: jax.Array, shift: jax.Array) -> jax.Array:
    """The vector turned so that the entry at `shift` comes first."""
    n = ancestors.shape[0]
    return ancestors[(jnp.arange(n, dtype=jnp.int32) + shift.astype(jnp.int32)) % n]
