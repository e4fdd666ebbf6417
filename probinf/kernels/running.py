"""Chains of a kernel: starts, steps with a key, and many chains side by side in one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError
from probinf.kernels.kernel import Kernel
from probinf.language.evaluate import evaluate
from probinf.language.handlers import Forward
from probinf.transformations.traces import Trace

_TRIES = 1000


def with_key(function: Callable, key: jax.Array, *args: Any) -> Any:
    """Run a function with statements forward: its result, draws made with a key."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    handler = Forward()
    outs, _, _ = evaluate(closed, jax.tree.leaves(args), handler, handler.start(key), {})
    outs = [jnp.asarray(o, s.dtype) for o, s in zip(outs, jax.tree.leaves(shapes), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shapes), outs)


def take_step(kernel: Kernel, target: Any, state: Trace, key: jax.Array) -> tuple[Trace, dict[str, jax.Array]]:
    """One step of one chain."""
    return with_key(lambda st: kernel.step(target, st), key, state)


def find_starts(target: Any, key: jax.Array, num_chains: int) -> Trace:
    """Draws from the base measure, one for each chain, the first with weight among many; see `require_starts`."""

    def one(key: jax.Array) -> Trace:
        def attempt(carry: Any) -> Any:
            trace, i = carry
            new = target.replay(with_key(target.draw, jax.random.fold_in(key, i)))
            return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(trace.log_weight), a, b), trace, new), i + 1

        first = target.replay(with_key(target.draw, jax.random.fold_in(key, 0)))
        return jax.lax.while_loop(
            lambda c: ~jnp.isfinite(c[0].log_weight) & (c[1] < _TRIES), attempt, (first, jnp.int32(1))
        )[0]

    return jax.vmap(one)(jax.random.split(key, num_chains))


def require_starts(traces: Trace) -> None:
    """Refuse starts without weight.

    Raises:
        InferenceError: no trace with weight was found for some chain; the number of tries is named.
    """
    dead = ~np.isfinite(np.asarray(traces.log_weight))
    if dead.any():
        raise InferenceError(
            f"No execution with positive weight was found for {int(dead.sum())} of {dead.size} chains in {_TRIES} "
            "draws from the prior. Check that the data are possible under the model, or soften a hard condition."
        )


def run_chains(
    kernel: Kernel,
    target: Any,
    starts: Trace,
    key: jax.Array,
    num_steps: int,
    *,
    thin: int = 1,
    keep: Callable[[Any], Any] = lambda slots: slots,
) -> tuple[Trace, Any, jax.Array]:
    """Advance chains side by side.

    Args:
        kernel: one step.
        target: what it keeps.
        starts: one state per chain (leading axis).
        key: for all randomness.
        num_steps: kept states of each chain.
        thin: steps per kept state.
        keep: what to keep of a state's slots.

    Returns:
        Final states; kept values (num_steps, chains, ...); acceptance rates (num_steps, chains).
    """
    num_chains = starts.log_weight.shape[0]

    def step(states: Trace, key: jax.Array) -> tuple[Trace, Any]:
        keys = jax.random.split(key, num_chains)
        return jax.vmap(lambda st, k: take_step(kernel, target, st, k))(states, keys)

    def kept_step(states: Trace, key: jax.Array) -> tuple[Trace, Any]:
        def inner(st: Trace, k: jax.Array) -> tuple[Trace, Any]:
            st, info = step(st, k)
            return st, jnp.asarray(info["accepted"], jnp.result_type(float))

        states, rates = jax.lax.scan(inner, states, jax.random.split(key, thin))
        return states, (jax.vmap(keep)(states.slots), jnp.mean(rates, axis=0))

    states, (kept, rates) = jax.lax.scan(kept_step, starts, jax.random.split(key, num_steps))
    return states, kept, rates
