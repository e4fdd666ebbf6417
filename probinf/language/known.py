"""What is known of a staged program before anything is drawn or compiled.

Values that depend on arguments and data alone are worked out on the host with NumPy; values that depend on draws are
followed as ranges. The first finds NaN in data and impossible parameters at the door, the second finds parameters that
some draw can make impossible (`Normal(0, sigma)` where sigma may be negative). Whatever is not in the tables below is
unknown, and nothing is said about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.language.primitives import STATEMENTS, deterministic_p, sample_p
from probinf.language.sites import has_statements


@dataclasses.dataclass(frozen=True)
class Range:
    """All values between two bounds, each of which is approached by some draw of the sites.

    Attributes:
        low: lower bound, perhaps -inf.
        high: upper bound, perhaps inf.
        sites: the sites whose draws decide.
    """

    low: float
    high: float
    sites: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A known value in every iteration of a loop, along the first axis."""

    array: np.ndarray


#: A known array, a known array per iteration, a range, or None for unknown.
Value = Any


@dataclasses.dataclass
class Findings:
    """What a pass over a program found.

    Attributes:
        statements: the statements that are certainly reached, with what is known of their operands.
        indefinite: known matrices without a Cholesky factor.
        stray: known indices beyond the axis they index: the equation, the indices, the axis's size.
    """

    statements: list[tuple[Any, list[Value]]] = dataclasses.field(default_factory=list)
    indefinite: list[np.ndarray] = dataclasses.field(default_factory=list)
    stray: list[tuple[Any, np.ndarray, int]] = dataclasses.field(default_factory=list)


def findings(closed: _jax.ClosedJaxpr, operands: Sequence[Any]) -> Findings:
    """One pass over a program.

    Branches of a conditional and bodies of while loops are left out: they may never run.
    """
    found = Findings()
    wanted = [False] * len(closed.jaxpr.outvars)
    _frame(closed.jaxpr, closed.consts, [_host(x) for x in operands], wanted, found)
    return found


def _host(x: Any) -> Value:
    if isinstance(x, _jax.Tracer) or jnp.issubdtype(getattr(x, "dtype", np.float64), jax.dtypes.extended):
        return None
    return np.asarray(x)


def _frame(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Value], wanted: Sequence[bool], found: Findings
) -> list[Value]:
    needed = {v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and not isinstance(v, _jax.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if has_statements(eqn) or any(v in needed for v in eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, _jax.Literal))
    env: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
    env.update((v, _host(c)) for v, c in zip(jaxpr.constvars, consts, strict=True) if v in needed)

    def read(v: Any) -> Value:
        return _jax.literal_value(v) if isinstance(v, _jax.Literal) else env.get(v)

    for eqn in jaxpr.eqns:
        if not has_statements(eqn) and not any(v in needed for v in eqn.outvars):
            continue
        results = _equation(eqn, [read(v) for v in eqn.invars], [v in needed for v in eqn.outvars], found)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) if w else None for v, w in zip(jaxpr.outvars, wanted, strict=True)]


def _equation(eqn: Any, operands: list[Value], wanted: list[bool], found: Findings) -> list[Value]:
    unknown: list[Value] = [None] * len(eqn.outvars)
    if eqn.primitive in STATEMENTS:
        found.statements.append((eqn, operands))
        if eqn.primitive is sample_p:
            return [range_of(eqn.params["site"])]
        return [operands[0]] if eqn.primitive is deterministic_p else []
    if eqn.primitive in _jax.CALLS:
        inner = _jax.callee(eqn)
        if eqn.params.get("name") == "cholesky" and isinstance(operands[0], np.ndarray) and _is_skew(operands[0]):
            # JAX takes the symmetric part of whatever it is given.
            found.indefinite.append(operands[0])
            return [np.full(operands[0].shape, np.nan)]
        return _frame(inner.jaxpr, inner.consts, operands, wanted, found)
    if eqn.primitive is _jax.scan_p:
        if not has_statements(eqn):
            return unknown
        p = eqn.params
        (n_consts, n_carry), body = _jax.scan_counts(p), p["jaxpr"]
        slices = [Stacked(x) if isinstance(x, np.ndarray) else _whole(x) for x in operands[n_consts + n_carry :]]
        # A carry that the body hands on untouched keeps its value.
        first = body.jaxpr.invars[n_consts : n_consts + n_carry]
        carry = [
            x if out is var else None
            for x, var, out in zip(operands[n_consts : n_consts + n_carry], first, body.jaxpr.outvars, strict=False)
        ]
        _frame(body.jaxpr, body.consts, [*operands[:n_consts], *carry, *slices], [False] * len(unknown), found)
        return unknown
    if eqn.primitive.name == "gather" and isinstance(operands[1], np.ndarray):
        _check_indices(eqn, operands[1], found)
    if len(eqn.outvars) != 1 or any(x is None for x in operands):
        return unknown
    if eqn.primitive.name == "iota":
        shape, axis = eqn.params["shape"], eqn.params["dimension"]
        return [_broadcast(np.arange(shape[axis], dtype=eqn.params["dtype"]), tuple(map(int, shape)), (axis,))]
    if eqn.primitive.name == "cholesky" and isinstance(operands[0], np.ndarray):
        return [_cholesky(operands[0], found)]
    return [_apply(eqn.primitive.name, eqn.params, operands)]


