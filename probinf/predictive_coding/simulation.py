"""Data from a network: states and inputs of its generative model, and inputs as its beliefs predict them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from probinf.arguments import positive_integer
from probinf.errors import ModelError
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.filtering import advance, begin
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry, Prediction, predict
from probinf.predictive_coding.stream import Transition, emission
from probinf.random import as_key
from probinf.representations.concrete import default_float

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


def simulate(network: Network, num_steps: int, key: int | jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """States and inputs of the generative model, steps of length 1, each by name with shape (num_steps,).

    Raises:
        ModelError: inputs that are neither continuous nor binary.
    """
    plan = _plain(network)
    names = [node.name for node in network.nodes]
    numbers = jax.tree.map(lambda x: jnp.asarray(x, default_float()), network.numbers())
    states, inputs = _simulate(plan, positive_integer("num_steps", num_steps), numbers, as_key(key, argument="key"))
    return {names[i]: x for i, x in states.items()}, {names[i]: u for i, u in inputs.items()}


def sample_predictive(
    network: Network, num_steps: int, key: int | jax.Array, *, num_samples: int = 1
) -> dict[str, jax.Array]:
    """Futures as the network expects them: every input is drawn from its predictive density and then learnt from.

    Start from `run.network_after()` to forecast the continuation of a series.

    Returns:
        Input name to draws of shape (num_steps, num_samples).
    """
    plan = _plain(network)
    numbers = jax.tree.map(lambda x: jnp.asarray(x, default_float()), network.numbers())
    counts = positive_integer("num_steps", num_steps), positive_integer("num_samples", num_samples)
    drawn = _predictive(plan, *counts, numbers, as_key(key, argument="key"))
    return {network.nodes[i].name: u for i, u in zip(plan.fed, drawn, strict=True)}


def _plain(network: Network) -> Plan:
    plan = network.plan()
    if plan.composites:
        name = network.nodes[plan.composites[0]].name
        raise ModelError(f"{network.node(name).KIND} {name!r}: only continuous and binary inputs can be simulated.")
    return plan


@functools.partial(jax.jit, static_argnums=(0, 1))
def _simulate(plan: Plan, num_steps: int, numbers: Numbers, key: jax.Array) -> tuple[dict, dict]:
    key_start, key_steps = jax.random.split(key)
    states = [numbers.nodes[i] for i in plan.states]
    means = jnp.stack([own["mean"] for own in states])
    sds = 1.0 / jnp.sqrt(jnp.stack([own["precision"] for own in states]))
    start = means + sds * jax.random.normal(key_start, means.shape, means.dtype)

    def one(before: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        key_move, key_see = jax.random.split(key)
        after = Transition(plan, numbers, before, None).sample(key_move)
        named = dict(zip(plan.states, after, strict=True))
        keys = jax.random.split(key_see, len(plan.fed))
        seen = {i: emission(plan, numbers, named, i).sample(k) for i, k in zip(plan.fed, keys, strict=True)}
        return after, (named, {i: jnp.asarray(u, after.dtype) for i, u in seen.items()})

    return jax.lax.scan(one, start, jax.random.split(key_steps, num_steps))[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _predictive(plan: Plan, num_steps: int, num_samples: int, numbers: Numbers, key: jax.Array) -> tuple:
    dtype, shape = default_float(), (num_samples,)
    like = Data(tuple(jnp.zeros((1, *shape), dtype) for _ in plan.fed), (None,) * len(plan.fed), None)
    numbers, carry = begin(plan, numbers, like)

    def one(carry: Carry, key: jax.Array) -> tuple[Carry, tuple]:
        expected = predict(plan, numbers, carry, None)
        keys = jax.random.split(key, len(plan.fed))
        drawn = tuple(_draw(plan, expected[i], k, i, shape, dtype) for i, k in zip(plan.fed, keys, strict=True))
        carry, _ = advance(plan, numbers, carry, Data(drawn, (None,) * len(plan.fed), None))
        return carry, drawn

    return jax.lax.scan(one, carry, jax.random.split(key, num_steps))[1]


def _draw(plan: Plan, expected: Prediction, key: jax.Array, i: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if plan.nodes[i].kind == "binary input":
        return (jax.random.uniform(key, shape, dtype) < expected.mean).astype(dtype)
    sd = jnp.sqrt(1.0 / expected.precision + sum(expected.parts, 0.0))
    return expected.mean + sd * jax.random.normal(key, shape, dtype)
