"""Check numerically that a system declared linear and Gaussian is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ModelError
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture import GaussianMixture

if TYPE_CHECKING:
    from probinf.streaming.system import System

_STEPS = (0.37, 1.9)  # time differences tried; nothing special about them


def check_linear_gaussian(system: System) -> None:
    """Raise `ModelError` unless motion and sensors are Gaussian with affine means and constant covariances.

    The prior must be a Gaussian or a `GaussianMixture`.

    Means are compared at points on a line, f(a x + (1 - a) y) = a f(x) + (1 - a) f(y), covariances at the same points,
    to the square root of the rounding unit.
    """
    if not _gaussian_prior(system.prior):
        raise ModelError(
            f"linear_gaussian=True: the prior of {system.name!r} is neither a Gaussian nor a GaussianMixture."
        )
    if system.angles or any(s.angles for s in system.sensors.values()):
        raise ModelError(f"linear_gaussian=True: {system.name!r} has angles, which are not linear.")
    if system.needs_control:
        raise ModelError(f"linear_gaussian=True: the motion of {system.name!r} cannot be checked without a control.")
    for dt in _STEPS:
        step = jnp.asarray(dt, system.dtype)
        _check_function(f"move of {system.name!r}", lambda x, step=step: system.move_distribution(x, step), system)
    for name, sensor in system.sensors.items():
        if sensor.needs_inputs and sensor.inputs is None:
            raise ModelError(
                f"linear_gaussian=True: {system.label(name)} cannot be checked without the shape of its inputs; "
                "declare it with Sensor(..., inputs=shape)."
            )
        inputs = None if sensor.inputs is None else jnp.ones(sensor.inputs, system.dtype)
        see = lambda x, name=name, inputs=inputs: system.sensor_distribution(name, x, inputs)  # noqa: E731
        _check_function(system.label(name), see, system)


def gaussian_moments(distribution: Any) -> tuple[jax.Array, jax.Array] | None:
    """Mean (m,) and covariance (m, m) of a Gaussian value, flattened; None for any other family."""
    if isinstance(distribution, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return distribution.mean, jnp.asarray(distribution.covariance_matrix)
    base = distribution
    while isinstance(base, dist.Independent):
        base = base.base_dist
    if isinstance(base, dist.Normal | dist.Delta):
        mean = jnp.broadcast_to(base.mean, base.batch_shape + base.event_shape)
        variance = jnp.broadcast_to(base.variance, base.batch_shape + base.event_shape)
        return mean.reshape(-1), jnp.diag(variance.reshape(-1))
    return None


def _gaussian_prior(prior: Any) -> bool:
    if isinstance(prior, dist.Distribution):
        return gaussian_moments(prior) is not None
    if isinstance(prior, GaussianMixture):
        return True
    return not hasattr(prior, "claim") or prior.claim == "exact"


def _check_function(where: str, function: Callable[[jax.Array], dist.Distribution], system: System) -> None:
    x, y = (jax.random.normal(k, (system.dim,), system.dtype) for k in jax.random.split(jax.random.key(0)))
    share = 0.3
    points = (x, y, share * x + (1.0 - share) * y)
    moments = [m for m in (gaussian_moments(function(point)) for point in points) if m is not None]
    if len(moments) < len(points):
        raise ModelError(f"linear_gaussian=True: {where} returns {type(function(x)).__name__}, which is not Gaussian.")
    (mean_x, cov_x), (mean_y, cov_y), (mean_z, cov_z) = moments
    if not is_concrete(mean_z, cov_z):
        return
    tolerance = float(np.sqrt(jnp.finfo(system.dtype).eps))
    size = 1.0 + max(float(jnp.abs(mean_x).max()), float(jnp.abs(mean_y).max()))
    if not float(jnp.abs(mean_z - share * mean_x - (1.0 - share) * mean_y).max()) <= tolerance * size:
        raise ModelError(f"linear_gaussian=True: the mean of {where} is not linear in the state.")
    spread = max(float(jnp.abs(cov_x - cov_y).max()), float(jnp.abs(cov_x - cov_z).max()))
    if not spread <= tolerance * (1.0 + float(jnp.abs(cov_x).max())):
        raise ModelError(f"linear_gaussian=True: the covariance of {where} changes with the state.")
