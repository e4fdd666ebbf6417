"""A bootstrap filter written by hand in plain JAX: the yardstick for filters run from programs. Frozen.

Linear-Gaussian model x' = 0.9 x + N(0, 1), y = x + N(0, 1), x_0 = 0, systematic resampling after every step whose
effective sample size is at most half of the particles.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def systematic(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """Ancestors by inverting the cumulative weights at N equally spaced points."""
    n = weights.shape[0]
    cumulative = jnp.cumsum(weights)
    ends = jnp.ceil(n * cumulative / cumulative[-1] - uniform).astype(jnp.int32)
    counts = jnp.zeros(n + 1, jnp.int32).at[jnp.clip(ends, 0, n)].add(1)
    return jnp.minimum(jnp.cumsum(counts[:n]), n - 1)


def filter_evidence(key: jax.Array, ys: jax.Array, num_particles: int, threshold: float) -> jax.Array:
    """Log evidence of a series."""

    def step(carry: tuple, inputs: tuple) -> tuple:
        x, log_weights, log_evidence = carry
        y, key = inputs
        key_move, key_resample = jax.random.split(key)
        x = 0.9 * x + jax.random.normal(key_move, (num_particles,), x.dtype)
        log_weights = log_weights - 0.5 * (y - x) ** 2 - 0.5 * jnp.log(2 * jnp.pi).astype(x.dtype)
        top = jnp.max(log_weights)
        weights = jnp.exp(log_weights - top)
        total = jnp.sum(weights)
        due = total**2 / jnp.sum(weights**2) <= threshold * num_particles
        uniform = jax.random.uniform(key_resample, dtype=x.dtype)
        ancestors = jax.lax.cond(
            due, lambda: systematic(uniform, weights), lambda: jnp.arange(num_particles, dtype=jnp.int32)
        )
        log_evidence = log_evidence + jnp.where(due, top + jnp.log(total / num_particles), 0.0)
        return (x[ancestors], jnp.where(due, 0.0, log_weights), log_evidence), None

    start = (jnp.zeros(num_particles, ys.dtype), jnp.zeros(num_particles, ys.dtype), jnp.zeros((), ys.dtype))
    keys = jax.random.split(key, ys.shape[0])
    (_, log_weights, log_evidence), _ = jax.lax.scan(step, start, (ys, keys))
    return log_evidence + jax.scipy.special.logsumexp(log_weights) - jnp.log(num_particles)
