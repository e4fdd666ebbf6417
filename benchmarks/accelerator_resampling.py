"""Systematic resampling on an accelerator: ours and other formulations of it, and what is lost to rounding.

A formulation is a way to the cumulative weights and a way from there to the ancestors. In all of them a particle of
weight zero has no child. Every one runs in a compiled loop whose turns depend on each other, as in a filter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_timing import bandwidth, compiled, in_turn
from benchmarks.record import Row, quartiles
from probinf.transformations.ancestors import ancestors_from_run_ends, weights_from_log
from probinf.transformations.resampling import SCHEMES
from probinf.transformations.running import added, prefix_sum, running_sum

_WIDTH = 4

Resample = Callable[[jax.Array, jax.Array], jax.Array]  # uniform number, log weights -> ancestors


def in_rows(x: jax.Array, width: int = 1024) -> jax.Array:
    """`jnp.cumsum` of rows and of their ends: unlike one long sum it may be the same run after run."""
    n = x.shape[0]
    rows = jnp.pad(x, (0, -n % width)).reshape(-1, width)
    inner = jnp.cumsum(rows, axis=1)
    ends = jnp.cumsum(inner[:, -1]) if inner.shape[0] <= width else in_rows(inner[:, -1], width)
    before = jnp.concatenate([jnp.zeros(1, x.dtype), ends[:-1]])
    return (inner + before[:, None]).reshape(-1)[:n]


SUMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "blocks of 16": prefix_sum,
    "blocks of 128 in full float32": functools.partial(prefix_sum, block=128),
    "rows of 1,024": in_rows,
    "jnp.cumsum": jnp.cumsum,
}

# -- from the positions where runs of children end to ancestors; the weights say who is alive --------------------------


def by_counting(run_ends: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    """The number of runs that end at a position or before it is the index of the one that goes on there."""
    counts = added(run_ends, jnp.ones_like(run_ends), num + 1)[:num]
    return living(running_sum(counts), weights)


def by_search(run_ends: jax.Array, weights: jax.Array, num: int, method: str) -> jax.Array:
    """The first run that ends after the position, by as many looks at the ends as they have bits of index."""
    at = jnp.arange(num, dtype=jnp.int32)
    return living(jnp.searchsorted(run_ends, at, side="right", method=method).astype(jnp.int32), weights)


def living(found: jax.Array, weights: jax.Array) -> jax.Array:
    """Ancestors of weight zero, which only rounding makes, replaced by the live one before, or by the first."""
    alive = weights > 0
    first = jnp.argmax(alive).astype(jnp.int32)
    index = jnp.arange(weights.shape[0], dtype=jnp.int32)
    found = jnp.clip(found, first, weights.shape[0] - 1)

    def further(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found, back = carry
        return jnp.maximum(back[found], first), back[back]  # twice as far at every turn

    def some_dead(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(~jnp.take(alive, carry[0], mode="clip"))

    return jax.lax.while_loop(some_dead, further, (found, jnp.where(alive, index, jnp.maximum(index - 1, 0))))[0]


def by_rank(run_ends: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    """The living are numbered, and those whose runs begin at a position or before it counted; nothing is checked."""
    alive = (weights > 0).astype(jnp.int32)
    index = jnp.arange(weights.shape[0], dtype=jnp.int32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), run_ends[:-1]])
    rank = running_sum(added(starts, alive, num + 1)[:num])
    numbers = jnp.where(alive > 0, running_sum(alive), 0)
    names = added(numbers, jnp.where(alive > 0, index, 0), weights.shape[0] + 1)
    return jnp.take(names, jnp.maximum(rank, 1), mode="clip")


OWNERS: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "scattered maxima": ancestors_from_run_ends,
    "scattered counts": by_counting,
    "scattered counts of the living": by_rank,
    "binary search": functools.partial(by_search, method="scan_unrolled"),
    "sorting": functools.partial(by_search, method="sort"),
}


def formulation(sums: str, owners: str) -> Resample:
    """Systematic resampling by these two parts."""

    def run(uniform: jax.Array, log_weights: jax.Array) -> jax.Array:
        num = log_weights.shape[0]
        weights = weights_from_log(log_weights)
        cumulative = SUMS[sums](weights)
        run_ends = jnp.clip(jnp.ceil(num * (cumulative / cumulative[-1]) - uniform), 0, num).astype(jnp.int32)
        return OWNERS[owners](run_ends, weights, num)

    return run


def ours(uniform: jax.Array, log_weights: jax.Array) -> jax.Array:
    """The library's."""
    return SCHEMES["systematic"](jnp.zeros_like(log_weights), log_weights.shape[0]).from_uniforms(uniform, log_weights)


def plain(uniform: jax.Array, log_weights: jax.Array) -> jax.Array:
    """What one writes down first."""
    num = log_weights.shape[0]
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    points = (jnp.arange(num, dtype=log_weights.dtype) + uniform) / num
    return jnp.minimum(jnp.searchsorted(cumulative, points), num - 1).astype(jnp.int32)


_FEW = (
    ("blocks of 128 in full float32", "scattered maxima"),
    ("blocks of 128 in full float32", "scattered counts of the living"),
    ("blocks of 128 in full float32", "binary search"),
    ("rows of 1,024", "scattered counts"),
)
_MORE = (
    ("blocks of 128 in full float32", "scattered counts"),
    ("rows of 1,024", "binary search"),
    ("jnp.cumsum", "scattered counts"),
    ("jnp.cumsum", "sorting"),
)
_OURS, _PLAIN = "ours", "plain JAX, cumsum of softmax and searchsorted"


