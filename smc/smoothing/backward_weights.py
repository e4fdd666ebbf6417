"""The backward law of a particle's predecessor, for many successors at once, a block of pairs that fits the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smc.smoothing.pairs import TransitionDensities
from smc.smoothing.search import block_size, safe_max, search
from smc.state_space_model import StateSpaceModel

# Pairs whose weights are in memory at once. On a CPU they stay in its cache (measured with N = 1000 and float32: blocks
# of 500 successors cost 1.7 ns a pair, blocks of 125 2.1 ns); other devices want long loops and have the memory.
_PAIRS_AT_ONCE = {"cpu": 2**19}
_PAIRS_ELSEWHERE = 2**26


def backward_log_weights(
    model: StateSpaceModel, t: Any, before: Array, log_weights: Float[Array, " num"], after: Array
) -> Float[Array, "after num"]:
    r"""Unnormalised log probabilities of predecessors, $\log W_{t-1}^n + \log p(x_t = z_c \mid x_{t-1}^n)$.

    Args:
        model: the model.
        t: time of the successors.
        before: particles at t - 1, (N, *state).
        log_weights: their filtering weights, nats.
        after: successors z, (C, *state).
    """
    pairs = TransitionDensities.of(model, t, before).all_pairs(after)
    return log_weights[None, :] + pairs.astype(log_weights.dtype)


def backward_indices(
    model: StateSpaceModel,
    t: Any,
    before: Array,
    log_weights: Float[Array, " num"],
    after: Array,
    uniforms: Float[Array, " paths"],
) -> tuple[Int[Array, " paths"], Bool[Array, ""]]:
    """A predecessor for each successor, drawn by the backward law; O(N) per successor, one uniform each.

    Returns:
        Indices, and whether every successor has a predecessor of positive finite probability.
    """

    def choose(weights: Array, _: Array, row: Array) -> tuple[Array, Array]:
        return search(weights, row), _sound(jnp.sum(weights, axis=1))

    index, sound = over_blocks(model, t, before, log_weights, after, uniforms, choose)
    return index, jnp.all(sound)


def over_blocks(
    model: StateSpaceModel,
    t: Any,
    before: Array,
    log_weights: Float[Array, " num"],
    after: Array,
    rows: Any,
    function: Callable[[Array, Array, Any], Any],
) -> Any:
    """Apply a function to the backward weights, a block of successors at a time.

    Args:
        model: the model.
        t: time of the successors.
        before: particles at t - 1, (N, *state).
        log_weights: their filtering weights, nats.
        after: successors, (M, *state).
        rows: pytree with a leading axis M, handed over in blocks; the last block may be filled up with zeros.
        function: weights (C, N'), each row scaled so that its largest is 1; log of that scale (C,); rows. N' is N or
            more: particles beyond the last one have weight zero.

    Returns:
        The function's results, concatenated along their leading axes and cut to M.
    """
    num, short = before.shape[0], -before.shape[0] % block_size(before.shape[0])
    if short:  # padding the particles once is cheaper than padding the weights of every pair
        before = jnp.concatenate([before, jnp.repeat(before[-1:], short, axis=0)])
        log_weights = jnp.concatenate([log_weights, jnp.full(short, -jnp.inf, log_weights.dtype)])
        num += short
    pairs = TransitionDensities.of(model, t, before)

    def block(inputs: tuple) -> Any:
        after, rows = inputs
        logits = log_weights[None, :] + pairs.all_pairs(after).astype(log_weights.dtype)
        peak = safe_max(logits, axis=1)
        return function(jnp.exp(logits - peak), peak[:, 0], rows)

    count = after.shape[0]
    at_once = _PAIRS_AT_ONCE.get(jax.default_backend(), _PAIRS_ELSEWHERE)
    num_blocks = max(1, min(count, -(-count * num // at_once)))
    if num_blocks == 1:
        return block((after, rows))
    size = -(-count // num_blocks)
    extra = size * num_blocks - count

    if extra:  # successors that exist, so that nothing is NaN, with rows of zeros, so that nothing is added
        after = jnp.concatenate([after, jnp.repeat(after[-1:], extra, axis=0)])
        rows = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros((extra, *x.shape[1:]), x.dtype)]), rows)
    cut = jax.tree.map(lambda x: x.reshape(num_blocks, size, *x.shape[1:]), (after, rows))
    made = jax.lax.map(block, cut)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], made)


def _sound(totals: Array) -> Array:
    return jnp.isfinite(totals) & (totals > 0)
