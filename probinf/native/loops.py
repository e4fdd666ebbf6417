"""Small loops as one native function on CPU, as part of any traced program.

A loop over a population of a hundred particles spends most of its time on starting operations. `in_one_piece` lets the
CPU run the whole loop as one native function (`probinf.native`), where every operation of it is known to compile and
no array in it is so long that threads would pay more. Under `vmap`, derivatives and on other devices it is the function
that was given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.native.form import NotOnePiece, form_of
from probinf.native.function import as_native

_LARGE = 1_000_000  # more than loops are deep


def in_one_piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of a pytree of arrays, run as one native function on CPU where that is known to work and to gain."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        if jax.default_backend() != "cpu":
            return function(*args)
        closed, shapes = jax.make_jaxpr(
            lambda *inner: function(*jax.tree.unflatten(structure, inner)), return_shape=True
        )(*leaves)
        # Arrays that were captured become operands: the emitter takes no others.
        plain, used = _jax.without_dead_code(_jax.with_constants_as_operands(closed))
        operands = [x for x, u in zip((*closed.consts, *leaves), used, strict=True) if u]
        try:
            form = form_of(plain)
        except NotOnePiece:
            outs = _jax.jaxpr_as_fun(plain)(*operands)
        else:
            outs = native_p.bind(*operands, plain=plain, form=form)
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return call


def _native(*args: Any, plain: Any, form: Any) -> list:
    # Large whatever is drawn: what the compiler finds to be constant it looks through, and a draw it does not.
    large = _LARGE + jnp.asarray(jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), ()), jnp.int32)
    return as_native(_jax.jaxpr_as_fun(form))(large, *args)


def _plain(*args: Any, plain: Any, form: Any) -> list:
    return _jax.jaxpr_as_fun(plain)(*args)


native_p = _jax.define_call("one_piece", _plain, cpu=_native)
