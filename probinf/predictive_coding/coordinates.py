"""Parameters with priors as a vector of unconstrained coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.errors import ArgumentError
from probinf.language.distributions import standard_promotion


class Coordinates(NamedTuple):
    """Priors of one number each, by address; coordinate k is the k-th of them on the whole line."""

    priors: dict[str, Any]
    dtype: Any

    def bijections(self) -> list[Any]:
        """From a coordinate to the value, in order."""
        with standard_promotion():
            return [dist.biject_to(prior.support) for prior in self.priors.values()]

    def values(self, x: Array) -> dict[str, Array]:
        """Values by address, (...), of coordinates (..., P)."""
        with standard_promotion():
            parts = [f(x[..., k]) for k, f in enumerate(self.bijections())]
        return {a: jnp.asarray(v, self.dtype) for a, v in zip(self.priors, parts, strict=True)}

    def log_priors(self, x: Array) -> Array:
        """Log density of each coordinate (..., P), Jacobians included, nats."""
        found = []
        with standard_promotion():
            for k, (prior, bijection) in enumerate(zip(self.priors.values(), self.bijections(), strict=True)):
                value = bijection(x[..., k])
                found.append(prior.log_prob(value) + bijection.log_abs_det_jacobian(x[..., k], value))
        return jnp.stack([jnp.asarray(f, self.dtype) for f in found], axis=-1)

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draws from the priors, (*shape, P)."""
        keys = jax.random.split(key, len(self.priors))
        with standard_promotion():
            parts = [
                bijection.inv(prior.sample(k, shape))
                for k, prior, bijection in zip(keys, self.priors.values(), self.bijections(), strict=True)
            ]
        return jnp.stack([jnp.asarray(part, self.dtype) for part in parts], axis=-1)


def check_priors(priors: Mapping[str, Any]) -> None:
    """Raise for a prior that is not of one continuous number."""
    for address, prior in priors.items():
        support: Any = getattr(prior, "support", None)
        if not isinstance(prior, dist.Distribution) or prior.shape() != () or support.is_discrete:
            raise ArgumentError(f"priors[{address!r}]: expected a distribution of one continuous number.")
