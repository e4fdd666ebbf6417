"""The one module that touches JAX's less stable names. Everything else in the library imports them from here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, jaxpr_as_fun, jaxprs_in_params
from jax.extend.core import primitives as _primitives
from jax.interpreters import ad, batching, mlir

__all__ = [
    "CALLS",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "Tracer",
    "Var",
    "atan2_p",
    "bind_equation",
    "callee",
    "cond_p",
    "define_call",
    "define_statement",
    "dot_general_p",
    "is_apart",
    "is_dropped",
    "is_mapped_by",
    "jaxpr_as_fun",
    "jaxprs_in_params",
    "literal_value",
    "random_bits_of",
    "reduce_sum_p",
    "scan_counts",
    "scan_p",
    "shaped",
    "source_lines",
    "statements_behind",
    "vmaps_around",
    "while_p",
    "with_constants_as_operands",
    "without_dead_code",
    "x64_enabled",
    "xla_marks",
]

scan_p = _primitives.scan_p
cond_p = _primitives.cond_p
while_p = _primitives.while_p
atan2_p = _primitives.atan2_p
dot_general_p = _primitives.dot_general_p
reduce_sum_p = _primitives.reduce_sum_p

#: Call-like primitives that are entered when random choices are inside, with the parameter that holds the callee.
CALLS = {
    _primitives.jit_p: "jaxpr",
    _primitives.remat_p: "jaxpr",
    _primitives.closed_call_p: "call_jaxpr",
    _primitives.custom_jvp_call_p: "call_jaxpr",
    _primitives.custom_vjp_call_p: "call_jaxpr",
}


def callee(eqn: JaxprEqn) -> ClosedJaxpr:
    """The jaxpr that a call-like equation calls, closed (`remat` and some versions of others hold an open one)."""
    params = eqn.params
    inner = params[CALLS[eqn.primitive]] if CALLS[eqn.primitive] in params else params["jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def bind_equation(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation on concrete or traced values; always a list of results."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # One dict in jax 0.10; a pair (functions, dict) in neighbouring versions.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *values, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def literal_value(literal: Literal) -> Any:
    """The value of a literal with the dtype of its abstract value (it may be a bare Python scalar)."""
    return np.asarray(literal.val, cast(ShapedArray, literal.aval).dtype)


def source_lines(eqn: JaxprEqn) -> list[tuple[str, int]]:
    """File and line of every frame in which an equation was made, the innermost first; empty where not recorded."""
    traceback = eqn.source_info.traceback
    return [] if traceback is None else [(frame.file_name, frame.line_num) for frame in traceback.frames]


def is_dropped(var: Any) -> bool:
    """Whether an output variable of an equation is never used by anything."""
    return isinstance(var, jec.DropVar)


def shaped(shape: tuple[int, ...], dtype: Any) -> Any:
    """An abstract array."""
    return ShapedArray(shape, dtype)


def vmaps_around() -> list[Any]:
    """One entry for each `jax.vmap` that the code now being traced runs under, the innermost first."""
    found, trace = [], jec.find_top_trace(())
    while trace is not None:
        if "Batch" in type(trace).__name__:
            found.append(trace.tag)
        trace = getattr(trace, "parent_trace", None)
    return found


def is_mapped_by(vmap: Any, x: Any) -> bool:
    """Whether a value differs between the lanes of this vmap (see `vmaps_around`)."""
    return isinstance(x, Tracer) and getattr(x._trace, "tag", None) is vmap


def x64_enabled() -> bool:
    """Whether 64-bit types are enabled here and now (`jax.enable_x64` blocks included)."""
    return jax.config.read("jax_enable_x64")


def without_dead_code(closed: ClosedJaxpr) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    """A jaxpr without what no result needs, loops and calls included, and which of its operands are still there."""
    from jax.interpreters import partial_eval

    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return ClosedJaxpr(jaxpr, closed.consts), tuple(used)


def with_constants_as_operands(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same jaxpr with the arrays that it has captured as its first operands."""
    if not closed.consts:
        return closed
    num, avals = len(closed.consts), (v.aval for v in closed.jaxpr.invars)

    def run(*args: Any) -> list:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, args[:num]))(*args[num:])

    return jax.make_jaxpr(run)(*closed.consts, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))


