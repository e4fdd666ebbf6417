"""Write a function of one position so that a batch of positions is laid out well.

Under `vmap` the product of a data matrix and a vector, ``X @ beta``, becomes one matrix product, but of shape
(rows, chains): everything around it is of shape (chains, rows), and the transpositions between them can cost a third of
the time, unless the compiler removes them by itself. Written as ``beta @ X.T``, which is the same number, it comes out
as (chains, rows).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from probinf._jax import ClosedJaxpr, Literal, bind_equation, literal_value


def batch_first(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function`, products of a matrix and a vector turned around; meant to be called under `vmap`."""

    def call(*args: Any) -> jax.Array:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        (out,) = _evaluate(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), [out])

    return call


def _evaluate(closed: ClosedJaxpr, args: list[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Any:
        return literal_value(atom) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        outs = [_turned(eqn, *inputs)] if _is_matrix_vector(eqn) else bind_equation(eqn, inputs)
        values |= zip(eqn.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _is_matrix_vector(eqn: Any) -> bool:
    """A product over no batch whose right side is a vector and whose left side is not."""
    if eqn.primitive.name != "dot_general":
        return False
    (_, (left_batch, _)) = eqn.params["dimension_numbers"]
    left, right = (atom.aval for atom in eqn.invars)
    return not left_batch and right.ndim == 1 and left.ndim > 1


def _turned(eqn: Any, left: jax.Array, right: jax.Array) -> jax.Array:
    (left_axes, right_axes), _ = eqn.params["dimension_numbers"]
    return jax.lax.dot_general(
        right,
        left,
        ((right_axes, left_axes), ((), ())),
        precision=eqn.params["precision"],
        preferred_element_type=eqn.params["preferred_element_type"],
    )
