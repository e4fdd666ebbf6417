"""Mean and covariance of NumPyro distributions, as Gaussian filters need them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.errors import ArgumentError


def check_noise(noise: str) -> str:
    """Raise unless `noise` is one of the two readings of a heavy-tailed or mixture noise."""
    if noise not in ("nominal", "moment"):
        raise ArgumentError(f"noise: expected 'nominal' or 'moment', found {noise!r}.")
    return noise


def moments(
    distribution: dist.Distribution, noise: str = "moment"
) -> tuple[Float[Array, " size"], Float[Array, "size size"]]:
    """Mean (m,) and covariance (m, m) of a value of shape `event_shape`, flattened to m entries.

    Args:
        distribution: batch shape ().
        noise: `"moment"`: the mean and covariance of the distribution itself. `"nominal"`: of what it is when nothing
            goes wrong: the heaviest component of a mixture, the squared scale of a Student t instead of its variance.

    Returns:
        For angles (`VonMises`, `Angular`): the mean direction, and the variance of the wrapped normal that has the same
        mean resultant length, radians squared.
    """
    mean, cov = _moments(distribution, noise)
    size = distribution.event_shape
    flat = 1
    for n in size:
        flat *= n
    return jnp.reshape(mean, (flat,)), jnp.reshape(cov, (flat, flat))


def _moments(distribution: Any, noise: str) -> tuple[Array, Array]:
    """Mean of shape (*batch, m) and covariance of shape (*batch, m, m)."""
    batch = distribution.batch_shape
    if isinstance(distribution, dist.MixtureSameFamily | dist.MixtureGeneral):
        return _of_mixture(distribution, noise)
    if _is(distribution, dist.MultivariateStudentT):
        loc = jnp.broadcast_to(distribution.loc, batch + distribution.event_shape)
        scale = jnp.broadcast_to(distribution.covariance_matrix, (*loc.shape, loc.shape[-1]))  # the scale matrix
        if noise == "nominal":
            return loc, scale
        df = jnp.broadcast_to(distribution.df, batch)
        factor = jnp.where(df > 2.0, df / jnp.where(df > 2.0, df - 2.0, 1.0), jnp.inf)
        return loc, factor[..., None, None] * scale
    if distribution.event_dim == 1 and hasattr(distribution, "covariance_matrix"):
        mean = jnp.broadcast_to(distribution.mean, batch + distribution.event_shape)
        return mean, jnp.broadcast_to(distribution.covariance_matrix, (*mean.shape, mean.shape[-1]))
    base = distribution
    while isinstance(base, dist.Independent):
        base = base.base_dist
    shape = base.batch_shape + base.event_shape
    mean, variance = (jnp.broadcast_to(part, shape) for part in _elementwise(base, noise))
    mean, variance = (part.reshape(*batch, -1) for part in (mean, variance))
    eye = jnp.broadcast_to(jnp.eye(mean.shape[-1], dtype=variance.dtype), (*variance.shape, variance.shape[-1]))
    return mean, variance[..., :, None] * eye


def _elementwise(base: Any, noise: str) -> tuple[Array, Array]:
    if isinstance(base, dist.StudentT) and noise == "nominal":
        return jnp.asarray(base.loc), jnp.asarray(base.scale) ** 2
    if isinstance(base, dist.VonMises):
        # E cos(x - loc) = I1(k)/I0(k) = exp(-variance/2) of the wrapped normal.
        k = jnp.asarray(base.concentration)
        return jnp.asarray(base.loc), -2.0 * jnp.log(jax.scipy.special.i1e(k) / jax.scipy.special.i0e(k))
    if isinstance(base, dist.MixtureSameFamily | dist.MixtureGeneral):
        mean, cov = _of_mixture(base, noise)
        return mean[..., 0], cov[..., 0, 0]
    return jnp.asarray(base.mean), jnp.asarray(base.variance)


def _of_mixture(mixture: Any, noise: str) -> tuple[Array, Array]:
    weights = mixture.mixing_distribution.probs
    if isinstance(mixture, dist.MixtureGeneral):
        parts = [_moments(component, noise) for component in mixture.component_distributions]
        axis = len(mixture.batch_shape)
        means, covs = (jnp.stack(part, axis=axis) for part in zip(*parts, strict=True))
    else:
        means, covs = _moments(mixture.component_distribution, noise)
    weights = jnp.broadcast_to(weights, means.shape[:-1])
    if noise == "nominal":
        heaviest = jnp.argmax(weights, axis=-1)[..., None]
        mean = jnp.take_along_axis(means, heaviest[..., None], axis=-2)[..., 0, :]
        cov = jnp.take_along_axis(covs, heaviest[..., None, None], axis=-3)[..., 0, :, :]
        return mean, cov
    mean = jnp.sum(weights[..., None] * means, axis=-2)
    gaps = means - mean[..., None, :]
    spread = covs + gaps[..., :, None] * gaps[..., None, :]
    return mean, jnp.sum(weights[..., None, None] * spread, axis=-3)


def _is(distribution: Any, family: type) -> bool:
    """`isinstance` that does not narrow: NumPyro's own annotations are looser than what its attributes are."""
    return isinstance(distribution, family)


def prior_moments(prior: Any) -> tuple[Array, Array]:
    """Mean (d,) and covariance (d, d) of a system's prior, whatever kind it is."""
    if isinstance(prior, dist.Distribution):
        return moments(prior, "moment")
    return jnp.asarray(prior.mean), jnp.asarray(prior.cov)