def _check_indices(eqn: Any, indices: np.ndarray, found: Findings) -> None:
    """Indices that no axis has, which JAX takes for the nearest that it has; negative ones are counted from the end."""
    if eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP:  # asked for by name
        return
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    for column, axis in enumerate(eqn.params["dimension_numbers"].start_index_map):
        chosen = indices[..., column]
        if chosen.size and (chosen.min() < 0 or chosen.max() > shape[axis] - sizes[axis]):
            found.stray.append((eqn, chosen, shape[axis]))


def _is_skew(matrix: np.ndarray) -> bool:
    mirror = np.swapaxes(matrix, -1, -2)
    return bool((np.abs(matrix - mirror) > 1e-5 * np.abs(matrix).max(initial=0.0)).any())


def _cholesky(matrix: np.ndarray, found: Findings) -> np.ndarray:
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        found.indefinite.append(matrix)
        return np.full(matrix.shape, np.nan)


# -- tables ------------------------------------------------------------------------------------------------------------

#: Increasing functions: name -> (function, least argument).
_INCREASING: dict[str, tuple[Callable, float]] = {
    "exp": (np.exp, -np.inf),
    "exp2": (np.exp2, -np.inf),
    "log": (np.log, 0.0),
    "log1p": (np.log1p, -1.0),
    "expm1": (np.expm1, -np.inf),
    "sqrt": (np.sqrt, 0.0),
    "tanh": (np.tanh, -np.inf),
    "logistic": (lambda x: 1.0 / (1.0 + np.exp(-x)), -np.inf),
    "sign": (np.sign, -np.inf),
    "floor": (np.floor, -np.inf),
    "ceil": (np.ceil, -np.inf),
    "copy": (lambda x: x, -np.inf),
    "copy_p": (lambda x: x, -np.inf),
    "stop_gradient": (lambda x: x, -np.inf),
}
_BINARY: dict[str, Callable] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: a // b if a.dtype.kind in "iu" else a / b,
    "max": np.maximum,
    "min": np.minimum,
}
_COMPARISONS: dict[str, Callable] = {
    "gt": np.greater,
    "lt": np.less,
    "ge": np.greater_equal,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}
_REDUCTIONS = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min, "reduce_prod": np.prod}
_MOVES: dict[str, Callable[[np.ndarray, dict], np.ndarray]] = {
    "reshape": lambda x, p: x.reshape(p["new_sizes"]),
    "squeeze": lambda x, p: np.squeeze(x, p["dimensions"]),
    "transpose": lambda x, p: np.transpose(x, p["permutation"]),
    "slice": lambda x, p: x[tuple(map(slice, p["start_indices"], p["limit_indices"], p["strides"] or (1,) * x.ndim))],
    "rev": lambda x, p: np.flip(x, p["dimensions"]),
    "broadcast_in_dim": lambda x, p: _broadcast(x, *(tuple(map(int, p[k])) for k in ("shape", "broadcast_dimensions"))),
}


