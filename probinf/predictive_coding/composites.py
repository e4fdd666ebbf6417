"""Inputs with a memory of their own: categorical, exponential-family and Dirichlet-process inputs.

Each has three parts: the memory before the first step, what its components read from a value, and the bookkeeping at
the end of a step.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from probinf.predictive_coding.couplings import COMPONENT, VALUE
from probinf.predictive_coding.learning import Learnt
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Prediction

Memory = dict[str, Any]


def start(plan: Plan, numbers: Numbers, i: int, batch: tuple[int, ...], dtype: Any) -> Memory:
    """The memory before the first step; leading axes are the node's own, trailing ones the batch."""
    node, own = plan.nodes[i], numbers.nodes[i]

    def spread(value: Any, *shape: int) -> Any:
        value = jnp.asarray(value, dtype)
        return jnp.broadcast_to(
            value.reshape(value.shape + (1,) * (len(shape) + len(batch) - value.ndim)), shape + batch
        )

    if node.kind == "categorical input":
        return {"alpha": jnp.ones((node.size, *batch), dtype)}
    if node.family is not None:
        return {"statistics": spread(own["statistics"], node.family.dim)}
    return {name: jnp.zeros((node.size, *batch), dtype) for name in ("counts", "means", "squares")}


def component_values(plan: Plan, i: int, value: Any, flag: Any) -> dict[int, tuple[Any, Any]]:
    """Value and flag of each component; every component is observed when the composite is."""
    edges = plan.children(i, COMPONENT)
    if not edges:
        return {}
    node = plan.nodes[i]
    if node.kind == "categorical input":
        read = [(value == k).astype(value.dtype) for k in range(node.size)]
    else:
        assert node.family is not None
        read = list(node.family.statistics(value))
    return {e.child: (r, flag) for e, r in zip(edges, read, strict=True)}


def finish(
    plan: Plan,
    numbers: Numbers,
    i: int,
    memory: Memory,
    value: Any,
    flag: Any,
    predictions: dict[int, Prediction],
    learnt: dict[int, Learnt],
) -> tuple[Memory, dict[str, Any]]:
    """The memory after the step, and what happened (a `log_density` of the value among it, 0 where missing)."""
    node = plan.nodes[i]
    if node.kind == "categorical input":
        new, info = _categorical(plan, i, memory, predictions, learnt)
    elif node.family is not None:
        new, info = _exponential_family(plan, numbers, i, memory, value, predictions, learnt)
    else:
        new, info = _dirichlet_process(numbers.nodes[i], memory, value)
    if flag is not None:
        new = jax.tree.map(lambda a, b: jnp.where(_lift(flag, a), a, b), new, memory)
        info["log_density"] = jnp.where(flag, info["log_density"], 0.0)
    return new, info


def _lift(flag: Any, like: Any) -> Any:
    return flag.reshape((1,) * (like.ndim - flag.ndim) + flag.shape) if flag.ndim else flag


def _categorical(
    plan: Plan, i: int, memory: Memory, predictions: dict[int, Prediction], learnt: dict[int, Learnt]
) -> tuple[Memory, dict[str, Any]]:
    """The Dirichlet distribution that the components' beliefs imply, and how far the step moved it."""
    edges = plan.children(i, COMPONENT)
    predicted = jnp.stack([predictions[e.child].mean for e in edges])
    outcome = jnp.stack([learnt[e.child].mean for e in edges])
    updated = []
    for e in edges:
        (parent,) = plan.parents(e.child, VALUE)
        updated.append(jax.nn.sigmoid(learnt[parent.parent].mean))
    weight = (outcome - predicted) / (jnp.stack(updated) - predicted) - 1.0
    alpha = weight * predicted + 1.0
    old, total_old, total = memory["alpha"], jnp.sum(memory["alpha"], axis=0), jnp.sum(alpha, axis=0)
    divergence = (
        gammaln(total_old)
        - gammaln(total)
        + jnp.sum(gammaln(alpha) - gammaln(old), axis=0)
        + jnp.sum((old - alpha) * (digamma(old) - digamma(total_old)[None]), axis=0)
    )
    log_density = jnp.sum(jnp.where(outcome > 0.5, jnp.log(predicted), jnp.log1p(-predicted)), axis=0)
    # Components are predicted one by one; normalised they are the probabilities of the categories.
    return {"alpha": alpha}, {
        "log_density": log_density,
        "divergence": divergence,
        "probabilities": predicted / jnp.sum(predicted, axis=0)[None],
    }


