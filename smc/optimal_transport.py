r"""Resampling by entropy-regularised optimal transport: evenly weighted particles, differentiable in everything.

The plan P moves the weights W to even ones at the least cost plus entropy,

    P = argmin sum_ij P_ij C_ij + epsilon KL(P | W x 1/N),   C_ij = |x_i - x_j|^2 / (2 s^2),  x_j' = N sum_i P_ij x_i,

with s^2 the weighted variance summed over components, so that epsilon has no unit. Sinkhorn's iterations run on the
dual potentials in log space while epsilon comes down from a large value. The new cloud has the weighted mean but, for
epsilon > 0, too little spread: filters that use it are biased for a fixed number of particles, and consistent when
epsilon falls as particles grow, faster than 1 / log N (Corenflos, Thornton, Deligiannidis & Doucet 2021, Algorithm 3
and Proposition 4.2).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError

#: Of a filter that resamples by transport with a fixed epsilon.
CLAIM = Claim.APPROXIMATE
_FIRST_EPSILON = 10.0  # squared distances are of order one


def transport(log_weights: jax.Array, particles: Any, *, epsilon: float = 0.1, num_iterations: int = 50) -> Any:
    """Particles of equal weight that stand for the weighted ones. Claim: approximate.

    Takes O(N^2) per iteration and O(N^2) memory, forwards and backwards (iterations are computed again for the
    gradient, which is that of the map as computed).

    Args:
        log_weights: (N,) unnormalised, nats; -inf for the dead.
        particles: pytree of float arrays (N, ...), whose squared distances are added up: scale components alike.
        epsilon: weight of the entropy, relative to the particles' weighted variance.
        num_iterations: Sinkhorn iterations; the first half brings epsilon down.

    Returns:
        Like `particles`. Unchanged where all weights are zero.

    Raises:
        ArgumentError: epsilon or the number of iterations is not positive, or numbers of particles differ.
    """
    if not epsilon > 0:
        raise ArgumentError(f"epsilon: expected a positive number, found {epsilon}.")
    count = positive_integer("num_iterations", num_iterations)
    num = log_weights.shape[0]
    leaves, structure = jax.tree.flatten(particles)
    for leaf in leaves:
        if jnp.shape(leaf)[:1] != (num,) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ArgumentError(
                f"particles: expected float arrays with {num} rows, one per weight, found "
                f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}."
            )
    rows = jnp.concatenate([jnp.asarray(leaf).reshape(num, -1).astype(log_weights.dtype) for leaf in leaves], axis=1)
    alive = jnp.max(log_weights) > -jnp.inf
    log_w = jax.nn.log_softmax(jnp.where(alive, log_weights, jnp.zeros_like(log_weights)))
    plan = _columns(log_w, _cost(log_w, rows), float(epsilon), count)
    moved = jnp.where(alive, plan @ rows, rows)
    ends, new = 0, []
    for leaf in leaves:
        size = int(jnp.size(leaf)) // num
        new.append(moved[:, ends : ends + size].reshape(leaf.shape).astype(leaf.dtype))
        ends += size
    return jax.tree.unflatten(structure, new)


def _cost(log_w: jax.Array, rows: jax.Array) -> jax.Array:
    weights = jnp.exp(log_w)[:, None]
    centred = rows - jnp.sum(weights * rows, axis=0, keepdims=True)
    squares = jnp.sum(centred**2, axis=1)
    variance = jnp.sum(weights[:, 0] * squares)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * centred @ centred.T, 0)
    return distances / (2 * jnp.where(variance > 0, variance, 1))


def _columns(log_w: jax.Array, cost: jax.Array, epsilon: float, num_iterations: int) -> jax.Array:
    """N P transposed: row j holds the shares that the old particles have in new particle j; they add up to one."""
    num = log_w.shape[0]
    falling = jnp.geomspace(max(_FIRST_EPSILON, epsilon), epsilon, max(num_iterations // 2, 1), dtype=cost.dtype)
    epsilons = jnp.concatenate([falling, jnp.full(num_iterations - falling.shape[0], epsilon, cost.dtype)])

    def shares(f: jax.Array, eps: Any) -> jax.Array:
        return log_w[None, :] + (f[None, :] - cost) / eps

    @jax.checkpoint
    def iterate(f: jax.Array, eps: jax.Array) -> tuple[jax.Array, None]:
        g = -eps * logsumexp(shares(f, eps), axis=1)
        # The average of the old and the new potential converges in the symmetric problem and does not oscillate.
        return 0.5 * (f - eps * (logsumexp((g[None, :] - cost) / eps, axis=1) - jnp.log(num))), None

    f, _ = jax.lax.scan(iterate, jnp.zeros_like(log_w), epsilons)
    return jax.nn.softmax(shares(f, epsilon), axis=1)
