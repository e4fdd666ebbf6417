r"""Resampling without replacement: over a finite alphabet copies of one prefix are worthless.

Every prefix is extended by all its successors; of these N are kept. With c the solution of
$\sum_i \min(1, c\,w_i) = N$, those with $c\,w_i \ge 1$ stay with their weight; of the others each stays with chance
$c\,w_i$, drawn systematically, and gets the weight 1 / c (Fearnhead & Clifford 2003, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.random import as_key
from smc.steering.potential import Memory, Potential


class Kept(NamedTuple):
    """What is kept of M candidates.

    Attributes:
        index: (N,) candidates; what stands behind `log_weights` of -inf is padding.
        log_weights: (N,) nats.
        log_threshold: -log c, nats; -inf where all candidates with weight fit.
    """

    index: Int[Array, " kept"]
    log_weights: Float[Array, " kept"]
    log_threshold: Float[Array, ""]


class Distinct(eqx.Module):
    """A population of different answers.

    Attributes:
        states: (N, ...) answers.
        log_weights: (N,) nats, properly weighted: their total is unbiased for Z as well. -inf marks an empty place.
        log_evidence: scalar, log of the total weight of all candidates of the last step, an unbiased estimate of Z;
            exact once N places hold all answers.
        ess: (T,) effective sample size over N before each selection.
        generator_calls: candidates produced.
        judge_calls: candidates scored.
        claim: of the evidence.
    """

    states: Any
    log_weights: Float[Array, " particles"]
    log_evidence: Float[Array, ""]
    ess: Float[Array, " steps"]
    generator_calls: Int[Array, ""]
    judge_calls: Int[Array, ""]
    claim: str = eqx.field(static=True, default="unbiased")


def log_threshold(log_weights: Float[Array, " candidates"], num: int) -> Float[Array, ""]:
    """-log c, nats; -inf where at most `num` candidates have weight.

    With the k largest kept for sure c = (num - k) / (sum of the others), for the smallest k at which the next largest
    falls below 1 / c.
    """
    ordered = -jnp.sort(-log_weights)
    others = jax.lax.cumlogsumexp(ordered, reverse=True)[:num]
    places = jnp.log(num - jnp.arange(num, dtype=ordered.dtype))
    limits = others - places
    fits = ordered[:num] < limits
    k = jnp.argmax(fits)
    count = jnp.sum(log_weights > -jnp.inf)
    return jnp.where((count <= num) | ~jnp.any(fits), -jnp.inf, limits[k])


def keep_without_replacement(uniform: Float[Array, ""], log_weights: Float[Array, " candidates"], num: int) -> Kept:
    """Keep `num` of M candidates, from one uniform number; E[kept weight of i] = w_i for every i.

    Args:
        uniform: scalar in [0, 1).
        log_weights: (M,) unnormalised, nats.
        num: N; with at most N candidates that have weight all of them stay.
    """
    size = log_weights.shape[0]
    limit = log_threshold(log_weights, num)
    is_sure = (log_weights >= limit) & (log_weights > -jnp.inf)
    chance = jnp.where(
        is_sure | (log_weights == -jnp.inf), 0, jnp.exp(log_weights - jnp.where(limit > -jnp.inf, limit, 0))
    )
    ends = jnp.cumsum(chance)
    # The chances sum to a whole number up to rounding, so a shifted grid hits exactly so many.
    hits = jnp.floor(ends + 1 - uniform) - jnp.floor(
        jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]]) + 1 - uniform
    )
    stays = is_sure | ((hits > 0) & (chance > 0))
    weights = jnp.where(is_sure, log_weights, limit)
    order = jnp.argsort(~stays, stable=True)[:num].astype(jnp.int32)
    pad = max(num - size, 0)
    order = jnp.pad(order, (0, pad))
    kept = jnp.where(jnp.arange(num, dtype=jnp.int32) < jnp.sum(stays, dtype=jnp.int32), weights[order], -jnp.inf)
    return Kept(order, kept, limit)


def steer_without_replacement(
    start: Any,
    branch: Callable[[Any], tuple[Any, Array]],
    score: Callable[[Any], Array],
    seed: Any = 0,
    *,
    num_particles: int,
    max_steps: int,
    potential: Potential,
    finished: Callable[[Any], Bool[Array, " particles"]] | None = None,
) -> Distinct:
    """Steering over a finite alphabet by enumeration of successors. Claim: unbiased.

    Args:
        start: the first state, a pytree of arrays.
        branch: states (N, ...) to their K successors (N, K, ...) and log probabilities (N, K), nats.
        score: as in `BlackBox`.
        seed: integer or key.
        num_particles: N distinct prefixes that are kept at each step.
        max_steps: T.
        potential: how scores become potentials.
        finished: as in `BlackBox`.

    Raises:
        ArgumentError: `branch` gives log probabilities of another shape.
        ArgumentTypeError: a count that is no integer.

    References:
        Fearnhead & Clifford (2003), On-line inference for hidden Markov models via particle filters; Lew et al. (2023),
        arXiv 2306.03081, section 4.
    """
    num, steps = positive_integer("num_particles", num_particles), positive_integer("max_steps", max_steps)
    return _distinct_jit(start, branch, score, finished, as_key(seed), num, steps, potential)


def _distinct(
    start: Any,
    branch: Callable[[Any], tuple[Any, Array]],
    score: Callable[[Any], Array],
    finished: Callable[[Any], Array] | None,
    key: Array,
    num: int,
    max_steps: int,
    potential: Potential,
) -> Distinct:
    states = jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (num, *jnp.shape(a))), start)
    probe = jax.eval_shape(branch, states)[1]
    if len(probe.shape) != 2 or probe.shape[0] != num:
        raise ArgumentError(f"branch: expected log probabilities of shape ({num}, K), found {probe.shape}.")
    width = probe.shape[1]
    log_weights = jnp.where(jnp.arange(num) == 0, 0.0, jnp.full(num, -jnp.inf, jnp.result_type(float)))

    def one(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
        states, log_weights, done, memory = carry
        step, uniform = row
        successors, log_p = branch(states)
        # A finished state is its own only successor.
        only = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)[None, :]
        candidates = jax.tree.map(
            lambda new, old: jnp.where(done.reshape(-1, *(1,) * (new.ndim - 1)), old[:, None], new), successors, states
        )
        candidates = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), candidates)
        parent = jnp.repeat(jnp.arange(num, dtype=jnp.int32), width, total_repeat_length=num * width)
        was_done, known = done[parent], Memory(*(a[parent] for a in memory))
        prior = log_weights[parent] + jnp.where(done[:, None], only, log_p.astype(log_weights.dtype)).reshape(-1)
        is_live = prior > -jnp.inf
        ends = jnp.zeros(num * width, bool) if finished is None else finished(candidates)
        now_done = was_done | ends
        log_g, known = potential.update(
            known, score(candidates).astype(prior.dtype), was_done, now_done | (step >= max_steps)
        )
        weights = jnp.where(is_live, prior + log_g, -jnp.inf)
        kept = keep_without_replacement(uniform, weights, num)
        at = kept.index
        total = jax.nn.logsumexp(kept.log_weights)
        ess = jnp.exp(2 * total - jax.nn.logsumexp(2 * kept.log_weights)) / num
        calls = jnp.sum(is_live & ~was_done, dtype=jnp.int32)
        carry = (
            jax.tree.map(lambda a: a[at], candidates),
            kept.log_weights,
            now_done[at],
            Memory(*(a[at] for a in known)),
        )
        return carry, (ess, calls, jax.nn.logsumexp(weights))

    uniforms = jax.random.uniform(key, (max_steps,), log_weights.dtype)
    first = (states, log_weights, jnp.zeros(num, bool), potential.start(num))
    (states, log_weights, _, _), (ess, calls, totals) = jax.lax.scan(
        one, first, (jnp.arange(1, max_steps + 1, dtype=jnp.int32), uniforms)
    )
    count = jnp.sum(calls, dtype=jnp.int32)
    return Distinct(states, log_weights, totals[-1], ess, count, count)


_distinct_jit = eqx.filter_jit(_distinct)
