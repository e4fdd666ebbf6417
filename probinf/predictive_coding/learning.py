"""Prediction errors and posteriors of one step, children before parents."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from probinf.predictive_coding.couplings import VALUE, VOLATILITY, apply
from probinf.predictive_coding.plan import EdgePlan, Numbers, Plan
from probinf.predictive_coding.prediction import Carry, Prediction, scaled
from probinf.predictive_coding.reciprocal import reciprocal
from probinf.predictive_coding.rules import Evidence, ValueEvidence, VolatilityEvidence

#: No posterior precision exceeds this.
MAX_PRECISION = 1e10


class Learnt(NamedTuple):
    """A state or leaf after a step.

    Attributes:
        mean, precision: posterior; of leaves, the value and its precision (binary: the variance of the outcome).
        value_error: delta; of binary leaves divided by the variance.
        volatility_error: Delta, or None.
        spread: B, expected squared deviation from the prediction, or None.
        observed: None (always), False (never), or an array of flags.
        sound: whether the posterior is a distribution.
        attempt: the posterior precision before an unsound one was replaced, or None.
    """

    mean: Any
    precision: Any
    value_error: Any
    volatility_error: Any
    spread: Any
    observed: Any
    sound: Any = True
    attempt: Any = None


def learn(
    plan: Plan,
    numbers: Numbers,
    carry: Carry,
    predictions: dict[int, Prediction],
    values: dict[int, Any],
    flags: dict[int, Any],
    dt: Any,
) -> dict[int, Learnt]:
    """Posteriors of all states; `values` and `flags` are those of the leaves."""
    found: dict[int, Learnt] = {}
    for i in plan.bottom_up:
        kind = plan.nodes[i].kind
        if kind == "binary input":
            found[i] = _binary(predictions[i], values[i], flags[i])
        elif kind == "continuous input":
            found[i] = _continuous_input(plan, numbers, predictions[i], found, values[i], flags[i], i)
        else:
            found[i] = _state(plan, numbers, carry, predictions, found, dt, i)
    return found


def _binary(prediction: Prediction, value: Any, flag: Any) -> Learnt:
    error = (value - prediction.mean) * reciprocal(prediction.precision)
    return Learnt(value, prediction.precision, error, None, None, flag)


def _continuous_input(
    plan: Plan, numbers: Numbers, prediction: Prediction, found: dict[int, Learnt], value: Any, flag: Any, i: int
) -> Learnt:
    noise, error = numbers.nodes[i]["precision"], value - prediction.mean
    if plan.mode == "cavity":  # the marginal likelihood of the value: its own variance and the value parents'
        spread = error**2
        precision = reciprocal(reciprocal(prediction.precision) + sum(prediction.parts, 0.0))
    else:
        own = noise
        if plan.nodes[i].noise == "multiplicative":
            parents = [found[e.parent].precision for e in plan.parents(i, VALUE) if e.parent in found]
            own = sum(parents) / len(parents) if parents else noise
        spread, precision = reciprocal(own) + error**2, prediction.precision
    volatility_error = _shared(plan, i, precision * spread - 1.0)
    return Learnt(value, noise, error, volatility_error, spread, flag)


def _shared(plan: Plan, i: int, error: Any) -> Any:
    count = len(plan.parents(i, VOLATILITY))
    return error / count if plan.switches.shared_error and count > 1 else error


def _state(
    plan: Plan,
    numbers: Numbers,
    carry: Carry,
    predictions: dict[int, Prediction],
    found: dict[int, Learnt],
    dt: Any,
    i: int,
) -> Learnt:
    prediction, before = predictions[i], carry.means[plan.states.index(i)]
    values = tuple(
        value_evidence(plan, numbers, predictions, found, dt, e)
        for e in plan.children(i, VALUE)
        if found[e.child].observed is not False
    )
    volatilities = tuple(
        _volatility_evidence(plan, numbers, predictions, found, dt, e)
        for e in plan.children(i, VOLATILITY)
        if found[e.child].observed is not False
    )
    seen = _any([v.observed for v in values] + [v.observed for v in volatilities])
    sound: Any = True
    attempt: Any = None
    mean, precision = prediction.mean, prediction.precision
    if seen is not False:
        rule = plan.nodes[i].update
        assert rule is not None  # a state always has one: the network's, if not its own
        evidence = Evidence(mean, precision, before, values, volatilities, plan.switches.first_child_only)
        new_mean, new_precision = rule.posterior(evidence)
        attempt = new_precision
        sound = (new_precision > 0.0) & jnp.isfinite(new_precision) & jnp.isfinite(new_mean)
        # An unsound posterior is flagged; in its place stands the prediction, so that what follows stays finite.
        mean = jnp.where(sound, new_mean, mean)
        precision = jnp.where(sound, new_precision, precision)
        precision = jnp.where(precision > MAX_PRECISION, MAX_PRECISION, precision)
    if plan.switches.aged_when_missing and seen is not None:
        aged = _aged(plan, numbers, carry, dt, i)
        precision = aged if seen is False else jnp.where(seen, precision, aged)
        seen = None  # what follows treats the state as observed
    error = mean - prediction.mean
    spread = reciprocal(precision) + error**2
    shared = _shared(plan, i, prediction.precision * spread - 1.0)
    return Learnt(mean, precision, error, shared, spread, seen, sound, attempt)


def _aged(plan: Plan, numbers: Numbers, carry: Carry, dt: Any, i: int) -> Any:
    exponent = numbers.nodes[i]["tonic_volatility"]
    for e in plan.parents(i, VOLATILITY):
        exponent = exponent + numbers.strengths[e.index] * carry.means[plan.states.index(e.parent)]
    return reciprocal(reciprocal(carry.precisions[plan.states.index(i)]) + scaled(dt, jnp.exp(exponent)))


def _any(flags: list[Any]) -> Any:
    """False for no flags, None if one of them is None (always observed), else their disjunction."""
    if not flags:
        return False
    if any(flag is None for flag in flags):
        return None
    return functools.reduce(jnp.logical_or, flags)


def value_evidence(
    plan: Plan, numbers: Numbers, predictions: dict[int, Prediction], found: dict[int, Learnt], dt: Any, e: EdgePlan
) -> ValueEvidence:
    """What the child of a value coupling tells the parent."""
    child, learnt, strength = predictions[e.child], found[e.child], numbers.strengths[e.index]
    kind = plan.nodes[e.child].kind
    siblings = plan.parents(e.child, VALUE)
    others = [k for k, sibling in enumerate(siblings) if sibling.index != e.index]
    if kind == "binary input":
        offset = 0.0
        for sibling in (siblings[k] for k in others):
            drive = apply(sibling.function, predictions[sibling.parent].mean)
            offset = offset + numbers.strengths[sibling.index] * drive
        pull = learnt.mean - child.mean  # the variance times the error, which was divided by it
        return ValueEvidence(
            strength, e.function, child.precision, pull, learnt.value_error, learnt.observed, learnt.mean, offset
        )
    other_parts = sum((child.parts[k] for k in others), 0.0)
    if kind == "continuous input":
        weight = reciprocal(reciprocal(child.precision) + other_parts) if plan.mode == "cavity" else child.precision
        return ValueEvidence(
            strength, e.function, weight, weight * learnt.value_error, learnt.value_error, learnt.observed
        )
    if plan.mode == "mean-field":
        weight = child.precision
        return ValueEvidence(
            strength, e.function, weight, weight * learnt.value_error, learnt.value_error, learnt.observed
        )
    evidence = learnt.precision - child.precision
    cavity = child.conditional
    if plan.mode == "cavity":
        cavity = reciprocal(reciprocal(child.conditional) + other_parts)
        strength = scaled(dt, strength)
    share = cavity * reciprocal(cavity + evidence)
    return ValueEvidence(
        strength,
        e.function,
        share * evidence,
        share * learnt.precision * learnt.value_error,
        learnt.value_error,
        learnt.observed,
    )


def _volatility_evidence(
    plan: Plan, numbers: Numbers, predictions: dict[int, Prediction], found: dict[int, Learnt], dt: Any, e: EdgePlan
) -> VolatilityEvidence:
    child, learnt = predictions[e.child], found[e.child]
    state = plan.nodes[e.child].kind == "continuous state"
    base: Any = 0.0
    if state:
        base = numbers.nodes[e.child]["tonic_volatility"]
    elif plan.nodes[e.child].noise == "multiplicative":
        base = -jnp.log(numbers.nodes[e.child]["precision"])
    if state and dt is not None:
        base = base + jnp.log(jnp.maximum(dt, jnp.finfo(jnp.result_type(dt)).tiny))
    if not plan.switches.tonic_only:
        siblings = plan.parents(e.child, VOLATILITY)
        for sibling, term in zip(siblings, child.terms, strict=True):
            base = base if sibling.index == e.index else base + term
    effective, precision, carried = child.effective, child.precision, child.carried
    if plan.mode == "cavity":  # the value parents' share is variance that volatility does not set
        share = sum(child.parts, 0.0)
        carried = carried + share
        if not state:
            widened = reciprocal(reciprocal(precision) + share)
            effective, precision = effective * widened / precision, widened
    return VolatilityEvidence(
        numbers.strengths[e.index],
        effective,
        learnt.volatility_error,
        base,
        carried,
        learnt.spread,
        precision,
        learnt.observed,
    )
