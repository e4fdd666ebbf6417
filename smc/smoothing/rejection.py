"""Backward draws by rejection: a cost that does not grow with the number of particles where acceptance is good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from smc.smoothing.backward_weights import backward_indices
from smc.smoothing.pairs import TransitionDensities, log_peaks
from smc.smoothing.search import InverseCdf
from smc.state_space_model import StateSpaceModel

_TOGETHER = 64  # paths that are finished exactly in one go
# One try costs about as much as weighing this many particles (measured on a CPU: 50 to 100).
_TRY_IN_PAIRS = 100


def rejection_indices(
    model: StateSpaceModel,
    t: Any,
    before: Array,
    log_weights: Float[Array, " num"],
    after: Array,
    key: Array,
    log_bound: Float[Array, ""],
    max_tries: int,
) -> tuple[Array, Array, Array, Array]:
    """A predecessor for each of M successors, drawn by the backward law exactly.

    Candidates come from the filtering weights and are accepted with probability density / bound. All paths try
    together, at most `max_tries` times, and no longer than it pays: the first tries may cost as much as weighing all
    particles would, later ones must save more than they cost, so that a bad bound about doubles the cost of the exact
    rule and no more. When trying stops depends on how many were accepted and not on which, so the law stays exact.

    Returns:
        Indices (M,); share of accepted tries; whether every successor has a predecessor; the largest log density minus
        bound that was met: positive if the bound is not one.

    References:
        Douc, Garivier, Moulines & Olsson (2011), Algorithm 1; Dau & Chopin (2023) for the limit on tries.
    """
    num, paths = log_weights.shape[0], after.shape[0]
    enough = paths * _TRY_IN_PAIRS // num
    k_try, k_rest = jax.random.split(key)
    cdf = InverseCdf.of(log_weights)
    densities = TransitionDensities.of(model, t, before)

    def unfinished(state: tuple) -> Array:
        _, pending, tries, _, _, last = state
        pays = (tries * _TRY_IN_PAIRS < num) | (last > enough)
        return (tries < max_tries) & pays & (jnp.sum(pending, dtype=jnp.int32) > enough)

    def attempt(state: tuple) -> tuple:
        index, pending, tries, total, excess, _ = state
        k_which, k_accept = jax.random.split(jax.random.fold_in(k_try, tries))
        candidate = cdf(jax.random.uniform(k_which, (paths,), log_weights.dtype))
        log_ratio = densities.matched(candidate, after).astype(log_bound.dtype) - log_bound
        accept = -jax.random.exponential(k_accept, (paths,), log_ratio.dtype) < log_ratio
        excess = jnp.maximum(excess, jnp.max(log_ratio))
        total = total + jnp.sum(pending, dtype=jnp.int32)
        accept = pending & accept
        last = jnp.sum(accept, dtype=jnp.int32)
        return jnp.where(accept, candidate, index), pending & ~accept, tries + 1, total, excess, last

    zero = jnp.zeros((), jnp.int32)
    dtype = jnp.result_type(log_weights.dtype, log_bound.dtype)
    begin = (jnp.zeros(paths, jnp.int32), jnp.ones(paths, bool), zero, zero, jnp.asarray(-jnp.inf, dtype), zero)
    index, pending, _, total, excess, _ = jax.lax.while_loop(unfinished, attempt, begin)

    left = jnp.sum(pending, dtype=jnp.int32)
    together = min(_TOGETHER, paths)
    slots = -(-paths // together) * together
    queue = jnp.nonzero(pending, size=slots, fill_value=paths)[0].astype(jnp.int32)
    uniforms = jax.random.uniform(k_rest, (slots,), log_weights.dtype)

    def finish(state: tuple) -> tuple:
        index, done, sound = state
        lanes = jax.lax.dynamic_slice(queue, (done,), (together,))
        here = jax.lax.dynamic_slice(uniforms, (done,), (together,))
        successors = after[jnp.minimum(lanes, paths - 1)]
        found, fine = backward_indices(model, t, before, log_weights, successors, here)
        return index.at[lanes].set(found, mode="drop"), done + together, sound & fine

    index, _, sound = jax.lax.while_loop(lambda s: s[1] < left, finish, (index, zero, jnp.asarray(True)))
    accepted = (paths - left).astype(dtype) / jnp.maximum(total, 1).astype(dtype)
    return index, accepted, sound, excess


def log_bound(model: StateSpaceModel, t: Any, before: Array, bound: float | Callable[..., Any] | None) -> Any:
    """Log of an upper bound on p(x_t | x_{t-1}): the one given, the model's own, or the height of the highest mode.

    Raises:
        ArgumentError: there is none.
    """
    if callable(bound):
        return bound(model, t)
    if bound is not None:
        return bound
    if hasattr(model, "log_transition_bound"):
        return getattr(model, "log_transition_bound")(t)  # noqa: B009
    peaks = log_peaks(model, t, before)
    if peaks is None:
        raise ArgumentError(
            f"bound: rejection needs an upper bound on the transition density of {type(model).__name__}, and none is "
            "known for its law; give its log, a number or a function of (model, t), or write a method "
            "log_transition_bound(t) in the model; BackwardSampling(rule='mcmc') and smooth_additive(num_draws=None) "
            "need none."
        )
    return jnp.max(peaks)


def checked_bound(bound: Any) -> float | Callable[..., Any] | None:
    """A bound as `log_bound` takes it.

    Raises:
        ArgumentTypeError, ArgumentError: neither a function nor a finite number nor None.
    """
    if bound is None or callable(bound):
        return bound
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer | np.floating):
        raise ArgumentTypeError(f"bound: expected a number or a function of (model, t), found {bound!r}.")
    if not np.isfinite(bound):
        raise ArgumentError(f"bound: expected a finite log density in nats, found {bound}.")
    return float(bound)