def xla_marks(**marks: str) -> AbstractContextManager[Any]:
    """A block whose operations carry these marks for the XLA compiler."""
    from jax.experimental.xla_metadata import set_xla_metadata

    return set_xla_metadata(**marks)


def is_apart(eqn: JaxprEqn) -> bool:
    """Whether an equation is a call that XLA shall not join with the operations around it (see `xla_marks`)."""
    return (getattr(eqn.ctx, "xla_metadata", None) or {}).get("inlineable") == "false"


def random_bits_of(key: jax.Array) -> Callable[[jax.Array, int, tuple[int, ...]], jax.Array]:
    """The function of (words of a key, width, shape) that draws the bits of this key's generator."""
    return cast(Any, key.dtype)._impl.random_bits


def statements_behind(tracer: Any) -> list[Any]:
    """The sites of the statements on which a value depends, as far back as the function being traced.

    Reads how JAX records equations while tracing, for error messages only: nothing is found where that has changed.
    """
    found, todo, seen = [], [tracer], set()
    try:
        while todo:
            value = todo.pop()
            inner = getattr(value, "val", None)
            if isinstance(inner, Tracer):
                value = inner
            eqn = getattr(value, "parent", None)
            if eqn is None or id(eqn) in seen:
                continue
            seen.add(id(eqn))
            if "site" in eqn.params:
                found.append(eqn.params["site"])
            todo.extend(eqn.in_tracers)
    except AttributeError:
        return []
    return found


def define_statement(name: str, abstract: Any, batch: Any, message: str) -> Primitive:
    """A primitive with several results that only an interpreter can run.

    Evaluating, lowering or differentiating it raises `message`: a forgotten handler is an error at trace time, never a
    constant baked into compiled code.
    """
    from probinf.errors import ModelError

    primitive = Primitive(name)
    primitive.multiple_results = True

    def refuse(*_: Any, site: Any = None, **__: Any) -> Any:
        raise ModelError(message.format(site=getattr(site, "label", name)))

    primitive.def_impl(refuse)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, lambda _, *__, **params: refuse(**params))

    def refuse_derivative(*_: Any, site: Any = None, **__: Any) -> Any:
        raise ModelError(
            f"Site {getattr(site, 'label', name)} stands inside jax.grad (or another derivative), which cannot pass "
            "through a draw. Draw outside of the function that is differentiated, and pass the value in."
        )

    ad.primitive_jvps[primitive] = refuse_derivative
    return primitive


def define_call(name: str, function: Callable[..., Any], cpu: Callable[..., Any]) -> Primitive:
    """A primitive with several results that is `function`, and on CPU, in compiled code, the equivalent `cpu`.

    Both take arrays and the same static parameters. Under `vmap` and differentiated it is `function`.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract(*avals: Any, **params: Any) -> Any:
        shapes = jax.eval_shape(functools.partial(function, **params), *avals)
        return [ShapedArray(s.shape, s.dtype) for s in shapes]

    def batched(args: Any, dims: Any, **params: Any) -> Any:
        outs = jax.vmap(functools.partial(function, **params), in_axes=dims)(*args)
        return outs, (0,) * len(outs)

    def differentiated(primals: Any, tangents: Any, **params: Any) -> Any:
        return jax.jvp(
            functools.partial(function, **params), tuple(primals), tuple(map(ad.instantiate_zeros, tangents))
        )

    primitive.def_impl(lambda *args, **params: jax.jit(functools.partial(primitive.bind, **params))(*args))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = differentiated
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=True), platform="cpu")
    return primitive


def as_strong(x: Any) -> jax.Array:
    """An array of the same value whose type is not weak, so that loop carries keep their type."""
    return jax.lax.convert_element_type(jnp.asarray(x), jnp.asarray(x).dtype)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and carries a scan equation has; JAX 0.12 keeps them in the structure of its operands."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()
    return len(constants), len(carries)
