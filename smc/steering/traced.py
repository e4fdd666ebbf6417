"""The traced executor: generator and judge are JAX functions, and the run is one `lax.scan`."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.errors import ArgumentTypeError, ModelError
from smc.steering.box import BlackBox
from smc.steering.core import Plan, Record, Weighted, look_ahead, select, start, step_keys, weigh


class Reference(NamedTuple):
    """A path that particle 0 is held to: states with a leading time axis."""

    states: Any


def first_states(box: BlackBox, num: int) -> Any:
    """The start, once for each particle.

    Raises:
        ArgumentTypeError: it is not made of arrays.
    """
    try:
        return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (num, *jnp.shape(a))), box.start)
    except TypeError as error:
        raise ArgumentTypeError(
            f"box: the traced executor needs a start made of arrays, found {type(box.start).__name__} ({error}). "
            "Pass executor='host' for Python objects."
        ) from error


def advance(
    box: BlackBox, plan: Plan, key: Array, states: Any, now: Weighted, step: Array, power: Array, held: Any
) -> tuple[Any, Weighted, Any, Record]:
    """One step: propose, score, weigh, select. Returns the selected states, and those before selection."""
    key_move, key_select, key_ahead = step_keys(key, step)
    num = plan.num_particles
    active = ~now.done & ~now.has_ended
    states = keep(active, propose(box, states, jax.random.split(key_move, num)), states)
    if held is not None:
        states = hold(states, held, now.has_ended)
    never = jnp.zeros(num, bool)
    now, record = weigh(plan, now, scores_of(box, states), ends(box, states), never, step, power)
    log_ahead = jnp.zeros_like(now.log_weights)
    if plan.rule.lookahead:
        successors = propose(box, states, jax.random.split(key_ahead, num))
        now, log_ahead = look_ahead(plan, now, scores_of(box, successors), ends(box, successors), step, power)
    now, record = select(plan, key_select, now, record, log_ahead, step)
    return jax.tree.map(lambda a: a[record.ancestors], states), now, states, record


def run_traced(
    box: BlackBox, plan: Plan, key: Array, reference: Reference | None = None, power: Array | None = None
) -> tuple[Weighted, Any, Record]:
    """All steps: what is carried at the end, states (T, N, ...) before each selection, and records (T, ...)."""
    scale = jnp.ones((), jnp.result_type(float)) if power is None else power
    steps = jnp.arange(1, plan.max_steps + 1, dtype=jnp.int32)

    def one(carry: tuple[Any, Weighted], row: tuple[Array, Any]) -> tuple[tuple[Any, Weighted], tuple[Any, Record]]:
        states, now, before, record = advance(box, plan, key, *carry, row[0], scale, row[1])
        return (states, now), (before, record)

    held = None if reference is None else reference.states
    (_, now), (history, records) = jax.lax.scan(
        one, (first_states(box, plan.num_particles), start(plan)), (steps, held)
    )
    return now, history, records


advance_jit = eqx.filter_jit(advance)


def propose(box: BlackBox, states: Any, keys: Array) -> Any:
    """Every state one step further, of the same structure, shapes and dtypes.

    Raises:
        ModelError: it is not.
    """
    new = box.extend(states, keys)
    if jax.tree.structure(new) != jax.tree.structure(states):
        raise ModelError(
            f"propose: expected states of the structure {jax.tree.structure(states)}, found {jax.tree.structure(new)}."
        )
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(new), strict=True):
        if jnp.shape(a) != jnp.shape(b):
            raise ModelError(f"propose: expected an array of shape {jnp.shape(a)}, found {jnp.shape(b)}.")
    return jax.tree.map(lambda a, b: jnp.asarray(b).astype(a.dtype) if hasattr(b, "dtype") else b, states, new)


def scores_of(box: BlackBox, states: Any) -> Array:
    """The judge's scores (N,).

    Raises:
        ModelError: another shape.
    """
    return _row("score", box.score(states), states).astype(jnp.result_type(float))


def ends(box: BlackBox, states: Any) -> Array:
    """Which states are finished, (N,).

    Raises:
        ModelError: another shape.
    """
    if box.finished is None:
        return jnp.zeros(_size(states), bool)
    return _row("finished", box.finished(states), states).astype(bool)


def keep(which: Array, new: Any, old: Any) -> Any:
    """The new rows where `which`, the old ones elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)


def hold(states: Any, held: Any, has_ended: Array) -> Any:
    """Particle 0 follows the reference while the run goes on."""
    return jax.tree.map(lambda a, b: a.at[0].set(jnp.where(has_ended, a[0], b)), states, held)


def _row(name: str, value: Any, states: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape != (_size(states),):
        raise ModelError(f"{name}: expected one number for each of {_size(states)} states, found shape {value.shape}.")
    return value


def _size(states: Any) -> int:
    return jax.tree.leaves(states)[0].shape[0]
