"""Cheap JAX primitives evaluated by NumPy, with or without a leading axis of worlds.

Enumeration meets many small arrays of ever new shapes; compiling an addition for each of them costs thousands of times
more than the addition. Whatever is not in the tables below is left to JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if len(cases) == 2:
        return np.where(which.astype(bool), cases[1], cases[0])
    return np.choose(which, cases)


#: Elementwise primitives: operands of one shape, the result has the dtype that JAX gives it.
_ELEMENTWISE: dict[str, Callable] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "is_finite": np.isfinite,
    "stop_gradient": np.positive,
    "copy": np.positive,
    "select_n": _select,
}
_LOGICAL: dict[str, Callable] = {"and": np.logical_and, "or": np.logical_or, "not": np.logical_not}
_REDUCTIONS: dict[str, Callable] = {
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_and": np.all,
    "reduce_or": np.any,
}


def _dynamic_slice(sizes: Sequence[int], operands: Sequence[np.ndarray], batched: Sequence[bool]) -> np.ndarray:
    x, *starts = operands
    lead = int(any(batched))
    rank = len(sizes)
    worlds = max((a.shape[0] for a, b in zip(operands, batched, strict=True) if b), default=1)
    index = []
    for axis, (start, is_batched) in enumerate(zip(starts, batched[1:], strict=True)):
        low = np.clip(start.astype(np.int64), 0, x.shape[axis + batched[0]] - sizes[axis])
        low = low.reshape((-1,) * is_batched + (1,) * (rank + lead - is_batched))
        ramp = np.arange(sizes[axis]).reshape([1] * lead + [-1 if a == axis else 1 for a in range(rank)])
        index.append(low + ramp)
    if batched[0]:
        index.insert(0, np.arange(worlds).reshape(-1, *(1,) * rank))
    found = x[tuple(index)]
    return np.broadcast_to(found, (worlds, *sizes)) if lead else found


def on_host(name: str, params: dict[str, Any], operands: Sequence[np.ndarray], batched: Sequence[bool]) -> Any | None:
    """The result of one primitive, or None when JAX has to compute it.

    Args:
        name: the primitive's name.
        params: its parameters.
        operands: NumPy arrays.
        batched: which operands have a leading axis of worlds; the result has one when any has.
    """
    if not all(x.dtype.kind in "biuf" for x in operands):
        return None
    lead = int(any(batched))
    if name == "iota":
        shape, axis = params["shape"], params["dimension"]
        ramp = np.arange(shape[axis], dtype=params["dtype"]).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
        return np.broadcast_to(ramp, shape)
    if name == "dynamic_slice":
        return _dynamic_slice(params["slice_sizes"], operands, batched)
    # Ranks are equal without the leading axis; only the predicate of a select may be a scalar.
    rank = max((x.ndim - b for x, b in zip(operands, batched, strict=True)), default=0)
    aligned = [
        x.reshape((x.shape[0] if b else 1,) * lead + (1,) * (rank - x.ndim + b) + x.shape[b:])
        for x, b in zip(operands, batched, strict=True)
    ]
    with np.errstate(all="ignore"):
        if name in _ELEMENTWISE:
            if any(x.dtype.kind == "b" for x in aligned) and name in ("neg", "abs", "stop_gradient", "copy"):
                return None
            return _ELEMENTWISE[name](*aligned)
        if name in _LOGICAL and all(x.dtype == bool for x in aligned):
            return _LOGICAL[name](*aligned)
        if name == "div" and aligned[0].dtype.kind == "f":
            return np.divide(*aligned)
        if name == "convert_element_type" and np.dtype(params["new_dtype"]).kind in "biuf":
            (x,) = aligned
            # Floats outside of the integers' range saturate in XLA and wrap in NumPy.
            if x.dtype.kind == "f" and np.dtype(params["new_dtype"]).kind in "iu":
                return None
            return x.astype(params["new_dtype"])
        if name in _REDUCTIONS:
            (x,) = aligned
            axes = tuple(a + lead for a in params["axes"])
            if any(x.shape[a] == 0 for a in axes):
                return None
            reduced = _REDUCTIONS[name](x, axis=axes)
            return reduced.astype(x.dtype) if name == "reduce_sum" else reduced
        if name == "broadcast_in_dim" and len(operands) == 1:
            (x,) = aligned
            shape = [1] * len(params["shape"])
            for axis, size in zip(params["broadcast_dimensions"], x.shape[lead:], strict=True):
                shape[axis] = size
            return np.broadcast_to(x.reshape((*x.shape[:lead], *shape)), (*x.shape[:lead], *params["shape"]))
        if name == "rem":
            return np.fmod(*aligned)
        if name == "cumsum" and not params["reverse"]:
            return np.cumsum(aligned[0], axis=params["axis"] + lead, dtype=aligned[0].dtype)
        if name == "slice":
            strides = params["strides"] or (1,) * len(params["start_indices"])
            cuts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
            return aligned[0][(slice(None),) * lead + tuple(slice(*c) for c in cuts)]
        if name == "concatenate":
            worlds = max((x.shape[0] for x in aligned), default=1) if lead else 0
            full = [np.broadcast_to(x, (worlds, *x.shape[1:])) if lead else x for x in aligned]
            return np.concatenate(full, axis=params["dimension"] + lead)
        if name == "squeeze":
            return np.squeeze(aligned[0], axis=tuple(a + lead for a in params["dimensions"]))
        if name == "reshape" and params["dimensions"] is None and len(operands) == 1:
            return aligned[0].reshape((*aligned[0].shape[:lead], *params["new_sizes"]))
    return None
