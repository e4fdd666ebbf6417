"""Log prior and log likelihood of a program apart, on unconstrained space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from probinf.language.distributions import log_density
from probinf.language.handlers import ScoreUnconstrained


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.result_type(float))


class ScoreInParts(ScoreUnconstrained):
    """Accumulates (log prior, log likelihood): latent sites with their Jacobians, and observations with factors."""

    def start(self) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        """The state at the start of a run."""
        return _zero(), _zero()

    def sample(self, site: Any, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, dict]:
        prior, likelihood = state
        value, prior, records = super().sample(site, distribution, value, prior)
        return value, (prior, likelihood), records

    def observe(self, site: Any, distribution: Any, value: Any, state: Any) -> tuple[Any, dict]:
        prior, likelihood = state
        return (prior, likelihood + log_density(distribution, value).astype(likelihood.dtype)), {}

    def factor(self, site: Any, log_factor: Any, state: Any) -> tuple[Any, dict]:
        prior, likelihood = state
        return (prior, likelihood + jnp.sum(jnp.asarray(log_factor)).astype(likelihood.dtype)), {}

    def fresh(self, state: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, state)

    def join(self, state: Any, states: Any) -> Any:
        return jax.tree.map(lambda before, parts: before + jnp.sum(parts, axis=0), state, states)


def log_prior_and_likelihood(target: Any, operands: Any, position: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Log prior (with log Jacobians) and log likelihood of one unconstrained position, scalars in nats."""
    handler = ScoreInParts(target.non_centred)
    return target.staged.run(operands, handler, handler.start(), position)[1]
