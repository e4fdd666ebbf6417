"""Log likelihoods of many subjects whose derivatives come by forward mode, in the scan that gives the values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def value_and_slopes(function: Callable[[tuple], Any], x: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """`function(x)`, an array (*batch,) that is elementwise in each of the arrays x, and its derivatives by them.

    All tangents go through in one pass, which computes the function once.
    """
    if len(x) == 1:  # as an axis, even one tangent would cost a tenth of the time of one series
        value, slope = jax.jvp(function, (x,), ((jnp.ones_like(x[0]),),))
        return value, (slope,)
    # Written with comparisons: the native emitter does not take array constants.
    place = jnp.arange(len(x))
    basis = tuple(
        jnp.broadcast_to((place == k).astype(a.dtype).reshape((len(x),) + (1,) * a.ndim), (len(x), *a.shape))
        for k, a in enumerate(x)
    )
    value, slopes = jax.vmap(lambda t: jax.jvp(function, (x,), (t,)), out_axes=(None, 0))(basis)
    return value, tuple(slopes[k] for k in range(len(x)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_forward_mode(function: Callable[[Any, Any], Any], x: tuple[Any, ...], rest: Any) -> Any:
    """The result of `function(x, rest)`, an array (*batch,) that is elementwise in each of the arrays x, all (*batch,).

    Subjects do not touch each other, so one tangent for each of the few entries of x gives the derivatives of all
    subjects, and nothing is stored along the series for a reverse pass.
    """
    return function(x, rest)


def _rule(function: Callable[[Any, Any], Any], primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    (x, rest), (dx, drest) = primals, tangents
    value, slopes = value_and_slopes(lambda y: function(y, rest), x)
    tangent = jnp.zeros_like(value)
    for k, d in enumerate(dx):
        if not isinstance(d, SymbolicZero):
            tangent = tangent + slopes[k] * d
    others = jax.tree.leaves(drest, is_leaf=lambda d: isinstance(d, SymbolicZero))
    if not all(isinstance(d, SymbolicZero) for d in others):  # somebody differentiates the data: the ordinary way
        filled = jax.tree.map(
            lambda d: jnp.zeros(d.shape, cast(Any, d).dtype) if isinstance(d, SymbolicZero) else d,
            drest,
            is_leaf=lambda d: isinstance(d, SymbolicZero),
        )
        tangent = tangent + jax.jvp(lambda r: function(x, r), (rest,), (filled,))[1]
    return value, tangent


by_forward_mode.defjvp(_rule, symbolic_zeros=True)
