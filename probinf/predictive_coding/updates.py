"""The published update rules: standard and enhanced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from probinf.claims import Claim
from probinf.predictive_coding.reciprocal import reciprocal
from probinf.predictive_coding.rules import (
    AbstractUpdate,
    Evidence,
    VolatilityEvidence,
    masked,
    value_precision,
    value_pull,
)


class Standard(AbstractUpdate):
    """One Newton step at the prediction: precision first, then the mean.

    The precision of a volatility parent can come out negative; such parameters have log likelihood -inf.

    References:
        Mathys et al. (2011), Front. Hum. Neurosci. 5:39; Weber et al. (2026), eLife RP110174.
    """

    def posterior(self, evidence: Evidence) -> tuple[Any, Any]:
        precision = evidence.precision + value_precision(evidence.values, evidence.before)
        pull = value_pull(evidence.values, evidence.before)
        for v in evidence.volatilities:
            scaled = v.strength * v.effective_precision
            term = scaled**2 * (0.5 + v.error) - 0.5 * v.strength**2 * v.effective_precision * v.error
            precision = precision + masked(term, v.observed)
            pull = pull + masked(0.5 * scaled * v.error, v.observed)
        # Where the precision is invalid the mean is of no use; it must only not divide by zero.
        return evidence.mean + pull * reciprocal(jnp.where(precision > 0.0, precision, evidence.precision)), precision

    def claim(self, evidence_is_linear: bool) -> Claim:
        return Claim.EXACT if evidence_is_linear else Claim.APPROXIMATE


class Enhanced(AbstractUpdate):
    """Mean first, then a precision that cannot fall below the prediction's (eHGF).

    Concerns states with volatility children; others are updated as `Standard` does.

    """

    def posterior(self, evidence: Evidence) -> tuple[Any, Any]:
        if not evidence.volatilities:
            return Standard().posterior(evidence)
        pull = value_pull(evidence.values, evidence.before)
        for v in evidence.volatilities:
            pull = pull + masked(0.5 * v.strength * v.effective_precision * v.error, v.observed)
        mean = evidence.mean + pull * reciprocal(evidence.precision)
        precision = evidence.precision + value_precision(evidence.values, mean)
        for v in evidence.volatilities:
            precision = precision + masked(_increment(v, mean), v.observed)
        return mean, precision

    def claim(self, evidence_is_linear: bool) -> Claim:
        return Claim.EXACT if evidence_is_linear else Claim.APPROXIMATE


def _increment(v: VolatilityEvidence, mean: Any) -> Any:
    """Curvature of the child's log density at the parent's new mean, at least 0."""
    gained = jnp.exp(v.exponent + v.strength * mean)
    precision = reciprocal(v.carried + gained)
    error, effective = v.spread * precision - 1.0, gained * precision
    increment = 0.5 * v.strength**2 * effective * (effective + (gained - v.carried) * precision * error)
    return jax.nn.relu(increment)
