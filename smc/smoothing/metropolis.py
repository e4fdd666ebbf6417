"""Backward draws by a few Metropolis moves from the ancestor: O(1) for each path and move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smc.smoothing.pairs import TransitionDensities
from smc.smoothing.search import InverseCdf
from smc.state_space_model import StateSpaceModel


def accepts(
    log_new: Float[Array, " paths"], log_old: Float[Array, " paths"], exponentials: Float[Array, " paths"]
) -> Bool[Array, " paths"]:
    """The deterministic half of a move: accept with probability min(1, new / old) of the transition densities.

    Proposals come from the filtering weights, which therefore cancel. A density of zero is always left.
    """
    return (-exponentials < log_new - log_old) | (jnp.isneginf(log_old) & (log_new > -jnp.inf))


def metropolis_indices(
    model: StateSpaceModel,
    t: Any,
    before: Array,
    log_weights: Float[Array, " num"],
    after: Array,
    start: Int[Array, " paths"],
    key: Array,
    moves: int,
) -> tuple[Array, Array]:
    """Indices (M,) after independence Metropolis moves that leave the backward law invariant; share of accepted moves.

    Started at the ancestor, which already has the backward law given the successor (averaged over resampling), so that
    one move is enough to undo the coalescence of paths and no burn-in is needed.

    References:
        Bunch & Godsill (2013); Dau & Chopin (2023), On backward smoothing algorithms, Algorithm 3.
    """
    cdf = InverseCdf.of(log_weights)
    densities = TransitionDensities.of(model, t, before)
    paths = after.shape[0]

    def move(k: Array, state: tuple) -> tuple:
        index, log_old, total = state
        k_which, k_accept = jax.random.split(jax.random.fold_in(key, k))
        candidate = cdf(jax.random.uniform(k_which, (paths,), log_weights.dtype))
        log_new = densities.matched(candidate, after)
        accept = accepts(log_new, log_old, jax.random.exponential(k_accept, (paths,), log_new.dtype))
        total = total + jnp.mean(accept, dtype=log_new.dtype)
        return jnp.where(accept, candidate, index), jnp.where(accept, log_new, log_old), total

    log_old = densities.matched(start, after)
    begin = (start.astype(jnp.int32), log_old, jnp.zeros((), log_old.dtype))
    index, _, total = jax.lax.fori_loop(0, moves, move, begin)
    return index, total / moves
