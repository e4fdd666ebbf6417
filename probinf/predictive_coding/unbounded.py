"""The unbounded volatility update: two quadratic expansions of the exact log density, blended."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from probinf.claims import Claim
from probinf.predictive_coding.lambert import lambert_w_of_exp
from probinf.predictive_coding.reciprocal import reciprocal
from probinf.predictive_coding.rules import AbstractUpdate, Evidence, VolatilityEvidence
from probinf.predictive_coding.updates import Standard


class Unbounded(AbstractUpdate):
    """Expansions at the prediction and near the mode, mixed by their log densities: the precision is always positive.

    Value children are taken in first; then one volatility child after the other, each with the result so far as its
    prior.

    References:
        Mathys et al. (2026), Robust volatility updates for HGF, arXiv 2605.00966.
    """

    def posterior(self, evidence: Evidence) -> tuple[Any, Any]:
        if not evidence.volatilities:
            return Standard().posterior(evidence)
        if evidence.first_child_only:
            return _blended(evidence.volatilities[0], evidence.mean, evidence.precision, None)
        mean, precision, at = evidence.mean, evidence.precision, None
        if evidence.values:
            mean, precision = Standard().posterior(evidence._replace(volatilities=()))
            at = mean
        for v in evidence.volatilities:
            mean, precision = _blended(v, mean, precision, at)
            at = mean
        return mean, precision

    def claim(self, evidence_is_linear: bool) -> Claim:
        return Claim.EXACT if evidence_is_linear else Claim.APPROXIMATE


def _blended(v: VolatilityEvidence, mean: Any, precision: Any, at: Any) -> tuple[Any, Any]:
    """Posterior of Normal(mean, 1/precision) and one volatility child.

    The child's predicted precision belongs to the parent's prediction; with another prior, `at` is where it is taken
    afresh.
    """
    k, half = v.strength, 0.5 * v.strength
    c = v.exponent + k * mean
    gained = jnp.exp(c)
    share = reciprocal(v.carried + gained)
    w = gained * share
    child_precision = v.precision if at is None else reciprocal(v.carried + jnp.exp(v.exponent + k * at))

    precision_1 = precision + half * k * w * (1.0 - w)
    spread_1 = reciprocal(precision_1)
    mean_1 = mean + half * w * (child_precision * v.spread - 1.0) * spread_1

    safe_k = jnp.where(k == 0.0, 1.0, k)
    lift = 0.5 * safe_k**2 * reciprocal(precision)
    scale = lift * v.spread
    root = lambert_w_of_exp(jnp.log(scale) + lift - c)
    # Of the log variance gained, from the prediction to the mode, in units of the parent.
    rise = jnp.where(k == 0.0, 0.0, (root - lift) * reciprocal(safe_k))
    risen = scale * reciprocal(root)  # the variance gained at the mode, by the equation that the root solves
    share_2 = reciprocal(v.carried + risen)
    w_2, d = risen * share_2, v.spread * share_2 - 1.0
    curved = precision + half * k * w_2 * (w_2 + (2.0 * w_2 - 1.0) * d)
    precision_2 = jnp.where(curved > 0.0, curved, precision + half * k * w_2 * (1.0 - w_2))
    spread_2 = reciprocal(precision_2)
    mean_2 = mean + rise + (half * w_2 * d - precision * rise) * spread_2
    # Where the second expansion is of no use, both are the first.
    usable = jnp.isfinite(mean_2) & (spread_2 > 0.0) & (k != 0.0)
    mean_2, spread_2 = jnp.where(usable, mean_2, mean_1), jnp.where(usable, spread_2, spread_1)
    gap = mean_1 - mean_2

    variance_1 = v.carried + jnp.exp(_capped(v.exponent + k * mean_1))
    variance_2 = v.carried + jnp.exp(v.exponent + k * mean_2)
    density_1, density_2 = reciprocal(variance_1), reciprocal(variance_2)
    fall = v.spread * (density_2 - density_1) - precision * gap * (mean_1 - mean + (mean_2 - mean))
    # The share of the first expansion: sigmoid of the difference of the log densities.
    first = reciprocal(1.0 + jnp.sqrt(variance_1 * density_2) * jnp.exp(_capped(-0.5 * fall)))
    new_mean = mean_2 + first * gap
    variance = (1.0 - first) * spread_2 + first * (spread_1 + (1.0 - first) * gap**2)
    if v.observed is None:
        return new_mean, reciprocal(variance)
    return jnp.where(v.observed, new_mean, mean), jnp.where(v.observed, reciprocal(variance), precision)


def _capped(exponent: Any) -> Any:
    """An exponent whose exponential, times itself, is finite, so that derivatives of what counts for nothing are 0."""
    limit = 0.45 * math.log(jnp.finfo(jnp.result_type(exponent)).max)
    return jnp.where(exponent < limit, exponent, limit)
