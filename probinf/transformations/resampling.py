"""Resampling schemes as distributions over ancestor vectors.

Each scheme has a deterministic half (uniforms and log weights in, ancestors out, testable at 0 and 1 - eps), a draw,
and an exact finite enumeration. All satisfy E[#{i: a_i = j}] = m w_j / W, which is all that validity asks for
(Ścibior et al. 2018; Chopin & Papaspiliopoulos 2020, chapter 9).
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

_BLOCK = 32  # prefix sums inside a block are one small triangular matrix product


def prefix_sum(x: jax.Array) -> jax.Array:
    """Inclusive prefix sum of a vector by blocks: several times faster on CPU than XLA's own, and as accurate."""
    n = x.shape[0]
    blocks = -(-n // _BLOCK)
    if blocks <= 2:
        return jnp.cumsum(x)
    padded = jnp.pad(x, (0, blocks * _BLOCK - n)).reshape(blocks, _BLOCK)
    inner = padded @ jnp.triu(jnp.ones((_BLOCK, _BLOCK), x.dtype))
    ends = prefix_sum(inner[:, -1])
    before = jnp.concatenate([jnp.zeros(1, x.dtype), ends[:-1]])
    return (inner + before[:, None]).reshape(-1)[:n]


def weights_from_log(log_weights: jax.Array) -> jax.Array:
    """Weights relative to the largest one; zeros where all are -inf."""
    top = jnp.max(log_weights)
    return jnp.where(jnp.isfinite(top), jnp.exp(log_weights - jnp.where(jnp.isfinite(top), top, 0)), 0)


def ancestors_from_run_ends(run_ends: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    """Ancestors from the position where each particle's run of children ends.

    Args:
        run_ends: integers in 0..num, non-decreasing, one per particle.
        weights: a particle of weight zero gets no child, whatever rounding did to its run end.
        num: number of children.

    Returns:
        Sorted indices of shape (num,).
    """
    n = weights.shape[0]
    live = weights > 0
    # Children at position k belong to the first live particle whose run ends after k: count the runs ended so far.
    counts = jnp.zeros(num + 1, jnp.float32).at[run_ends].add(live.astype(jnp.float32))
    rank = prefix_sum(counts[:num]).astype(jnp.int32) if num < 2**24 else jnp.cumsum(counts[:num].astype(jnp.int32))
    num_live = jnp.sum(live, dtype=jnp.int32)
    rank = jnp.clip(rank, 0, jnp.maximum(num_live - 1, 0))

    def skip_dead(rank: jax.Array) -> jax.Array:
        slot = jnp.where(live, jnp.cumsum(live, dtype=jnp.int32) - 1, n)
        index = jnp.zeros(n, jnp.int32).at[slot].set(jnp.arange(n, dtype=jnp.int32), mode="drop")
        return index[rank]

    return jax.lax.cond(num_live == n, lambda r: r, skip_dead, rank)


def systematic_ancestors(uniform: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors of systematic resampling from its single uniform number in [0, 1)."""
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    scaled = num * (cumulative / jnp.where(cumulative[-1] > 0, cumulative[-1], 1))
    run_ends = jnp.clip(jnp.ceil(scaled - uniform), 0, num).astype(jnp.int32)
    return ancestors_from_run_ends(run_ends, weights, num)


def stratified_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors of stratified resampling from one uniform number per stratum."""
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    scaled = num * (cumulative / jnp.where(cumulative[-1] > 0, cumulative[-1], 1))
    stratum = jnp.clip(jnp.floor(scaled), 0, num - 1).astype(jnp.int32)
    passed = uniforms[stratum] < scaled - stratum.astype(scaled.dtype)
    run_ends = jnp.clip(stratum + passed.astype(jnp.int32), 0, num)
    return ancestors_from_run_ends(run_ends, weights, num)


def multinomial_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Independent ancestors, one per uniform number in [0, 1)."""
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    total = cumulative[-1]
    found = jnp.searchsorted(cumulative, uniforms * total, side="right").astype(jnp.int32)
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.shape[0], dtype=jnp.int32), 0))
    return jnp.minimum(found, last)


def residual_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Deterministic copies of the whole parts of the expected offspring, the rest multinomial."""
    weights = weights_from_log(log_weights)
    total = jnp.sum(weights)
    expected = num * weights / jnp.where(total > 0, total, 1)
    # One unit in the last place must not turn 2.9999999 expected children into two sure ones and a spare.
    whole = jnp.floor(expected + 16 * jnp.finfo(expected.dtype).eps * expected)
    ends = jnp.clip(prefix_sum(whole), 0, num).astype(jnp.int32)
    sure = ancestors_from_run_ends(ends, jnp.where(whole > 0, weights, 0), num)
    rest = jnp.maximum(expected - whole, 0)
    # When nothing is left over the rest is rounding noise, and no slot uses it.
    drawn = multinomial_ancestors(uniforms, jnp.where(rest > 0, jnp.log(rest), -jnp.inf), num)
    return jnp.where(jnp.arange(num, dtype=jnp.int32) < ends[-1], sure, drawn)


class Ancestors(dist.Distribution):
    """A law of `num` ancestors given log weights; the base of all schemes. Batched over leading axes of the weights."""

    # A class attribute, as in NumPyro's own families; its base class annotates a property.
    support = dist.constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]
    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("log_weights",)
    pytree_aux_fields = ("num",)
    draw_dtype: ClassVar[Any] = jnp.dtype("int32")

    def __init__(self, log_weights: jax.Array, num: int) -> None:
        self.log_weights = log_weights
        self.num = num
        super().__init__(batch_shape=log_weights.shape[:-1], event_shape=(num,))

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        """The deterministic half, for one weight vector."""
        raise NotImplementedError

    def num_uniforms(self) -> tuple[int, ...]:
        """Shape of the uniform numbers that one vector of ancestors takes."""
        return (self.num,)

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
        vectors, probabilities = self._support(w / w.sum())
        table: dict[tuple[int, ...], float] = {}
        for vector, p in zip(vectors, probabilities, strict=True):
            if p > 0:
                table[tuple(vector)] = table.get(tuple(vector), 0.0) + p
        return np.array(list(table)), np.log(np.array(list(table.values())))

    def _support(self, w: np.ndarray) -> tuple[list, list]:
        raise NotImplementedError


class Systematic(Ancestors):
    """One uniform number for all positions (Carpenter, Clifford & Fearnhead 1999)."""

    def num_uniforms(self) -> tuple[int, ...]:
        return ()

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return systematic_ancestors(uniforms, log_weights, self.num)

    def _support(self, w: np.ndarray) -> tuple[list, list]:
        # Piecewise constant in the uniform number; it jumps at the fractional parts of num * C_i.
        cumulative = np.cumsum(w)
        knots = np.unique(np.concatenate([[0.0, 1.0], (self.num * cumulative) % 1.0]))
        middles, lengths = (knots[:-1] + knots[1:]) / 2, np.diff(knots)
        return [_invert(cumulative, (np.arange(self.num) + u) / self.num, w) for u in middles], list(lengths)


class Stratified(Ancestors):
    """One uniform number in each of `num` strata (Kitagawa 1996)."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return stratified_ancestors(uniforms, log_weights, self.num)

    def _support(self, w: np.ndarray) -> tuple[list, list]:
        cumulative = np.cumsum(w)
        choices = []
        for k in range(self.num):
            inside = cumulative[(cumulative > k / self.num) & (cumulative < (k + 1) / self.num)]
            knots = np.concatenate([[k / self.num], inside, [(k + 1) / self.num]])
            middles = (knots[:-1] + knots[1:]) / 2
            choices.append(list(zip(_invert(cumulative, middles, w), np.diff(knots) * self.num, strict=True)))
        combined = list(itertools.product(*choices))
        return [[a for a, _ in c] for c in combined], [float(np.prod([p for _, p in c])) for c in combined]


class Multinomial(Ancestors):
    """Independent ancestors."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return multinomial_ancestors(uniforms, log_weights, self.num)

    def _support(self, w: np.ndarray) -> tuple[list, list]:
        vectors = list(itertools.product(range(len(w)), repeat=self.num))
        return [list(v) for v in vectors], [float(np.prod(w[list(v)])) for v in vectors]


class Residual(Ancestors):
    """Whole parts of the expected offspring for sure, the rest multinomial (Liu & Chen 1998)."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return residual_ancestors(uniforms, log_weights, self.num)

    def _support(self, w: np.ndarray) -> tuple[list, list]:
        expected = self.num * w
        whole = np.floor(expected + 16 * np.finfo(float).eps * expected)
        sure = np.repeat(np.arange(len(w)), whole.astype(int))
        left = self.num - len(sure)
        if left == 0:
            return [list(sure)], [1.0]
        rest = np.maximum(expected - whole, 0)
        rest = rest / rest.sum()
        tails = list(itertools.product(range(len(w)), repeat=left))
        return [[*sure, *t] for t in tails], [float(np.prod(rest[list(t)])) for t in tails]


def _invert(cumulative: np.ndarray, positions: np.ndarray, w: np.ndarray) -> list[int]:
    last = int(np.max(np.nonzero(w)[0]))
    return [min(int(i), last) for i in np.searchsorted(cumulative, positions, side="right")]


SCHEMES: dict[str, type[Ancestors]] = {
    "systematic": Systematic,
    "stratified": Stratified,
    "multinomial": Multinomial,
    "residual": Residual,
}


def scheme(name: str) -> type[Ancestors]:
    """Look a scheme up by name.

    Raises:
        UnknownNameError: with the nearest name.
    """
    from probinf.errors import UnknownNameError

    if name not in SCHEMES:
        raise UnknownNameError(name, SCHEMES, "resampling scheme", "probinf")
    return SCHEMES[name]


def effective_sample_size(log_weights: Any) -> jax.Array:
    """Kish's effective sample size (sum w)^2 / sum w^2; zero when all weights are zero."""
    w = weights_from_log(log_weights)
    total, squares = jnp.sum(w), jnp.sum(w * w)
    return jnp.where(squares > 0, total * total / jnp.where(squares > 0, squares, 1), 0)
