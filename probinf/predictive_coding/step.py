"""One step of a network: predict from the top down, observe, learn from the bottom up. Pure arithmetic on arrays."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from probinf.predictive_coding import composites
from probinf.predictive_coding.faults import Flag, flag_of
from probinf.predictive_coding.learning import Learnt, learn
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry, Prediction, predict

_LOG_2PI = math.log(2.0 * math.pi)


class NodeBelief(NamedTuple):
    """A state or leaf at one step, or, stacked, over time. Of leaves, what does not exist is None.

    Attributes:
        mean, precision: posterior; of leaves the value and the precision of its noise (binary: the outcome's variance).
        expected_mean, expected_precision: predicted; the precision takes in the value parents' uncertainty (not in
            mean-field networks, and not for leaves).
        conditional_precision: predicted, value parents known.
        effective_precision: share of the predicted variance that this step added.
        value_error, volatility_error: prediction errors.
        surprise: -log density of the mean under the node's own prediction (expected mean and precision), nats; 0 for
            inputs without an observation.
    """

    mean: Any
    precision: Any
    expected_mean: Any
    expected_precision: Any
    conditional_precision: Any
    effective_precision: Any
    value_error: Any
    volatility_error: Any
    surprise: Any


class Outcome(NamedTuple):
    """What one step shows.

    Attributes:
        nodes: beliefs of states and leaves by node index.
        composites: what happened at composite inputs, by node index.
        log_density: log predictive density of everything observed in this step, nats; -inf where the step broke down.
        flag: which node broke down; None where nobody asked.
    """

    nodes: dict[int, NodeBelief]
    composites: dict[int, dict[str, Any]]
    log_density: Any
    flag: Flag | None = None


def step(
    plan: Plan,
    numbers: Numbers,
    carry: Carry,
    values: dict[int, Any],
    flags: dict[int, Any],
    dt: Any,
    *,
    flagged: bool = False,
) -> tuple[Carry, Outcome]:
    """One step; `values` and `flags` (None: observed) are those of the fed inputs, `dt` is None for a length of 1.

    `flagged` asks for the node that broke down; where only the density counts it would be work for nothing.
    """
    predictions = predict(plan, numbers, carry, dt)
    seen = dict(values), dict(flags)
    for i in plan.composites:
        for child, (value, flag) in composites.component_values(plan, i, values[i], flags[i]).items():
            seen[0][child], seen[1][child] = value, flag
    learnt = learn(plan, numbers, carry, predictions, *seen, dt)

    memories, happened = [], {}
    for i, memory in zip(plan.composites, carry.memories, strict=True):
        new, happened[i] = composites.finish(plan, numbers, i, memory, values[i], flags[i], predictions, learnt)
        memories.append(new)
    nodes = {i: _belief(plan, i, predictions[i], learnt[i]) for i in (*plan.states, *plan.leaves)}
    log_density = _total(plan, predictions, nodes, happened, learnt)
    sound = functools.reduce(jnp.logical_and, _soundness(plan, predictions, learnt, dt), True)
    log_density = jnp.where(sound, log_density, -jnp.inf)
    new_carry = Carry(
        tuple(learnt[i].mean for i in plan.states), tuple(learnt[i].precision for i in plan.states), tuple(memories)
    )
    flag = flag_of(plan, predictions, learnt, dt) if flagged else None
    return new_carry, Outcome(nodes, happened, log_density, flag)


def _belief(plan: Plan, i: int, prediction: Prediction, learnt: Learnt) -> NodeBelief:
    if plan.nodes[i].kind == "binary input":
        p = prediction.mean
        surprise = -jnp.log(jnp.where(learnt.mean > 0.5, p, 1.0 - p))
    else:
        surprise = gaussian_surprise(learnt.value_error, 1.0 / prediction.precision)
    if i in plan.leaves and learnt.observed is not None:
        surprise = jnp.where(learnt.observed, surprise, 0.0)
    return NodeBelief(
        learnt.mean,
        learnt.precision,
        prediction.mean,
        prediction.precision,
        prediction.conditional,
        prediction.effective,
        learnt.value_error,
        learnt.volatility_error,
        surprise,
    )


def gaussian_surprise(error: Any, variance: Any) -> Any:
    """-log Normal(error; 0, variance), nats."""
    return 0.5 * (_LOG_2PI + jnp.log(variance) + error**2 / variance)


def _total(
    plan: Plan,
    predictions: dict[int, Prediction],
    nodes: dict[int, NodeBelief],
    happened: dict[int, dict],
    learnt: dict[int, Learnt],
) -> Any:
    """Log predictive density of the fed inputs, the value parents' uncertainty included.

    Components are counted by the input they belong to.
    """
    total: Any = 0.0
    for i in plan.fed:
        if i in happened:
            total = total + happened[i]["log_density"]
        elif plan.nodes[i].kind == "binary input":
            total = total - nodes[i].surprise
        else:
            variance = 1.0 / predictions[i].precision + sum(predictions[i].parts, 0.0)
            term = -gaussian_surprise(learnt[i].value_error, variance)
            flag = learnt[i].observed
            total = total + (term if flag is None else jnp.where(flag, term, 0.0))
    return total


def _soundness(plan: Plan, predictions: dict[int, Prediction], learnt: dict[int, Learnt], dt: Any) -> list[Any]:
    """Posteriors are distributions, and no predicted volatility has underflowed."""
    flags = [learnt[i].sound for i in plan.states if learnt[i].sound is not True]
    for i in plan.states:
        gained = predictions[i].effective > 0.0
        flags.append(gained if dt is None else gained | (dt == 0.0))
    return flags
