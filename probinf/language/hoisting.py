"""Take out of a sequential loop what does not depend on its carry: computed for all iterations at once beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax


def scan_hoisted(step: Callable[[list, Any], list], init: list, xs: Any, length: int, *, reverse: bool) -> tuple:
    """`lax.scan` of `step(carry, x) -> carry`, with everything that depends on `x` alone vectorised over the loop.

    A state equation `x' = F x + L z` keeps its matrix product in the loop; the Cholesky factor of the noise, which
    depends on the time step only, leaves it.

    Returns:
        The last carry, and what each iteration found in its carry (stacked).
    """
    leaves, structure = jax.tree.flatten(xs)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    carry = [jax.ShapeDtypeStruct(jnp.shape(c), jnp.asarray(c).dtype) for c in init]
    closed = jax.make_jaxpr(lambda c, *x: step(list(c), jax.tree.unflatten(structure, x)))(tuple(carry), *one)
    jaxpr = closed.jaxpr
    moving = set(jaxpr.invars[: len(carry)])
    early, late = [], []
    for eqn in jaxpr.eqns:
        if any(v in moving for v in eqn.invars if not isinstance(v, _jax.Literal)):
            moving.update(eqn.outvars)
            late.append(eqn)
        else:
            early.append(eqn)
    needed = {v for v in jaxpr.outvars if not isinstance(v, _jax.Literal)}
    kept = []
    for eqn in reversed(late):
        if any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, _jax.Literal))
    kept.reverse()
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    rows = [v for v in needed if v not in moving and v not in constants]

    def run(equations: list, env: dict) -> dict:
        for eqn in equations:
            operands = [_jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
            env.update(zip(eqn.outvars, _jax.bind_equation(eqn, operands), strict=True))
        return env

    def before(*x: Any) -> list:
        env = run(early, {**constants, **dict(zip(jaxpr.invars[len(carry) :], x, strict=True))})
        return [env[v] for v in rows]

    if leaves:
        stacked = jax.vmap(before)(*leaves)
    else:  # nothing differs between iterations
        constants = run(early, dict(constants))
        rows, stacked = [], []

    def body(now: list, row: list) -> tuple[list, list]:
        env = {
            **constants,
            **dict(zip(jaxpr.invars[: len(carry)], now, strict=True)),
            **dict(zip(rows, row, strict=True)),
        }
        env = run(kept, env)
        outs = [_jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v] for v in jaxpr.outvars]
        return [jnp.asarray(o, c.dtype) for o, c in zip(outs, now, strict=True)], now

    start = [jnp.asarray(c) for c in init]
    return jax.lax.scan(body, start, stacked, length=length, reverse=reverse)
