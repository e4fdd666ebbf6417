"""Several named parameters as one unconstrained vector, as kernels that move parameters need them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ArgumentTypeError, ModelError
from probinf.language.distributions import standard_promotion


def check_priors(priors: Any) -> dict[str, dist.Distribution]:
    """Names to laws of one continuous value each, or an error that names the parameter."""
    if not isinstance(priors, Mapping) or not priors:
        raise ArgumentTypeError(
            "priors: expected a dictionary from parameters to distributions, with an entry or more."
        )
    for name, law in priors.items():
        if not isinstance(law, dist.Distribution):
            raise ArgumentTypeError(f"priors: {name!r}: expected a distribution, found {type(law).__name__}.")
        if law.batch_shape:
            raise ModelError(
                f"priors: {name!r}: expected one value, found batch shape {law.batch_shape}; add .to_event."
            )
        if getattr(law.support, "is_discrete", False):
            raise ModelError(
                f"priors: {name!r}: {type(law).__name__} is discrete; kernels move continuous values only."
            )
    return dict(priors)


def unconstrain(priors: Mapping[str, dist.Distribution], values: Mapping[str, Any]) -> jax.Array:
    """The values of one particle as a vector (p,)."""
    with standard_promotion():
        parts = [jnp.ravel(_change(law).inv(jnp.asarray(values[name]))) for name, law in priors.items()]
    return jnp.concatenate([part.astype(jnp.result_type(float)) for part in parts])


def constrain(priors: Mapping[str, dist.Distribution], vector: jax.Array) -> dict[str, jax.Array]:
    """The inverse of `unconstrain`."""
    values, start = {}, 0
    with standard_promotion():
        for name, law in priors.items():
            change = _change(law)
            shape = change.inverse_shape(law.event_shape)
            size = math.prod(shape)
            values[name] = jnp.asarray(change(vector[start : start + size].reshape(shape)))
            start += size
    return values


def _change(law: dist.Distribution) -> Any:
    return dist.biject_to(law.support)
