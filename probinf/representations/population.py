"""A population: weighted particles that stand for an unnormalised measure."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Population(eqx.Module):
    """Weighted particles. The measure is `exp(log_evidence) * sum_i exp(log_weights_i) / N * delta(particle_i)`.

    Attributes:
        particles: pytree of arrays with a leading particle axis.
        log_weights: (N,) in nats; -inf marks a dead particle.
        collected: scalar, log evidence collected at earlier resamplings, in nats.
        history: by site name, effective sample size and log evidence at each suspension point.
    """

    particles: Any
    log_weights: jax.Array
    collected: jax.Array
    history: dict[str, Any]

    @property
    def log_evidence(self) -> jax.Array:
        """Log of the estimated total mass; its exponential is unbiased."""
        top = jnp.max(self.log_weights)
        safe = jnp.where(jnp.isfinite(top), top, 0)
        mean = jnp.mean(jnp.exp(self.log_weights - safe))
        return self.collected + jnp.where(top == -jnp.inf, -jnp.inf, safe + jnp.log(mean))

    def expectation(self, function: Any) -> Any:
        """Self-normalised estimate of a function's posterior mean."""
        weights = jax.nn.softmax(self.log_weights)
        values = jax.vmap(function)(self.particles)
        return jax.tree.map(lambda v: jnp.tensordot(weights, v, axes=1), values)
