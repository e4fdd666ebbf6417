"""Ancestor sampling: which particle's past the reference path of a conditional population goes on from.

The index is drawn by weight times the density of the reference's future given the particle's past, scores included
(Lindsten, Jordan & Schön 2014); particle 0 and the one drawn then exchange all they have, so that the reference stays
particle 0. This is a Gibbs step on the index, and as such right at any moment of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf import _jax
from probinf.language.evaluate import evaluate
from probinf.language.handlers import Score
from probinf.language.primitives import Site, bind_sample

Values = Mapping[str, Any]


def exchange(log_p: jax.Array) -> jax.Array:
    """The permutation that exchanges particle 0 with one drawn by these log probabilities (N,), not normalised."""
    identity = jnp.arange(log_p.shape[0], dtype=jnp.int32)
    chosen = bind_sample(Site(""), dist.CategoricalProbs(jax.nn.softmax(log_p)))[0].astype(jnp.int32)
    return jnp.where(identity == chosen, 0, identity).at[0].set(chosen)


def _iteration(eqn: Any, operands: list, values: Values) -> tuple[list, jax.Array]:
    n_carry = _jax.scan_counts(eqn.params)[1]
    outs, log_density, _ = evaluate(eqn.params["jaxpr"], operands, Score(), Score().start(), values)
    return outs[:n_carry], log_density


def log_future_now(eqn: Any, values: Values) -> Callable[..., jax.Array]:
    """Log density of one iteration with the reference's values: all that depends on the past in a Markov loop.

    Args:
        eqn: the loop.
        values: the reference's values, those inside the loop at this iteration.

    Returns:
        A function of one particle's operands of the body.
    """
    return lambda *operands: _iteration(eqn, list(operands), values)[1]


def log_future_from(eqn: Any, t: Any, path: Values, rest: Values) -> Callable[..., jax.Array]:
    """Log density of all iterations from `t` on with the reference's values: O(length).

    Args:
        eqn: the loop.
        t: number of the iteration.
        path: the reference's values inside the loop, stacked.
        rest: its other values.

    Returns:
        A function of one particle's constants and carry, and all rows of the loop.
    """
    (n_consts, n_carry), length = _jax.scan_counts(eqn.params), eqn.params["length"]

    def remaining(*operands: Any) -> jax.Array:
        inputs, rows = list(operands[: n_consts + n_carry]), operands[n_consts + n_carry :]

        def step(s: Any, carry: Any) -> Any:
            values, total = carry
            here = [jax.lax.dynamic_index_in_dim(jnp.asarray(r), s, 0, keepdims=False) for r in rows]
            given = {n: jax.lax.dynamic_index_in_dim(jnp.asarray(v), s, 0, keepdims=False) for n, v in path.items()}
            outs, log_density = _iteration(eqn, [*inputs[:n_consts], *values, *here], {**rest, **given})
            outs = [jnp.asarray(o, jnp.asarray(v).dtype) for o, v in zip(outs, values, strict=True)]
            dead = total == -jnp.inf
            return outs, jnp.where(dead, total, total + log_density.astype(total.dtype))

        start = ([jnp.asarray(c) for c in inputs[n_consts:]], jnp.zeros((), jnp.result_type(float)))
        if eqn.params["reverse"]:
            return jax.lax.fori_loop(0, t + 1, lambda i, c: step(t - i, c), start)[1]
        return jax.lax.fori_loop(t, length, step, start)[1]

    return remaining
