"""Running sums and maxima and filled runs of a vector: the parts that resampling is made of, quick on CPU and in lanes.

XLA's own cumulative operations take 10 to 40 ns an element on CPU and a batched scatter more; a loop over scalars takes
2 ns. Short lanes of a `vmap` are laid end to end and go through the same loop, long ones take turns (`in_turn`):
a lane then costs about as much as a vector alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from probinf.native import native_form

_BLOCK = 16  # prefix sums inside a block are one small triangular matrix product
_SHORT = 64
_HUGE = 2**17  # from this length on memory counts
_LONG = 512  # from this length on lanes in turn are quicker than lanes end to end on CPU


# What `x[i]` does about negative indices would take a third of a loop's time.
_read = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
_write = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False)


def _doubled(x: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    """Prefix sum of a short vector by doubling: elementwise, so that native code does several at once."""
    step = 1
    while step < shape[0]:
        x = x + jnp.concatenate([jnp.zeros(step, x.dtype), x[:-step]])
        step *= 2
    return x


@native_form(_doubled)
def prefix_sum(x: jax.Array, *, block: int = _BLOCK) -> jax.Array:
    """Inclusive prefix sum of a vector (n,) by blocks: several times faster on CPU than XLA's own, and as accurate."""
    n = x.shape[0]
    blocks = -(-n // block)
    if blocks <= 2:
        return jnp.cumsum(x)
    padded = jnp.pad(x, (0, blocks * block - n)).reshape(blocks, block)
    # A GPU's usual products keep 11 bits of each number, too few for a sum of weights.
    inner = jnp.matmul(padded, jnp.triu(jnp.ones((block, block), x.dtype)), precision="highest")
    ends = prefix_sum(inner[:, -1], block=block)
    before = jnp.concatenate([jnp.zeros(1, x.dtype), ends[:-1]])
    return (inner + before[:, None]).reshape(-1)[:n]


def total(x: jax.Array) -> jax.Array:
    """Sum of a vector by blocks: in float32 a plain sum of a million numbers is off by many units in the last place."""
    n = x.shape[0]
    if n <= _SHORT:
        return jnp.sum(x)
    blocks = -(-n // _SHORT)
    return total(jnp.sum(jnp.pad(x, (0, blocks * _SHORT - n)).reshape(blocks, _SHORT), axis=1))


def running_sum(x: jax.Array) -> jax.Array:
    """Inclusive prefix sum of a vector of integers, modulo the size of their type."""
    return _running_sum(x[None])[0]


def running_max(x: jax.Array, bound: int) -> jax.Array:
    """Inclusive running maximum of a vector of int32 in 0..bound-1."""
    return _running_max(bound)(x[None])[0]


def _in_order(starts: jax.Array, live: jax.Array, least: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    """`latest` where the starts go up: whoever writes last stays."""
    places = shape[0]
    at = jnp.where(live, starts, places)

    def mark(i: Any, marks: jax.Array) -> jax.Array:
        return _write(marks, jnp.asarray(i, jnp.int32), _read(at, i))

    marks = jax.lax.fori_loop(0, at.shape[0], mark, jnp.zeros(places + 1, jnp.int32), unroll=4)
    marks = _write(marks, jnp.maximum(_read(marks, 0), least), 0)
    return _max_by_blocks(marks[:places], 8)


@native_form(_in_order)
def latest(starts: jax.Array, live: jax.Array, least: jax.Array, *, size: int) -> jax.Array:
    """For every position the largest index of those that start there or before.

    Args:
        starts: int32 in 0..size, (n,); what starts at `size` is nowhere.
        live: bool (n,): who does not is nowhere either.
        least: int32 in 0..n-1, an index that starts at 0 as well.
        size: number of positions.
    """
    return _latest(size)(starts[None], live[None], least.reshape(1, 1))[0]


def added(where: jax.Array, amounts: jax.Array, size: int) -> jax.Array:
    """The sum of the integers that go to each of `size` places; `where` holds int32 in 0..size-1."""
    return _added(size)(where[None], amounts[None])[0]


# -- lanes one after another -------------------------------------------------------------------------------------------

Half = Callable[[jax.Array, jax.Array, int], jax.Array]


def in_turn(half: Half) -> Half:
    """The deterministic half (uniforms, log weights, num) of a scheme, whose long lanes take turns on CPU.

    Each lane then is a vector that stays in cache, and no integer division finds out which lane an element is in: a
    factor of 1.5 to 2. Ancestors have no derivative with respect to either argument.
    """

    @functools.wraps(half)
    def run(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
        return _in_turn(half, num)(jax.lax.stop_gradient(uniforms), jax.lax.stop_gradient(log_weights))

    return run


@functools.lru_cache
def _in_turn(half: Half, num: int) -> Callable[..., jax.Array]:
    run = custom_vmap(lambda uniforms, log_weights: half(uniforms, log_weights, num))

    def together(*lanes: jax.Array) -> jax.Array:
        return jax.vmap(lambda uniforms, log_weights: half(uniforms, log_weights, num))(*lanes)

    @run.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *args: Any) -> tuple[jax.Array, bool]:
        lanes = _lanes(axis_size, in_batched, args)
        if lanes[1].shape[-1] < _LONG:
            return together(*lanes), True
        by_turns = functools.partial(jax.lax.map, lambda lane: run(*lane))
        return jax.lax.platform_dependent(*lanes, cpu=lambda *lanes: by_turns(lanes), default=together), True

    return run


def _lanes(axis_size: int, in_batched: list[bool], args: tuple[Any, ...]) -> list[jax.Array]:
    return [
        jnp.asarray(a) if b else jnp.broadcast_to(a, (axis_size, *a.shape))
        for a, b in zip(args, in_batched, strict=True)
    ]


# -- lanes laid end to end ---------------------------------------------------------------------------------------------


def _over_lanes(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of (lanes, n) arrays that `vmap` gives more lanes instead of one more axis."""
    run = custom_vmap(function)

    @run.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *args: Any) -> tuple[jax.Array, bool]:
        rows = _lanes(axis_size, in_batched, args)
        lanes = rows[0].shape[1]
        found = run(*(r.reshape(axis_size * lanes, r.shape[2]) for r in rows))
        return found.reshape(axis_size, lanes, found.shape[1]), True

    return run


def _loop(step: Callable[[Any, Any], Any], x: jax.Array) -> jax.Array:
    def body(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        last, x = carry
        now = step(last, _read(x, i))
        return now, _write(x, now, i)

    return jax.lax.fori_loop(0, x.shape[0], body, (jnp.zeros((), x.dtype), x))[1]


def _flat_sum(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, cpu=lambda x: _loop(jnp.add, x), default=jnp.cumsum)


def _flat_max(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, cpu=_largest_so_far, default=jax.lax.cummax)


def _largest_so_far(x: jax.Array) -> jax.Array:
    """Running maximum of numbers from 0 up, (n,), in the form that is quickest for its length."""
    n = x.shape[0]
    if n < _LONG:
        return _loop(jnp.maximum, x)
    return _max_by_blocks(x, 8 if n < _HUGE else 4)  # every doubling is one more copy of x


def _max_by_blocks(x: jax.Array, width: int) -> jax.Array:
    """Running maximum of numbers from 0 up: side by side in blocks of a power of two, and a loop over their ends."""
    n, shift = x.shape[0], 1
    blocks = jnp.pad(x, (0, -n % width)).reshape(-1, width)
    while shift < width:
        blocks = jnp.maximum(blocks, jnp.pad(blocks[:, :-shift], ((0, 0), (shift, 0))))
        shift *= 2
    ends = _loop(jnp.maximum, blocks[:, -1])
    before = jnp.concatenate([jnp.zeros(1, x.dtype), ends[:-1]])
    return jnp.maximum(blocks, before[:, None]).reshape(-1)[:n]


def _offsets(lanes: int, size: int) -> jax.Array:
    assert lanes * size < 2**31, f"{lanes} lanes of {size} elements need more than 32 bits of index"
    return (jnp.arange(lanes, dtype=jnp.int32) * size)[:, None]


@_over_lanes
def _running_sum(x: jax.Array) -> jax.Array:
    lanes, n = x.shape
    flat = _flat_sum(x.reshape(lanes * n)).reshape(lanes, n)
    # Integers wrap around, so that what the lanes before have added is taken away exactly.
    before = jnp.concatenate([jnp.zeros((1, 1), x.dtype), flat[:-1, -1:]]) if n else jnp.zeros((lanes, 1), x.dtype)
    return flat - before


@functools.lru_cache
def _running_max(bound: int) -> Callable[..., jax.Array]:
    @_over_lanes
    def run(x: jax.Array) -> jax.Array:
        lanes, n = x.shape
        offsets = _offsets(lanes, bound)
        return _flat_max((x + offsets).reshape(lanes * n)).reshape(lanes, n) - offsets

    return run


_ENTRIES = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)


@functools.lru_cache
def _latest(size: int) -> Callable[..., jax.Array]:
    @_over_lanes
    def run(starts: jax.Array, live: jax.Array, least: jax.Array) -> jax.Array:
        (lanes, n), places = starts.shape, size + 1
        offsets = _offsets(lanes, n)
        index = jnp.arange(lanes * n, dtype=jnp.int32)
        if lanes * n < _HUGE:
            at = (starts + _offsets(lanes, places)).reshape(-1)
            index = jnp.where(live.reshape(-1), index, (jnp.zeros_like(starts) + offsets).reshape(-1))
            now = jnp.zeros((), jnp.int32)
        else:  # slower, with fewer copies
            at = (jnp.where(live, starts, size) + _offsets(lanes, places)).reshape(-1)
            # Zero, from a few of the positions: what it is added to is not made, and takes no memory, before they are.
            now = jnp.minimum(jnp.min(jax.lax.dynamic_slice_in_dim(at, at[-1] // 2, 16)), 0)
            index = index + now
        # The first place of every lane is at least the lane's own zero, which is above the lane before.
        marks = jnp.broadcast_to(offsets + now, (lanes, places)).reshape(-1)
        # What `at[...]` does about negative positions would be one more array of them.
        mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
        marks = jax.lax.scatter_max(marks, at[:, None], index, _ENTRIES, mode=mode)
        marks = marks.at[_offsets(lanes, places)[:, 0]].max((least + offsets)[:, 0], mode="promise_in_bounds")
        return _flat_max(marks).reshape(lanes, places)[:, :size] - offsets

    return run


@functools.lru_cache
def _added(size: int) -> Callable[..., jax.Array]:
    @_over_lanes
    def run(where: jax.Array, amounts: jax.Array) -> jax.Array:
        lanes = where.shape[0]
        at = (where + _offsets(lanes, size)).reshape(-1)
        counts = jnp.zeros(lanes * size, amounts.dtype).at[at].add(amounts.reshape(-1), mode="promise_in_bounds")
        return counts.reshape(lanes, size)

    return run
