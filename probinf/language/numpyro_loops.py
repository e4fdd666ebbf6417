"""NumPyro's `scan` and `cond` inside a program: JAX's loops, with the handlers around them taken inside."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.handlers
import numpyro.primitives

from probinf.errors import ArgumentError
from probinf.language.numpyro_unsupported import label_of, unsupported
from probinf.language.places import caller


def control_flow(msg: Any) -> None:
    """Run NumPyro's scan or cond as JAX's, with the handlers around it inside of the step."""
    # NumPyro repeats these messages outside of the loop; ours are emitted inside.
    nothing = types.SimpleNamespace(trace={})
    if len(msg["args"]) == 5:
        carry, ys = _scan(*msg["args"], given=msg["kwargs"]["substitute_stack"])
        msg["value"] = ((msg["args"][3], None, carry), (nothing, ys))
        return
    pred, true_fun, false_fun, operand = msg["args"]
    with _without(numpyro.handlers.seed):
        msg["value"] = (jax.lax.cond(pred, true_fun, false_fun, operand), nothing)


def _scan(f: Callable, init: Any, xs: Any, length: int | None, reverse: bool, given: list) -> tuple[Any, Any]:
    if length is None:
        leaves = jax.tree.leaves(xs)
        if not leaves:
            raise ArgumentError(f"scan ({caller()}): pass length=..., since there is nothing to scan over.")
        length = int(np.shape(leaves[0])[0])

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        iteration, x = inputs
        step = f
        for kind, values in given:
            step = _at_iteration(kind, values, iteration, length, step)
        # Handlers with data for the whole loop are replaced by ones with data for this iteration; a seed would keep a
        # key of the loop.
        handlers = numpyro.handlers
        with _without(handlers.condition, handlers.substitute, handlers.replay, handlers.seed):
            return step(carry, x)

    iterations = jnp.arange(length) if given else None
    return jax.lax.scan(body, init, (iterations, xs), length=length, reverse=reverse)


def _at_iteration(
    kind: str, values: Callable[[Any], Any] | Mapping[str, Any], iteration: Any, length: int, step: Callable
) -> Callable:
    """A step of a scan with the values of handlers around the scan, taken at one iteration."""

    def value_at(msg: Any) -> Any:
        if msg["type"] != "sample":
            return None
        value = values(msg) if callable(values) else values.get(msg["name"])
        if value is None:
            return None
        one = len(msg["kwargs"]["sample_shape"]) + len(msg["fn"].shape())
        if np.ndim(value) != one + 1:
            return value
        if np.shape(value)[0] != length:
            where = f"{label_of(msg)}, {np.shape(value)[0]} values for {length} iterations"
            raise unsupported("data for a part of a scan", where)
        return jax.lax.dynamic_index_in_dim(jnp.asarray(value), iteration, keepdims=False)

    if kind == "condition":
        return numpyro.handlers.condition(step, condition_fn=value_at)
    if kind == "substitute":
        return numpyro.handlers.substitute(step, substitute_fn=value_at)
    raise unsupported("handlers.replay around scan", f"scan ({caller()})")


@contextlib.contextmanager
def _without(*kinds: type) -> Iterator[None]:
    """The stack of handlers without those of some kinds."""
    stack = numpyro.primitives._PYRO_STACK
    before = list(stack)
    stack[:] = [m for m in before if not isinstance(m, kinds)]
    try:
        yield
    finally:
        stack[:] = before
