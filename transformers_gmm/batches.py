"""Many problems in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from transformers_gmm.components import Components

_PIECE = 200  # problems at a time on a processor: what is computed on the way stays in its cache


@eqx.filter_jit
def answer_all(network: Any, task: Any, prior: Any, data: Any) -> Components:
    """A network's answers to n problems; compiled once for every n.

    Args:
        network: problems in, mixtures out.
        task: of single updates; makes problems of priors and data.
        prior: arrays with leading axis n, as the task takes them.
        data: the same.
    """
    return in_pieces(lambda prior, data: network(task.problem(prior, data)), (prior, data))


def in_pieces(function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """`function(*given)`, whose arguments and result have a leading axis of independent problems.

    A processor does 200 problems at a time, an accelerator all of them.
    """
    n = len(jax.tree.leaves(given)[0])
    if n <= _PIECE:
        return function(*given)
    count = -(-n // _PIECE)

    def cut(x: jax.Array) -> jax.Array:
        missing = jnp.broadcast_to(x[-1:], (count * _PIECE - n, *x.shape[1:]))
        return jnp.concatenate([x, missing]).reshape(count, _PIECE, *x.shape[1:])

    def by_turns(*given: Any) -> Any:
        found = jax.lax.map(lambda piece: function(*piece), jax.tree.map(cut, given))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)

    return jax.lax.platform_dependent(*given, cpu=by_turns, default=function)
