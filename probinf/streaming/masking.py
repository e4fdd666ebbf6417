"""Log densities of partly observed values: coordinates that are missing are integrated out exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from probinf.representations.angular import wrap

_GAUSSIAN = (dist.MultivariateNormal, dist.LowRankMultivariateNormal)


def masked_log_prob(
    distribution: dist.Distribution,
    value: Float[Array, " *event"],
    observed: Bool[Array, " *event"] | None = None,
    angles: Sequence[int] = (),
) -> Float[Array, ""]:
    """Log density of the observed coordinates of one value, in nats; the others are integrated out.

    Exact for scalars, `Independent`, multivariate normal and Student t, and mixtures of these. For any other vector
    distribution a partly observed value gives NaN (`separable` says beforehand which those are). With nothing
    observed the result is exactly zero.

    Args:
        distribution: NumPyro distribution with batch shape ().
        value: shape `event_shape`; what stands at missing coordinates does not matter, NaN included.
        observed: which coordinates count, shape `event_shape`; all of them if left out (cheaper).
        angles: flat indices of coordinates that are angles; the deviation from the location is taken on the circle.

    Returns:
        Scalar; -inf outside the support.
    """
    if observed is None and not angles and not isinstance(distribution, dist.MixtureSameFamily | dist.MixtureGeneral):
        return _supported_log_prob(distribution, value)
    if observed is None:
        observed = jnp.ones(value.shape, bool)
    return jnp.reshape(_log_probs(distribution, value, observed, tuple(angles)), ())


def _log_probs(distribution: dist.Distribution, value: Array, observed: Array, angles: tuple[int, ...]) -> Array:
    """The same for a distribution with any batch shape, shape `batch_shape`; one value for all."""
    if isinstance(distribution, dist.MixtureSameFamily):
        logps = _log_probs(distribution.component_distribution, value, observed, angles)
        return _mix(distribution, logps, observed)
    if isinstance(distribution, dist.MixtureGeneral):
        parts = [_log_probs(c, value, observed, angles) for c in distribution.component_distributions]
        return _mix(distribution, jnp.stack(parts, axis=-1), observed)
    if isinstance(distribution, (*_GAUSSIAN, dist.MultivariateStudentT)):
        return _batched_elliptical(distribution, value, observed, angles)
    return _elementwise(distribution, value, observed, angles)


def separable(distribution: dist.Distribution) -> bool:
    """Whether single coordinates of a value can be left out exactly (needs no parameter values)."""
    if isinstance(distribution, dist.MixtureSameFamily):
        return separable(distribution.component_distribution)
    if isinstance(distribution, dist.MixtureGeneral):
        return all(map(separable, distribution.component_distributions))
    if isinstance(distribution, (*_GAUSSIAN, dist.MultivariateStudentT)):
        return True
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution.event_dim == 0


def circular_coordinates(distribution: dist.Distribution) -> bool:
    """Whether the support of a distribution is the circle in every coordinate (von Mises, `Angular`)."""
    support = distribution.support
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(dist.constraints.circular))


def _mix(mixture: Any, logps: Array, observed: Array) -> Array:
    log_weights = jax.nn.log_softmax(mixture.mixing_distribution.logits, axis=-1)
    log_weights = jnp.broadcast_to(log_weights, logps.shape)
    return jnp.where(jnp.any(observed), jax.nn.logsumexp(log_weights + logps, axis=-1), jnp.zeros((), logps.dtype))


def _angle_mask(angles: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(math.prod(shape), bool)
    mask[list(angles)] = True
    return mask.reshape(shape)


def _batched_elliptical(distribution: Any, value: Array, observed: Array, angles: tuple[int, ...]) -> Array:
    batch, dim = distribution.batch_shape, distribution.event_shape[0]
    loc = jnp.broadcast_to(distribution.loc, (*batch, dim)).reshape(-1, dim)
    # NumPyro's `covariance_matrix` of the Student t is its scale matrix, which is what is needed.
    scale = jnp.broadcast_to(distribution.covariance_matrix, (*batch, dim, dim)).reshape(-1, dim, dim)
    if isinstance(distribution, dist.MultivariateStudentT):
        df = jnp.broadcast_to(jnp.asarray(distribution.df), batch).reshape(-1)
        logps = jax.vmap(lambda m, c, f: _elliptical(value, observed, m, c, angles, f))(loc, scale, df)
    else:
        logps = jax.vmap(lambda m, c: _elliptical(value, observed, m, c, angles, None))(loc, scale)
    return logps.reshape(batch)


def _elliptical(value: Array, observed: Array, loc: Array, scale: Array, angles: Sequence[int], df: Any) -> Array:
    """Normal (`df` None) or Student t log density of the observed block.

    Missing rows and columns of the scale matrix are replaced by those of the identity and their residuals by zero: the
    quadratic form and the determinant are then those of the observed block.
    """
    residual = value - loc
    if angles:
        residual = jnp.where(_angle_mask(angles, loc.shape), wrap(residual), residual)
    residual = jnp.where(observed, residual, jnp.zeros((), loc.dtype))
    both = observed[:, None] & observed[None, :]
    scale = jnp.where(both, scale, jnp.eye(loc.shape[0], dtype=scale.dtype))
    factor = jnp.linalg.cholesky(scale)
    white = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    count = jnp.sum(observed).astype(loc.dtype)
    if df is None:
        return -0.5 * (white @ white) - half_log_det - 0.5 * count * math.log(2.0 * math.pi)
    gammaln = jax.scipy.special.gammaln
    normaliser = gammaln(0.5 * (df + count)) - gammaln(0.5 * df) - 0.5 * count * jnp.log(df * math.pi) - half_log_det
    return normaliser - 0.5 * (df + count) * jnp.log1p((white @ white) / df)


def _elementwise(distribution: Any, value: Array, observed: Array, angles: tuple[int, ...]) -> Array:
    base = distribution
    while isinstance(base, dist.Independent):
        base = base.base_dist
    extra = distribution.batch_shape
    spread = (1,) * len(extra) + value.shape
    value, observed = value.reshape(spread), observed.reshape(spread)
    safe = jnp.where(observed, value, _stand_in(base, value))
    if angles:
        mask = _angle_mask(angles, spread)
        mean = jnp.broadcast_to(base.mean, (*extra, *distribution.event_shape))
        safe = jnp.broadcast_to(safe, mean.shape)
        safe = jnp.where(jnp.broadcast_to(mask, mean.shape), mean + wrap(safe - mean), safe)
    event_axes = tuple(range(len(extra), len(spread)))
    if base.event_dim:  # all or nothing
        logp = _supported_log_prob(base, safe)
        logp = jnp.sum(logp, axis=tuple(range(len(extra), logp.ndim)))
        some = jnp.where(jnp.any(observed), jnp.asarray(jnp.nan, logp.dtype), jnp.zeros((), logp.dtype))
        return jnp.where(jnp.all(observed), logp, some)
    logp = _supported_log_prob(base, safe)
    logp = jnp.where(jnp.broadcast_to(observed, logp.shape), logp, jnp.zeros((), logp.dtype))
    return jnp.sum(logp, axis=event_axes)


def _stand_in(base: Any, value: Array) -> Array:
    """A legal value of the same shape, so that densities at missing coordinates (and their gradients) are finite."""
    try:
        return jnp.asarray(base.support.feasible_like(value)).astype(value.dtype)
    except (NotImplementedError, AttributeError):
        return jnp.zeros_like(value)


def _supported_log_prob(base: Any, value: Array) -> Array:
    """Log density, -inf outside the support (NumPyro evaluates densities there unless told otherwise)."""
    if isinstance(base.support, type(dist.constraints.real) | type(dist.constraints.circular)):
        return jnp.asarray(base.log_prob(value))
    try:
        legal = jnp.asarray(base.support(value))
    except NotImplementedError:
        return jnp.asarray(base.log_prob(value))
    # A legal stand-in keeps the gradient of the discarded branch finite.
    spread = jnp.broadcast_to(legal.reshape(legal.shape + (1,) * (value.ndim - legal.ndim)), value.shape)
    logp = jnp.asarray(base.log_prob(jnp.where(spread, value, _stand_in(base, value))))
    return jnp.where(jnp.broadcast_to(legal, logp.shape), logp, jnp.asarray(-jnp.inf, logp.dtype))