def formulations(*, few: bool = False) -> dict[str, Resample]:
    """By name; a few, or more."""
    pairs = _FEW if few else (*_FEW, *_MORE)
    return {_OURS: ours, **{", ".join(pair): formulation(*pair) for pair in pairs}, _PLAIN: plain}


def _given(size: int, seed: int, lanes: int | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Uniform numbers, log weights and states."""
    rng, shape = np.random.default_rng(seed), () if lanes is None else (lanes,)
    return (
        jnp.asarray(rng.random(shape), jnp.float32),
        jnp.asarray(rng.normal(0, 1, (*shape, size)), jnp.float32),
        jnp.asarray(rng.normal(size=(*shape, size, _WIDTH)), jnp.float32),
    )


def _loop(resample: Resample, turns: int, lanes: bool) -> Callable[..., Any]:
    def one(u: jax.Array, lw: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.take(x, resample(u, lw), axis=0, mode="clip")
        return lw + 1e-9 * x[:, 0], x

    step = jax.vmap(one) if lanes else one

    def run(u: jax.Array, lw: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        lw, x = jax.lax.fori_loop(0, turns, lambda _, carry: step(u, *carry), (lw, x))
        return lw.reshape(-1)[0], x.reshape(-1, _WIDTH)[0]  # the rest is let go

    return run


def against_memory(quick: bool, seed: int, size: int, lanes: int | None = None) -> Iterator[Row]:
    """Resampling and the gather of 4 float32 states over the time to move the bytes that it must move.

    The bytes are counted as in benchmarks/resampling_speed.py; `size` particles in each of `lanes` populations.
    """
    turns, runs = (2, 2) if quick else (20, 9)
    given, total = _given(size, seed, lanes), size * (lanes or 1)
    methods = formulations(few=lanes is not None or size not in (10_000, 1_000_000))
    programs = compiled({name: (_loop(f, turns, lanes is not None), given) for name, f in methods.items()})
    seconds, _ = in_turn({name: lambda _, run=run: run(*given) for name, run in programs.items()}, runs)
    once = {name: (jax.vmap(f) if lanes else f, given[:2]) for name, f in methods.items() if total <= 1_000_000}
    answers = {name: np.asarray(run(*given[:2])) for name, run in compiled(once).items()}
    bound = 4 * total * (2 + 2 + 2 + 2 * _WIDTH) / bandwidth(quick)
    where = f"N = {size:,}" if lanes is None else f"{lanes:,} populations of N = {size:,} under vmap"
    for name, taken in seconds.items():
        same = ""
        if name in answers and name != _OURS:
            same = f"; {np.sum(answers[name] != answers[_OURS])} of {total:,} ancestors differ from ours"
        yield Row(
            f"systematic resampling and gather of {_WIDTH} float32 states, {where}, {name}: time over the memory's "
            "bound",
            float(np.median(taken) / turns / bound),
            "ratio",
            3.0 if name == _OURS and size == 1_000_000 else None,
            peer=f"{1e6 * np.median(taken) / turns:.4g} us; bound {1e6 * bound:.4g} us at {bandwidth(quick) / 1e9:.4g} "
            f"GB/s; plain JAX takes {np.median(seconds[_PLAIN] / taken):.3g} times as long{same}",
            n=runs,
            spread=quartiles(taken / turns / bound),
        )


def one_population(quick: bool, seed: int) -> Iterator[Row]:
    """A million particles."""
    return against_memory(quick, seed, 10_000 if quick else 1_000_000)


def populations(quick: bool, seed: int) -> Iterator[Row]:
    """A thousand populations of a thousand."""
    return against_memory(quick, seed, *((100, 10) if quick else (1000, 1000)))


def large_population(quick: bool, seed: int) -> Iterator[Row]:
    """Ten million particles."""
    return against_memory(quick, seed, 20_000 if quick else 10_000_000)


def check(quick: bool, seed: int) -> Iterator[Row]:
    """Ancestors on the device beside those on the CPU, run after run, and the error of the cumulative weights."""
    size = 10_000 if quick else 100_000
    log_weights = np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)

    def drawn(resample: Resample) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda key, lw: resample(jax.random.uniform(key, dtype=jnp.float32), lw)

    def on(device: jax.Device, resample: Resample) -> np.ndarray:
        with jax.default_device(device):
            return np.asarray(jax.jit(drawn(resample))(jax.random.key(seed), jnp.asarray(log_weights)))

    apart = np.abs(on(jax.devices()[0], ours) - on(jax.devices("cpu")[0], ours))
    yield Row(
        f"ancestors by systematic resampling that differ from the CPU's, same key, N = {size:,}, {_OURS}",
        float(np.sum(apart > 0)),
        "ancestors",
        0.0,
        peer=f"at most {apart.max()} places apart; exp and sums round differently on another device",
    )

    size = 10_000 if quick else 1_000_000
    weights = np.exp(np.random.default_rng(seed).normal(0, 1, size)).astype(np.float32)
    exact = np.cumsum(weights, dtype=np.float64)
    for name, run in compiled({name: (sums, (jnp.asarray(weights),)) for name, sums in SUMS.items()}).items():
        found = [np.asarray(run(jnp.asarray(weights))) for _ in range(5)]
        scaled = size * (found[0].astype(np.float64) / found[0][-1] - exact / exact[-1])
        unlike = max(int(np.sum(f != found[0])) for f in found)
        yield Row(
            f"cumulative weights, N = {size:,}, {name}: worst error",
            float(np.abs(scaled).max()),
            "children",
            None,
            peer=f"median {np.median(np.abs(scaled)):.2g}; {unlike} of {size:,} sums differ between five runs",
        )
