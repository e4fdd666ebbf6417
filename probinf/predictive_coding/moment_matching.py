"""Moment matching by quadrature: mean and variance of the prediction times the children's exact likelihoods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from probinf.claims import Claim
from probinf.predictive_coding.couplings import slope
from probinf.predictive_coding.lambert import lambert_w_of_exp
from probinf.predictive_coding.rules import AbstractUpdate, Evidence, ValueEvidence, VolatilityEvidence, coupled
from probinf.predictive_coding.updates import Standard

#: Half width of the first grid in predicted standard deviations: the mass beyond is below 2e-15.
_REACH = 8.0
#: Nats below the highest point at which the second grid ends: the mass beyond is below 1e-15.
_DEPTH = 35.0


class MomentMatched(AbstractUpdate):
    r"""First two moments of $N(x; \hat\mu, 1/\tilde\pi) \prod_j L_j(x)$ over all children at once.

    Volatility children have $\log L_j = -\frac12 \log V - \frac12 B / V$ with $V = s + e^{\kappa x + \dots}$, binary
    children their Bernoulli likelihood; Gaussian value children are taken in closed form. Two uniform grids: the first
    spans the prediction and everything the children can pull it to, the second the mass found there. For smooth
    densities the error of a uniform grid falls exponentially with its size.

    Attributes:
        num_points: size of each grid.
    """

    num_points: int = eqx.field(static=True, default=64)

    def posterior(self, evidence: Evidence) -> tuple[Any, Any]:
        binary = tuple(v for v in evidence.values if v.outcome is not None)
        gaussian = tuple(v for v in evidence.values if v.outcome is None)
        mean, precision = Standard().posterior(evidence._replace(values=gaussian, volatilities=()))
        volatilities = evidence.volatilities
        if not binary and not volatilities:
            return mean, precision

        def log_density(x: Any) -> Any:
            total = -0.5 * precision * (x - mean) ** 2
            for v in volatilities:
                total = total + _chosen(_log_volatility(v, x), v.observed)
            for v in binary:
                logit = coupled(v, x) + v.offset
                total = total + _chosen(v.outcome * logit - jax.nn.softplus(logit), v.observed)
            return total

        low, high = jax.lax.stop_gradient(_bracket(evidence, mean, precision, volatilities, binary))
        low, high = _narrowed(log_density, low, high, self.num_points)
        x = _grid(low, high, self.num_points)
        weights = jax.nn.softmax(jax.vmap(log_density)(x), axis=0)  # the trapezoidal rule: the ends carry no mass
        new_mean = jnp.sum(weights * x, axis=0)
        variance = jnp.sum(weights * (x - new_mean[None]) ** 2, axis=0)
        flags = [v.observed for v in (*volatilities, *binary)]
        if any(flag is None for flag in flags):
            return new_mean, 1.0 / variance
        seen = functools.reduce(jnp.logical_or, flags)
        return jnp.where(seen, new_mean, mean), jnp.where(seen, 1.0 / variance, precision)

    def claim(self, evidence_is_linear: bool) -> Claim:
        return Claim.EXACT if evidence_is_linear else Claim.APPROXIMATE


def _log_volatility(v: VolatilityEvidence, x: Any) -> Any:
    variance = v.carried + jnp.exp(v.exponent + v.strength * x)
    # A variance of exactly 0 (nothing carried, exponent far below) has log density -inf; the grid weighs it by 0.
    return -0.5 * (jnp.log(variance) + v.spread / variance)


def _chosen(term: Any, observed: Any) -> Any:
    return term if observed is None else jnp.where(observed, term, 0.0)


def _bracket(
    evidence: Evidence,
    mean: Any,
    precision: Any,
    volatilities: tuple[VolatilityEvidence, ...],
    binary: tuple[ValueEvidence, ...],
) -> tuple[Any, Any]:
    """An interval that holds the posterior's mass.

    A child pulls the mode no further than it would alone: to the root of its slope (volatility children, towards larger
    variances; found in closed form with nothing carried, which is further), or by its largest slope over the
    precision (the other direction, and binary children).
    """
    reach = _REACH / jnp.sqrt(precision)
    low, high = mean - reach, mean + reach
    for v in volatilities:
        k = jnp.where(v.strength == 0.0, 1.0, v.strength)
        p = precision / k**2
        c = v.exponent + k * mean
        rise = lambert_w_of_exp(jnp.log(0.5 * v.spread / p) + 0.5 / p - c) - 0.5 / p
        rise = jnp.where(jnp.isfinite(rise), rise, 0.0) / k
        fall = -0.5 * k / precision
        low = low + jnp.minimum(jnp.minimum(rise, fall), 0.0)
        high = high + jnp.maximum(jnp.maximum(rise, fall), 0.0)
    for v in binary:
        shift = jnp.abs(v.strength * slope(v.function, evidence.before)) / precision
        low, high = jnp.where(v.outcome < 0.5, low - shift, low), jnp.where(v.outcome > 0.5, high + shift, high)
    return low, high


def _narrowed(log_density: Callable, low: Any, high: Any, num_points: int) -> tuple[Any, Any]:
    """The part of the interval where the density is within `_DEPTH` of its largest value on the grid."""
    x = _grid(low, high, num_points)
    heights = jax.lax.stop_gradient(jax.vmap(log_density)(x))
    inside = heights > jnp.max(heights, axis=0)[None] - _DEPTH
    spacing = (high - low) / (num_points - 1)
    first = jnp.min(jnp.where(inside, x, high[None]), axis=0)
    last = jnp.max(jnp.where(inside, x, low[None]), axis=0)
    return first - spacing, last + spacing


def _grid(low: Any, high: Any, num_points: int) -> Any:
    """Uniform, on a leading axis. Counted, not stored: the native emitter does not take array constants."""
    step = (high - low) / (num_points - 1)
    return jax.vmap(lambda k: low + k * step)(jnp.arange(num_points, dtype=jnp.result_type(low)))