def _broadcast(x: np.ndarray, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> np.ndarray:
    sizes = [1] * len(shape)
    for axis, size in zip(dimensions, x.shape, strict=True):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def _apply(name: str, params: dict, operands: list[Value]) -> Value:
    with np.errstate(all="ignore"):
        if all(isinstance(x, np.ndarray | np.generic) for x in operands):
            result = _on_arrays(name, params, [np.asarray(x) for x in operands])
            return None if result is None else np.asarray(result)  # NumPy makes scalars of arrays without axes
        is_elementwise = name in _INCREASING or name in ("neg", "convert_element_type", "abs")
        if isinstance(operands[0], Stacked) and is_elementwise:
            return Stacked(_on_arrays(name, params, [operands[0].array]))
        return _on_ranges(name, params, [_whole(x) for x in operands])


def _on_arrays(name: str, params: dict, xs: list[np.ndarray]) -> Value:
    if name in _INCREASING:
        return _INCREASING[name][0](xs[0])
    if name in _MOVES:
        return _MOVES[name](xs[0], params)
    if name in _BINARY:
        return _BINARY[name](*xs)
    if name in _COMPARISONS:
        return _COMPARISONS[name](*xs)
    if name in _REDUCTIONS:
        return np.asarray(_REDUCTIONS[name](xs[0], axis=tuple(params["axes"])))
    if name == "convert_element_type":
        dtype = params["new_dtype"]
        return None if jnp.issubdtype(dtype, jax.dtypes.extended) else xs[0].astype(dtype)
    if name == "neg":
        return -xs[0]
    if name == "abs":
        return np.abs(xs[0])
    if name == "not":
        return ~xs[0]
    if name == "is_finite":
        return np.isfinite(xs[0])
    if name == "integer_pow":
        return xs[0] ** np.asarray(params["y"], xs[0].dtype) if params["y"] >= 0 or xs[0].dtype.kind == "f" else None
    if name == "concatenate":
        return np.concatenate(xs, axis=params["dimension"])
    if name == "select_n" and xs[0].dtype == bool and len(xs) == 3:
        return np.where(xs[0], xs[2], xs[1])
    return None


def _whole(x: Value) -> Range | None:
    """A known array as the range of its entries."""
    if x is None or isinstance(x, Range):
        return x
    array = x.array if isinstance(x, Stacked) else np.asarray(x)
    if array.size == 0 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        return None
    return Range(float(array.min()), float(array.max()))


def _on_ranges(name: str, params: dict, xs: list[Range | None]) -> Range | None:
    if name in ("gather", "dynamic_slice"):
        return xs[0]
    if any(x is None for x in xs):
        return None
    ends: list[Range] = [x for x in xs if x is not None]
    x = ends[0]
    if name in _INCREASING:
        function, least = _INCREASING[name]
        if x.low < least:
            return None
        return Range(float(function(x.low)), float(function(x.high)), x.sites)
    if name in _MOVES or name in ("convert_element_type", "reduce_max", "reduce_min"):
        return x
    if name == "neg":
        return Range(-x.high, -x.low, x.sites)
    if name in ("abs", "square") or (name == "integer_pow" and params["y"] > 0 and params["y"] % 2 == 0):
        power = 1 if name == "abs" else 2 if name == "square" else params["y"]
        low, high = sorted((abs(x.low), abs(x.high)))
        with np.errstate(over="ignore"):  # NumPy's powers overflow to infinity, Python's raise
            powers = [float(np.float64(end) ** power) for end in (low, high)]
        return Range(0.0 if x.low <= 0 <= x.high else powers[0], powers[1], x.sites)
    if name in _BINARY and len(ends) == 2 and not ends[0].sites & ends[1].sites:
        return _combined(name, *ends)
    return None


def _combined(name: str, a: Range, b: Range) -> Range | None:
    if name == "div" and b.low <= 0 <= b.high and not (b.low == 0 and b.sites):
        return None
    if name == "div" and b.low <= 0:
        b = Range(np.finfo(float).tiny, b.high, b.sites)  # zero itself is not drawn
    corners = [float(_BINARY[name](np.float64(p), np.float64(q))) for p in (a.low, a.high) for q in (b.low, b.high)]
    corners = [0.0 if np.isnan(c) and name == "mul" else c for c in corners]  # 0 * inf: the bound zero times a draw
    if any(np.isnan(c) for c in corners):
        return None
    return Range(min(corners), max(corners), a.sites | b.sites)


def range_of(site: Any) -> Range | None:
    """The values that a draw of a site can take."""
    bounds = bounds_of(site.support)
    return None if bounds is None or not site.name else Range(*bounds, frozenset({site.name}))


def bounds_of(constraint: Any) -> tuple[float, float] | None:
    """The scalar bounds of a constraint; None where it has none or they are not known."""
    c = dist.constraints
    while isinstance(constraint, c.independent):
        constraint = constraint.base_constraint
    if constraint is None:
        return None
    if isinstance(constraint, type(c.real) | type(c.real_vector) | type(c.ordered_vector)):
        return -np.inf, np.inf
    if isinstance(constraint, type(c.simplex) | type(c.boolean)):
        return 0.0, 1.0
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    if low is None and high is None:
        return None
    ends = []
    for bound, default in ((low, -np.inf), (high, np.inf)):
        if isinstance(bound, _jax.Tracer):
            return None
        distinct = np.unique(np.asarray(default if bound is None else bound))
        if len(distinct) != 1:  # entries with bounds of their own: a slice may hold the harmless ones
            return None
        ends.append(float(distinct[0]))
    return ends[0], ends[1]
