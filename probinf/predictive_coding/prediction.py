"""Predictions of one step, parents before children (equations of Weber et al. 2026, section on predictions)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from probinf.predictive_coding.couplings import VALUE, VOLATILITY, apply, slope
from probinf.predictive_coding.plan import EdgePlan, Numbers, Plan
from probinf.predictive_coding.reciprocal import reciprocal

#: Predicted probabilities of binary inputs stay this far from 0 and 1.
PROBABILITY_CLIP = 1e-6


class Carry(NamedTuple):
    """What one step hands to the next.

    Attributes:
        means, precisions: of the continuous states, in the plan's order.
        memories: of the composite inputs, in the plan's order (see `composites.py`).
    """

    means: tuple[Any, ...]
    precisions: tuple[Any, ...]
    memories: tuple[Any, ...]


class Prediction(NamedTuple):
    """The prediction of one state or leaf. What does not exist for a kind is None.

    Attributes:
        mean: predicted; a probability for binary inputs.
        precision: marginal, value parents' uncertainty included (states); of the noise (inputs); None is infinite.
        conditional: precision with the value parents known.
        effective: gamma, the share of the variance gained in this step.
        exponent: log of the variance gained in a step of length 1.
        terms: the parts of the exponent that come from each volatility parent.
        carried: variance before this step's gain, s.
        slopes: d mean / d parent for each value parent.
        parts: variance that each value parent adds to the mean.
    """

    mean: Any
    precision: Any = None
    conditional: Any = None
    effective: Any = None
    exponent: Any = None
    terms: tuple[Any, ...] = ()
    carried: Any = None
    slopes: tuple[Any, ...] = ()
    parts: tuple[Any, ...] = ()


def predict(plan: Plan, numbers: Numbers, carry: Carry, dt: Any) -> dict[int, Prediction]:
    """Predictions of all states, constants and leaves; `dt` is the step length, None for 1."""
    found: dict[int, Prediction] = {}
    for i in plan.top_down:
        kind = plan.nodes[i].kind
        if kind == "constant":
            found[i] = Prediction(numbers.nodes[i]["mean"])
        elif kind == "continuous state":
            found[i] = _state(plan, numbers, carry, found, dt, i)
        elif kind == "binary input":
            found[i] = _binary(plan, numbers, found, i)
        else:
            found[i] = _continuous_input(plan, numbers, found, dt, i)
    return found


def scaled(dt: Any, x: Any) -> Any:
    """The product dt * x, where None stands for 1."""
    return x if dt is None else dt * x


def _drive(edges: tuple[EdgePlan, ...], numbers: Numbers, found: dict[int, Prediction]) -> Any:
    """Sum of alpha g(mean) over value parents."""
    total = 0.0
    for e in edges:
        total = total + numbers.strengths[e.index] * apply(e.function, found[e.parent].mean)
    return total


def _spread(
    edges: tuple[EdgePlan, ...], numbers: Numbers, found: dict[int, Prediction], dt: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Slopes with respect to the value parents, and the variance each adds to first order."""
    slopes = tuple(scaled(dt, numbers.strengths[e.index] * slope(e.function, found[e.parent].mean)) for e in edges)
    parts = tuple(
        0.0 if found[e.parent].precision is None else s**2 * reciprocal(found[e.parent].precision)
        for e, s in zip(edges, slopes, strict=True)
    )
    return slopes, parts


def volatility_terms(plan: Plan, numbers: Numbers, found: dict[int, Prediction], i: int) -> tuple[Any, ...]:
    """For each parent kappa mean, plus half the variance of kappa x unless mean-field: log of E exp(kappa x)."""
    terms = []
    for e in plan.parents(i, VOLATILITY):
        k, parent = numbers.strengths[e.index], found[e.parent]
        term = k * parent.mean
        terms.append(term if plan.mode == "mean-field" else term + 0.5 * k**2 * reciprocal(parent.precision))
    return tuple(terms)


def _state(plan: Plan, numbers: Numbers, carry: Carry, found: dict[int, Prediction], dt: Any, i: int) -> Prediction:
    own, place = numbers.nodes[i], plan.states.index(i)
    before, precision = carry.means[place], carry.precisions[place]
    edges = plan.parents(i, VALUE)
    autoconnection = own["autoconnection"] if dt is None else jnp.where(dt > 0.0, own["autoconnection"], 1.0)
    mean = autoconnection * before + scaled(dt, own["drift"] + _drive(edges, numbers, found))
    terms = volatility_terms(plan, numbers, found, i)
    exponent = sum(terms, own["tonic_volatility"])
    gained = scaled(dt, jnp.exp(exponent))
    carried = (1.0 if plan.switches.full_carry else autoconnection**2) * reciprocal(precision)
    conditional = reciprocal(carried + gained)
    slopes, parts = _spread(edges, numbers, found, dt)
    if plan.mode == "mean-field" or not edges:
        marginal = conditional
    else:
        marginal = reciprocal(carried + gained + sum(parts, 0.0))
    return Prediction(mean, marginal, conditional, gained * marginal, exponent, terms, carried, slopes, parts)


def _binary(plan: Plan, numbers: Numbers, found: dict[int, Prediction], i: int) -> Prediction:
    edges = plan.parents(i, VALUE)
    free = jax.nn.sigmoid(_drive(edges, numbers, found))
    probability = jax.lax.clamp(PROBABILITY_CLIP, free, 1.0 - PROBABILITY_CLIP)
    return Prediction(probability, probability * (1.0 - probability))


def _continuous_input(plan: Plan, numbers: Numbers, found: dict[int, Prediction], dt: Any, i: int) -> Prediction:
    edges, noise = plan.parents(i, VALUE), numbers.nodes[i]["precision"]
    rate = dt if plan.switches.input_rate else None
    mean = scaled(rate, _drive(edges, numbers, found))
    slopes, parts = _spread(edges, numbers, found, rate)
    terms = volatility_terms(plan, numbers, found, i)
    if not terms:
        return Prediction(mean, noise, noise, None, None, (), None, slopes, parts)
    if plan.nodes[i].noise == "multiplicative":
        exponent = sum(terms, -jnp.log(noise))
        precision = jnp.exp(-exponent)
        return Prediction(mean, precision, precision, 1.0, exponent, terms, 0.0, slopes, parts)
    exponent = sum(terms[1:], terms[0])
    gained = jnp.exp(exponent)
    precision = reciprocal(1.0 / noise + gained)
    return Prediction(mean, precision, precision, gained * precision, exponent, terms, 1.0 / noise, slopes, parts)
