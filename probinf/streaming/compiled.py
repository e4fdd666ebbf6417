"""The compiled step and the compiled scan over a log: pure functions that every filter shares."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from probinf.streaming.method import AbstractFilterMethod, UpdateInfo
from probinf.streaming.system import System

_CACHE = 2**21  # bytes of states


class Evidence(NamedTuple):
    """A compensated sum (Neumaier): `total + error`, so that thousands of events do not wear out 32-bit floats."""

    total: jax.Array
    error: jax.Array

    @classmethod
    def zero(cls, dtype: Any) -> Evidence:
        return cls(jnp.zeros((), dtype), jnp.zeros((), dtype))

    def add(self, term: jax.Array) -> Evidence:
        total = self.total + term
        lost = jnp.where(jnp.abs(self.total) >= jnp.abs(term), (self.total - total) + term, (term - total) + self.total)
        return Evidence(total, self.error + jnp.where(jnp.isfinite(lost), lost, 0.0))

    @property
    def value(self) -> jax.Array:
        return self.total + self.error


class MethodKey:
    """A method split into traced arrays and a hashable rest."""

    def __init__(self, method: AbstractFilterMethod) -> None:
        arrays, static = eqx.partition(method, eqx.is_array)
        self.arrays, self._array_structure = jax.tree.flatten(arrays)
        leaves, structure = jax.tree.flatten(static)
        self.static = _StaticMethod(tuple(leaves), structure, self._array_structure)


class _StaticMethod:
    def __init__(self, leaves: tuple, structure: Any, array_structure: Any) -> None:
        self._parts = (tuple((type(leaf), leaf) for leaf in leaves), structure, array_structure)
        self._hash = hash(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StaticMethod) and self._parts == other._parts

    def __hash__(self) -> int:
        return self._hash

    def build(self, arrays: list) -> AbstractFilterMethod:
        leaves, structure, array_structure = self._parts
        static = jax.tree.unflatten(structure, [leaf for _, leaf in leaves])
        return eqx.combine(jax.tree.unflatten(array_structure, list(arrays)), static)


class Channel(NamedTuple):
    """A sensor as the compiled code needs to know it."""

    name: str
    value_shape: tuple[int, ...]
    input_shape: tuple[int, ...] | None


class Traces:
    """Counts how often any of the functions below was traced, which is how often something was compiled."""

    count = 0


def advance(
    system: System,
    method: AbstractFilterMethod,
    channel: Channel | None,
    state: Any,
    dt: jax.Array,
    value: Any,
    observed: Any,
    inputs: Any,
    control: Any,
    *,
    branch: bool = True,
) -> tuple[Any, UpdateInfo]:
    """Predict over `dt` (not at all for 0) and update; on a fault the state is the one before both.

    Without `branch` the prediction is made for 0 as well (over one second) and thrown away: with many particles that is
    quicker on CPU where most events move the state, and one compiled function still serves both.
    """
    if branch:
        moved = jax.lax.cond(dt > 0.0, lambda s: method.predict(s, system, dt, control), lambda s: s, state)
    else:
        ahead = method.predict(state, system, jnp.where(dt > 0.0, dt, 1.0), control)
        moved = jax.tree.map(lambda a, b: jax.lax.select(dt > 0.0, a, b), ahead, state)
    fault = method.check(moved)
    if channel is None:
        done, info = moved, UpdateInfo.create(jnp.zeros((), system.dtype), jnp.zeros(0, bool))
    else:
        done, info = method.update(moved, system, channel.name, value, observed, inputs)
    fault = jnp.where(fault > 0, fault, info.fault)  # a broken prediction breaks the update: report the cause only
    info = eqx.tree_at(lambda i: i.fault, info, fault)
    return jax.tree.map(lambda a, b: jax.lax.select(fault == 0, a, b), done, state), info


@functools.lru_cache(maxsize=1024)
def step(recipe: Any, method: _StaticMethod, channel: Channel | None) -> Callable[..., Any]:
    """One event as a compiled function of arrays, to the new state, the new evidence and the info.

    What is static is bound once, and not hashed and compared at every call.
    """

    @jax.jit
    def run(arrays, method_arrays, state, evidence, dt, event):
        Traces.count += 1
        return _step(recipe, method, channel, arrays, method_arrays, state, evidence, dt, event)

    return run


def _step(recipe, method, channel, arrays, method_arrays, state, evidence, dt, event):
    state, info = advance(recipe.build(arrays), method.build(method_arrays), channel, state, dt, *event, branch=False)
    return state, _absorb(evidence, info), info


def _absorb(evidence: Evidence, info: UpdateInfo) -> Evidence:
    return evidence.add(jnp.where(info.fault == 0, info.predictive_log_density, 0.0))


@functools.lru_cache(maxsize=1024)
def batched_step(recipe: Any, method: _StaticMethod, channel: Channel | None) -> Callable[..., Any]:
    """`step` for B beliefs at once: states and event parts carry a leading axis (`None` parts do not).

    So does `dt`, unless one number serves all: what the motion makes of it (matrices, say) is then made once.
    """

    @jax.jit
    def run(arrays, method_arrays, state, evidence, dt, event):
        Traces.count += 1

        def one(lane):
            state, evidence, own_dt, event = lane
            dt_now = dt if own_dt is None else own_dt
            return _step(recipe, method, channel, arrays, method_arrays, state, evidence, dt_now, event)

        lanes, block = (state, evidence, dt if dt.ndim else None, event), _block(state)
        return jax.vmap(one)(lanes) if block is None else jax.lax.map(one, lanes, batch_size=block)

    return run


def _block(states: Any) -> int | None:
    """How many beliefs a batch takes at once; None for all.

    On CPU no more than what stays near a core with all that is computed of it: a thousand populations of a thousand
    particles take half the time so.
    """
    leaves = jax.tree.leaves(states)
    size, blocks = leaves[0].shape[0], -(-sum(leaf.nbytes for leaf in leaves) // _CACHE)
    if blocks <= 1 or jax.default_backend() != "cpu":
        return None
    # A last block of another size would be compiled apart.
    blocks = next((n for n in range(blocks, 2 * blocks) if size % n == 0), blocks)
    return max(1, size // blocks)


class Trail(NamedTuple):
    """What a scan leaves behind, one row per event."""

    means: jax.Array
    covs: jax.Array
    info: UpdateInfo
    states: Any


@functools.partial(jax.jit, static_argnames=("recipe", "method", "channels", "width", "keep_states"))
def scan(
    recipe: Any,
    method: _StaticMethod,
    channels: tuple[Channel, ...],
    width: int,
    keep_states: bool,
    arrays: tuple,
    method_arrays: list,
    state: Any,
    evidence: Evidence,
    events: tuple,
) -> tuple[Any, Evidence, Trail]:
    """All events of a log. `events` is (dts, sensor_index, values, observed, inputs, controls), one row per event."""
    Traces.count += 1
    system, filtering = recipe.build(arrays), method.build(method_arrays)

    def branch(channel: Channel | None) -> Callable:
        def run(state, dt, value, observed, inputs, control):
            if channel is None:
                state, info = advance(system, filtering, None, state, dt, None, None, None, control)
            else:
                size = math.prod(channel.value_shape)
                value, observed = (a[:size].reshape(channel.value_shape) for a in (value, observed))
                shape = channel.input_shape
                given = None if shape is None else inputs[: math.prod(shape)].reshape(shape)
                state, info = advance(system, filtering, channel, state, dt, value, observed, given, control)
            pad = (0, width - info.innovation.shape[0])
            innovation = jnp.pad(info.innovation, pad, constant_values=jnp.nan)
            return state, eqx.tree_at(lambda i: i.innovation, info, innovation)

        return run

    branches = [branch(None), *map(branch, channels)]

    def one(carry, event):
        state, evidence = carry
        dt, index, value, observed, inputs, control = event
        state, info = jax.lax.switch(index + 1, branches, state, dt, value, observed, inputs, control)
        trail = Trail(filtering.mean(state), filtering.cov(state), info, state if keep_states else None)
        return (state, _absorb(evidence, info)), trail

    (state, evidence), trail = jax.lax.scan(one, (state, evidence), events)
    return state, evidence, trail


@functools.partial(jax.jit, static_argnames=("recipe", "method"))
def smooth(recipe, method, arrays, method_arrays, states, dts, controls):
    """The method's own smoother over the filtered states of a scan."""
    Traces.count += 1
    return method.build(method_arrays).smooth(recipe.build(arrays), states, dts, controls)