def _exponential_family(
    plan: Plan,
    numbers: Numbers,
    i: int,
    memory: Memory,
    value: Any,
    predictions: dict[int, Prediction],
    learnt: dict[int, Learnt],
) -> tuple[Memory, dict[str, Any]]:
    family = plan.nodes[i].family
    assert family is not None
    xi, edges = memory["statistics"], plan.children(i, COMPONENT)
    count = numbers.nodes[i]["pseudo_count"]
    if edges:
        count = sum(_learning_ratio(plan, learnt, e.child) for e in edges) / len(edges)
    seen = family.statistics(value)
    new = xi + (seen - xi) / (1.0 + count)
    return {"statistics": new}, {
        "log_density": family.log_predictive(value, xi, count),
        "pseudo_count": count,
        "observed_statistics": seen,
    }


def _learning_ratio(plan: Plan, learnt: dict[int, Learnt], component: int) -> Any:
    """How far an input was off, over how far its value parent moved: the inverse learning rate, at least 0.

    Where nothing was off both are 0 and their limit, the ratio of precisions, is taken.
    """
    (edge,) = plan.parents(component, VALUE)
    off, moved = learnt[component].value_error, learnt[edge.parent].value_error
    still = moved == 0.0
    limit = learnt[edge.parent].precision / learnt[component].precision
    return jnp.where(still, limit, jnp.maximum(off / jnp.where(still, 1.0, moved), 0.0))


def _dirichlet_process(own: dict[str, Any], memory: Memory, value: Any) -> tuple[Memory, dict[str, Any]]:
    """The value joins the cluster under which, counts included, it is likeliest, or opens the next free one.

    Each cluster's mean and variance have a normal-inverse-gamma belief, so both scores are Student t densities.
    """
    counts, means, squares = memory["counts"], memory["means"], memory["squares"]
    size = counts.shape[0]
    total = jnp.sum(counts, axis=0)
    active = counts > 0.0
    free = jnp.sum(active, axis=0)

    def score(count: Any, mean: Any, square: Any) -> Any:
        kappa = own["base_count"] + count
        centre = (own["base_count"] * own["base_mean"] + count * mean) / kappa
        shape = own["base_shape"] + 0.5 * count
        gap = mean - own["base_mean"]
        rate = own["base_rate"] + 0.5 * square + 0.5 * own["base_count"] * count * gap**2 / kappa
        scale = rate * (kappa + 1.0) / (shape * kappa)
        freedom = 2.0 * shape
        log_constant = (
            gammaln(0.5 * (freedom + 1.0)) - gammaln(0.5 * freedom) - 0.5 * jnp.log(freedom * math.pi * scale)
        )
        return log_constant - 0.5 * (freedom + 1.0) * jnp.log1p((value - centre) ** 2 / (freedom * scale))

    def one(k: Any, count: Any, mean: Any, square: Any) -> Any:
        weight = jnp.where(count > 0.0, count, jnp.where(k == free, own["concentration"], 0.0))
        fits = jnp.where(weight > 0.0, score(count, mean, square), 0.0)
        return jnp.where(weight > 0.0, jnp.log(jnp.where(weight > 0.0, weight, 1.0)) + fits, -jnp.inf)

    # The next free cluster is empty, so its score is that of the base distribution.
    scores = jax.vmap(one)(jnp.arange(size), counts, means, squares)
    log_density = jax.scipy.special.logsumexp(scores, axis=0) - jnp.log(total + own["concentration"])
    chosen = jnp.argmax(scores, axis=0)

    def joined(k: Any, count: Any, mean: Any, square: Any) -> tuple[Any, Any, Any]:
        here = chosen == k
        new_mean = mean + (value - mean) / (count + 1.0)
        new_square = square + (value - mean) * (value - new_mean)
        return jnp.where(here, count + 1.0, count), jnp.where(here, new_mean, mean), jnp.where(here, new_square, square)

    counts, means, squares = jax.vmap(joined)(jnp.arange(size), counts, means, squares)
    return {"counts": counts, "means": means, "squares": squares}, {"log_density": log_density, "cluster": chosen}
