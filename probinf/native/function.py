"""Emit a whole sampler as one native function on CPU.

XLA's CPU backend normally runs every operation of a loop body as a separate call: for a model of a few hundred floating
point operations that is most of the run time. Marked as a "small call", a function is compiled into one native function
instead: three to seven times faster for small models, quicker to compile. The marks are not documented, so every use
is a trial with a fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from probinf import _jax
from probinf._jax import xla_marks

#: What the native emitter cannot compile (library calls, scatters of several rows, callbacks), found by trial in JAX
#: 0.10. A primitive missing here costs a failed compilation, one too many costs speed.
_UNSUPPORTED = frozenset({
    "scatter-add", "scatter_add", "scatter-mul", "scatter_mul", "scatter-max", "scatter-min", "sort", "top_k", "fft",
    "cholesky", "triangular_solve", "lu", "qr", "householder_product", "geqrf", "eigh", "eig", "svd", "schur",
    "tridiagonal", "tridiagonal_solve", "hessenberg", "ffi_call", "custom_call", "pure_callback", "io_callback",
    "debug_callback", "debug_print", "lu_pivots_to_permutation",
})  # fmt: skip


def as_native(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, marked to be emitted as one native function when it is called inside `jax.jit` on CPU.

    The emitter ends the process, which cannot be caught, when a parameter of the native function is used by nothing, or
    by what XLA simplifies away. So the function gives its operands back, behind a barrier that keeps them. An array
    that the function has captured is refused.

    Raises:
        NotImplementedError: when called, if the function has captured an array.
    """

    def call(*args: Any) -> Any:
        living, leaves, structure = _traced(function, args)
        if living.consts:
            raise NotImplementedError("a native function cannot hold arrays of its own")
        with xla_marks(inlineable="false", xla_cpu_small_call="true"):
            outs = jax.jit(lambda *operands: (_jax.jaxpr_as_fun(living)(*operands), operands))(*leaves)
        return jax.tree.unflatten(structure, jax.lax.optimization_barrier(outs)[0])

    return call


def pruned(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the code that its result does not need; operands that only such code used are not touched."""

    def call(*args: Any) -> Any:
        living, leaves, structure = _traced(function, args)
        return jax.tree.unflatten(structure, _jax.jaxpr_as_fun(living)(*leaves))

    return call


def _traced(function: Callable[..., Any], args: tuple) -> tuple[Any, list[Any], Any]:
    """The jaxpr of a call without dead code, the operands it still has, and the structure of the result."""
    leaves, structure = jax.tree.flatten(args)
    closed, shapes = jax.make_jaxpr(lambda *inner: function(*jax.tree.unflatten(structure, inner)), return_shape=True)(
        *leaves
    )
    living, used = _jax.without_dead_code(closed)
    return living, [leaf for leaf, u in zip(leaves, used, strict=True) if u], jax.tree.structure(shapes)


def primitives_of(jaxpr: Any) -> set[str]:
    """Names of all primitives in a jaxpr, those of nested jaxprs included."""
    found: set[str] = set()
    stack = [jaxpr]
    while stack:
        for eqn in stack.pop().eqns:
            found.add(eqn.primitive.name)
            stack.extend(_inner(eqn.params.values()))
    return found


def _inner(values: Iterable[Any]) -> list[Any]:
    found = []
    for value in values:
        if isinstance(value, tuple | list):
            found.extend(_inner(value))
        elif hasattr(value, "eqns"):
            found.append(value)
        elif hasattr(value, "jaxpr"):
            found.append(value.jaxpr)
    return found


def may_be_native(function: Callable[..., Any], *args: Any) -> bool:
    """Whether to try: on CPU, and nothing in the traced function is known to fail."""
    if jax.default_backend() != "cpu":
        return False
    return not primitives_of(jax.make_jaxpr(function)(*args).jaxpr) & _UNSUPPORTED
