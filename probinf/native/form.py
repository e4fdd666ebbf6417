"""The form of a traced program that XLA's native emitter compiles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf import _jax
from probinf.unrolled_threefry import unrolled

#: The most elements of an array inside a loop. Above it threads, and operations written for long arrays, win.
LONGEST = 1024
#: The most products that a product of matrices is written out in.
_MOST_PRODUCTS = 16 * LONGEST
#: The most operations of a program: beyond it the native function takes long to compile.
_MOST_EQUATIONS = 2000
#: The least cost, by XLA's count, that it cuts in pieces: two of 100,000.
_LEAST_CUT = 200_000
_FEW = 64  # entries of a vector that XLA does not cut in pieces

#: Operations that the native emitter is known to compile.
_PLAIN = frozenset({
    "abs", "add", "and", "argmax", "argmin", "atan2", "bitcast_convert_type", "broadcast_in_dim", "ceil", "clamp",
    "complex", "concatenate", "convert_element_type", "copy", "cos", "cosh", "div", "dynamic_slice",
    "dynamic_update_slice", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expand_dims", "expm1", "floor", "gather",
    "ge", "gt", "imag", "integer_pow", "iota", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max",
    "min", "mul", "ne", "neg", "nextafter", "not", "optimization_barrier", "or", "pad", "population_count", "pow",
    "random_fold_in", "random_split", "random_unwrap", "random_wrap", "real", "rem", "reshape", "rev", "round", "rsqrt",
    "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "slice", "split",
    "sqrt", "square", "squeeze", "stack", "stop_gradient", "sub", "tan", "tanh", "tile", "transpose", "unstack", "xor",
})  # fmt: skip


#: Reductions: what joins two entries, and the entry that changes nothing (None: where one twice changes nothing).
_REDUCED: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "reduce_and": (jnp.bitwise_and, None),
    "reduce_max": (jnp.maximum, None),
    "reduce_min": (jnp.minimum, None),
    "reduce_or": (jnp.bitwise_or, None),
    "reduce_prod": (jnp.multiply, 1),
    "reduce_sum": (jnp.add, 0),
}


class NotOnePiece(Exception):
    """Something in a program that the native emitter is not known to compile, or that is too long to gain."""


_FORMS: dict[str, Callable[..., Any]] = {}


def native_form(form: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: where a program becomes one native function, `form` stands for what is decorated.

    Both take the same vectors, what is decorated also hashable settings by name; `form` takes the shape of the result
    as `shape`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"{function.__module__}.{function.__qualname__}"
        _FORMS[name] = form

        @functools.lru_cache
        def with_settings(settings: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
            def named(*arrays: Any) -> Any:
                return function(*arrays, **dict(settings))

            named.__name__ = name
            return jax.jit(named)

        @functools.wraps(function)
        def call(*args: Any, **settings: Any) -> Any:
            return with_settings(tuple(settings.items()))(*args)

        return call

    return decorate


def form_of(closed: Any) -> Any:
    """The jaxpr of one more operand, a large number, that finds what `closed` finds and compiles natively.

    Raises:
        NotOnePiece: something in it is not known to compile, or it is too long, or has no loop to gain from.
    """
    jaxprs = [closed.jaxpr, *_inside(closed.jaxpr)]
    if sum(len(jaxpr.eqns) for jaxpr in jaxprs) > _MOST_EQUATIONS:
        raise NotOnePiece("it is long")
    if not any(eqn.primitive in (_jax.scan_p, _jax.while_p) for jaxpr in jaxprs for eqn in jaxpr.eqns):
        raise NotOnePiece("it has no loop")

    def run(large: jax.Array, *args: Any) -> list:
        return _Form(large).frame(closed, args)

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    made = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((), jnp.int32), *shapes)
    if made.consts:
        raise NotOnePiece("it has captured an array")
    return made


def _inside(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        for inner in _jax.jaxprs_in_params(eqn.params):
            yield inner
            yield from _inside(inner)


class _Form:
    """Evaluates a jaxpr by what the native emitter compiles.

    XLA cuts costly operations on vectors in pieces for its threads wherever it finds them: in the bodies of loops, and
    in calls, but not in the branches of conditionals. A native function has no threads, and would not compile. So what
    is costly goes into the branch of a conditional that is always taken, which XLA cannot know.
    """

    def __init__(self, large: jax.Array, depth: int = 0) -> None:
        self.large, self.depth = large, depth

    def kept(self, function: Callable[[Any], list], outs: Sequence[Any], operands: list) -> list:
        """The results of a function, in a branch that is taken."""
        zeros = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in outs]
        # Another test at every depth: what a branch is chosen by is known inside of it.
        return jax.lax.cond(self.large > self.depth, function, lambda _: zeros, operands)

    def frame(self, closed: Any, args: Sequence[Any]) -> list:
        jaxpr = closed.jaxpr
        env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))

        def read(v: Any) -> Any:
            return _jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars]), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list) -> list:
        name, params = eqn.primitive.name, eqn.params
        if name == "platform_index":
            return [np.int32(_cpu_of(params))]
        if name in ("jit", "pjit") and params["name"] in _FORMS and all(np.ndim(x) <= 1 for x in operands):
            return [_FORMS[params["name"]](*operands, shape=eqn.outvars[0].aval.shape)]
        if eqn.primitive in _jax.CALLS:
            call = functools.partial(self.frame, _jax.callee(eqn))
            return self.apart(call, eqn, operands) if _jax.is_apart(eqn) else call(operands)
        if name == "custom_vmap_call":
            return self.frame(params["call"], operands)
        if name == "random_bits":
            return self.random_bits(params, *operands)
        if eqn.primitive is _jax.cond_p:
            return self.branch(params["branches"], *operands)
        if eqn.primitive is _jax.scan_p:
            return self.scan(params, operands)
        if eqn.primitive is _jax.while_p:
            return self.while_loop(params, operands)
        if name in _REDUCED and all(operands[0].shape[axis] for axis in params["axes"]):
            return [_halved(*_REDUCED[name], jnp.asarray(operands[0]), tuple(map(int, params["axes"])))]
        if name == "dot_general":
            left, right = operands
            return [_summed_products(left, right, params)]
        if name not in _PLAIN:
            raise NotOnePiece(name)
        if self.depth and any(math.prod(v.aval.shape) > LONGEST for v in eqn.outvars):
            raise NotOnePiece(f"{name} of {eqn.outvars[0].aval.shape}")
        return _jax.bind_equation(eqn, operands)

    def apart(self, function: Callable[[Any], list], eqn: Any, operands: list) -> list:
        """The results of a call whose operations are not to be joined with those around it."""
        if _cost(eqn) < _LEAST_CUT:
            with _jax.xla_marks(inlineable="false"):
                return jax.jit(function)(operands)
        return self.kept(function, eqn.outvars, operands)

    def random_bits(self, params: Any, key: jax.Array) -> list:
        if key.shape:
            raise NotOnePiece("numbers from many keys")
        bits, data = _jax.random_bits_of(unrolled(key)), jax.random.key_data(key)
        width, shape = params["bit_width"], params["shape"]
        made = jax.make_jaxpr(lambda data: bits(data, width, shape))(data)
        return self.frame(made, [data])

    def branch(self, branches: Sequence[Any], index: Any, *operands: Any) -> list:
        if not isinstance(index, _jax.Tracer):
            return self.frame(branches[int(np.clip(index, 0, len(branches) - 1))], operands)
        ways = [lambda *args, b=b: self.frame(b, args) for b in branches]
        return jax.lax.switch(jnp.asarray(index, jnp.int32), ways, *operands)

    def scan(self, params: Any, operands: list) -> list:
        (n_consts, n_carry), body = _jax.scan_counts(params), params["jaxpr"]
        consts, init, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]

        def step(carry: list, x: list) -> tuple[list, list]:
            outs = self.body(body, [*consts, *carry, *x])
            return outs[:n_carry], outs[n_carry:]

        settings = {name: params[name] for name in ("length", "reverse", "unroll")}
        carry, ys = jax.lax.scan(step, list(init), list(xs), **settings)
        return [*carry, *ys]

    def while_loop(self, params: Any, operands: list) -> list:
        n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
        for_test, for_body, init = operands[:n_test], operands[n_test : n_test + n_body], operands[n_test + n_body :]

        def test(carry: list) -> Any:
            return self.body(params["cond_jaxpr"], [*for_test, *carry])[0]

        return jax.lax.while_loop(test, lambda carry: self.body(params["body_jaxpr"], [*for_body, *carry]), list(init))

    def body(self, closed: Any, operands: list) -> list:
        """The body or the test of a loop, in a branch if it does more than to read and write entries of vectors."""
        inside = functools.partial(_Form(self.large, self.depth + 1).frame, closed)
        return self.kept(inside, closed.jaxpr.outvars, operands) if _is_costly(closed.jaxpr) else inside(operands)


def _cost(call: Any) -> int:
    """No less than the cost that XLA finds for a call: two for an operation, ten for a byte read or written."""
    jaxpr = _jax.callee(call).jaxpr
    sizes = [math.prod(v.aval.shape) for inner in (jaxpr, *_inside(jaxpr)) for eqn in inner.eqns for v in eqn.outvars]
    moved = sum(v.aval.size * v.aval.dtype.itemsize for v in (*call.invars, *call.outvars))
    return 2 * sum(sizes) + 10 * moved


def _is_costly(jaxpr: Any) -> bool:
    return any(
        math.prod(v.aval.shape) > _FEW
        for inner in (jaxpr, *_inside(jaxpr))
        for eqn in inner.eqns
        for v in eqn.outvars
        if eqn.primitive.name not in ("dynamic_slice", "dynamic_update_slice")
    )


def _halved(join: Callable[[Any, Any], Any], neutral: Any, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """A reduction by halves: several entries at once, where the emitter goes one by one or wants a library."""
    for axis in axes:
        if neutral is not None:  # halves that do not overlap
            size = 1 << (x.shape[axis] - 1).bit_length()
            widths = [(0, (i == axis) * (size - n), 0) for i, n in enumerate(x.shape)]
            x = jax.lax.pad(x, np.asarray(neutral, x.dtype), widths)
        while (n := x.shape[axis]) > 1:
            half = (n + 1) // 2
            x = join(*(jax.lax.slice_in_dim(x, at, at + half, axis=axis) for at in (0, n - half)))
    return jnp.squeeze(x, axes)


def _summed_products(left: Any, right: Any, params: Any) -> jax.Array:
    """A small `dot_general` by sums of products: the emitter has no library to call."""
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    left, right = jnp.asarray(left), jnp.asarray(right)
    left_free = [i for i in range(left.ndim) if i not in (*left_sum, *left_batch)]
    right_free = [i for i in range(right.ndim) if i not in (*right_sum, *right_batch)]
    rows = jnp.transpose(left, (*left_batch, *left_free, *left_sum))
    columns = jnp.transpose(right, (*right_batch, *right_free, *right_sum))
    at = len(left_batch)
    rows = jnp.expand_dims(rows, tuple(range(at + len(left_free), at + len(left_free) + len(right_free))))
    columns = jnp.expand_dims(columns, tuple(range(at, at + len(left_free))))
    shape = jnp.broadcast_shapes(rows.shape, columns.shape)
    if math.prod(shape) > _MOST_PRODUCTS or not jnp.issubdtype(rows.dtype, jnp.floating):
        raise NotOnePiece(f"a product of {left.shape} and {right.shape}")
    wanted = params["preferred_element_type"] or jnp.result_type(left, right)
    return _halved(jnp.add, 0, rows * columns, tuple(range(len(shape) - len(left_sum), len(shape)))).astype(wanted)


def _cpu_of(params: Any) -> int:
    for i, platforms in enumerate(params["platforms"]):
        if platforms is None or "cpu" in platforms:
            return i
    raise NotOnePiece("platform_index")
