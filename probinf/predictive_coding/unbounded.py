"""The unbounded volatility update: two quadratic expansions of the exact log density, blended."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from probinf.claims import Claim
from probinf.predictive_coding.lambert import lambert_w_of_exp
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
    w = gained / (v.carried + gained)
    child_precision = v.precision if at is None else 1.0 / (v.carried + jnp.exp(v.exponent + k * at))

    precision_1 = precision + half * k * w * (1.0 - w)
    mean_1 = mean + half * w * (child_precision * v.spread - 1.0) / precision_1

    safe_k = jnp.where(k == 0.0, 1.0, k)
    p = precision / safe_k**2
    scale = 0.5 * v.spread / p
    root = lambert_w_of_exp(jnp.log(scale) + 0.5 / p - c)
    rise = root - 0.5 / p  # of the log variance gained, from the prediction to the mode
    x = mean + jnp.where(k == 0.0, 0.0, rise / safe_k)
    risen = scale / root  # the variance gained at the mode, by the equation that the root solves
    w_2 = risen / (v.carried + risen)
    d = v.spread / (v.carried + risen) - 1.0
    curved = precision + half * k * w_2 * (w_2 + (2.0 * w_2 - 1.0) * d)
    precision_2 = jnp.where(curved > 0.0, curved, precision + half * k * w_2 * (1.0 - w_2))
    mean_2 = x + (half * w_2 * d - precision * (x - mean)) / precision_2
    usable = jnp.isfinite(mean_2) & jnp.isfinite(precision_2) & (k != 0.0)
    mean_2, precision_2 = jnp.where(usable, mean_2, mean_1), jnp.where(usable, precision_2, precision_1)

    variance_1 = v.carried + jnp.exp(v.exponent + k * mean_1)
    variance_2 = v.carried + jnp.exp(v.exponent + k * mean_2)
    fall = v.spread * (1.0 / variance_2 - 1.0 / variance_1) + precision * ((mean_2 - mean) ** 2 - (mean_1 - mean) ** 2)
    # The share of the second expansion: sigmoid of the difference of the log densities.
    blend = jnp.where(usable, 1.0 / (1.0 + jnp.sqrt(variance_2 / variance_1) * jnp.exp(0.5 * fall)), 0.0)
    new_mean = (1.0 - blend) * mean_1 + blend * mean_2
    variance = (1.0 - blend) / precision_1 + blend / precision_2 + blend * (1.0 - blend) * (mean_1 - mean_2) ** 2
    if v.observed is None:
        return new_mean, 1.0 / variance
    return jnp.where(v.observed, new_mean, mean), jnp.where(v.observed, 1.0 / variance, precision)
