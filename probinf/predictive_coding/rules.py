"""Evidence that reaches a state from below, and what an update rule is."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx

from probinf.claims import Claim
from probinf.predictive_coding.couplings import apply, curvature, slope


class ValueEvidence(NamedTuple):
    """What a value child tells.

    Attributes:
        strength: alpha, times the step length where the child's value changes at a rate.
        function: g, or None.
        weight, pull: w and G delta: precision with which the child counts, and its error times such a precision.
        error: the child's value prediction error delta.
        observed: None (always), or an array of flags.
        outcome, offset: of a binary child, its value and the logit without this parent; None for others.
    """

    strength: Any
    function: Callable | None
    weight: Any
    pull: Any
    error: Any
    observed: Any
    outcome: Any = None
    offset: Any = None


class VolatilityEvidence(NamedTuple):
    """What a volatility child tells.

    Attributes:
        strength: kappa.
        effective_precision: gamma.
        error: Delta, the child's volatility prediction error.
        exponent: log of the variance gained without this parent's term, step length included.
        carried: s, variance of the child that this parent does not set.
        spread: B, expected squared deviation of the child from its prediction.
        precision: predicted precision of the child.
        observed: None (always), or an array of flags.
    """

    strength: Any
    effective_precision: Any
    error: Any
    exponent: Any
    carried: Any
    spread: Any
    precision: Any
    observed: Any


class Evidence(NamedTuple):
    """A state's prediction and what its children tell.

    Attributes:
        mean, precision: predicted.
        before: posterior mean of the step before, where couplings are linearised.
        values, volatilities: evidence of the children, in the order of the edges.
        first_child_only: whether the unbounded update heeds the first volatility child only (`Switches`).
    """

    mean: Any
    precision: Any
    before: Any
    values: tuple[ValueEvidence, ...]
    volatilities: tuple[VolatilityEvidence, ...]
    first_child_only: bool = False


class AbstractUpdate(eqx.Module):
    """A way to turn a prediction and the evidence of the children into a posterior mean and precision."""

    @abc.abstractmethod
    def posterior(self, evidence: Evidence) -> tuple[Any, Any]:
        """Mean and precision; the precision may be invalid (not positive), which the filter flags."""

    @abc.abstractmethod
    def claim(self, evidence_is_linear: bool) -> Claim:
        """How one update relates to conditioning, where all evidence is linear and Gaussian and where it is not."""

    def __hash__(self) -> int:
        return hash((type(self), tuple(vars(self).items())))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


def masked(term: Any, observed: Any) -> Any:
    """The term where the child was observed, else 0."""
    return term if observed is None else term * observed.astype(term.dtype)


def value_precision(values: tuple[ValueEvidence, ...], at: Any) -> Any:
    """Precision that the value children add, couplings linearised at `at`."""
    total = 0.0
    for v in values:
        first, second = slope(v.function, at), curvature(v.function, at)
        term = v.weight * (v.strength * first) ** 2
        if v.function is not None:
            term = term - v.strength * second * v.weight * v.error
        total = total + masked(term, v.observed)
    return total


def value_pull(values: tuple[ValueEvidence, ...], at: Any) -> Any:
    """Precision-weighted errors of the value children."""
    total = 0.0
    for v in values:
        total = total + masked(v.strength * slope(v.function, at) * v.pull, v.observed)
    return total


def coupled(v: ValueEvidence, x: Any) -> Any:
    """The product alpha g(x)."""
    return v.strength * apply(v.function, x)
