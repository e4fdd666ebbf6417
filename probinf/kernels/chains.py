"""Several chains of one model, compiled once and advanced in pieces by the host."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.adaptation import Metric
from probinf.kernels.nuts import ChainState, Draws, Geometry, LogDensity, advance_chain, renew_scale, start_chain
from probinf.native import as_native, may_be_native, pruned

#: "native": one native function for each chain, chains in parallel threads (CPU). "vectorized": all chains in lockstep,
#: each gradient waiting for the longest tree. "auto": native where it can be compiled and pays.
ChainMethod = Literal["auto", "vectorized", "native"]

States = ChainState | list[ChainState]

#: From this dimension on a shared full scale is better read once for all chains than once for each.
_SHARED_SCALE_DIM = 600
_CACHE_SIZE = 64
_cache: OrderedDict[Hashable, Any] = OrderedDict()
_compilations = 0


def compilations() -> int:
    """How many programs the gradient samplers have compiled so far; a second run of a model must not change it."""
    return _compilations


def counted(function: Callable[..., Any]) -> Any:
    """`jax.jit(function)` that adds one to `compilations` whenever it is traced."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        global _compilations
        _compilations += 1
        return function(*args)

    return jax.jit(traced)


def cached(key: Hashable, build: Callable[[], Any]) -> Any:
    """The value stored under `key`, built on first use; the least recently used of 64 makes room."""
    if key not in _cache:
        _cache[key] = build()
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


class ChainPrograms:
    """The compiled programs of one model, metric and number of chains. Data and seeds are arguments, not parts of them.

    The states that `start`, `renew` and `advance` pass around are one `ChainState` with a leading axis, or a list of
    them where each chain runs by itself; treat them as opaque and read them with `gather`.

    Args:
        logdensity: function of (operands, x), x of shape (dim,), in nats.
        dim: number of unconstrained coordinates.
        num_chains: number of chains.
        metric: "diagonal", "dense" or "fixed".
        max_tree_depth: at most 2**max_tree_depth - 1 gradients a step.
        capacity: the longest piece, in steps.
        method: how chains share the machine.
        generator: implementation of the keys, as `jax.random.key(0, impl=...)` takes it.
    """

    def __init__(
        self,
        logdensity: LogDensity,
        dim: int,
        num_chains: int,
        metric: Metric,
        max_tree_depth: int,
        capacity: int,
        method: ChainMethod = "auto",
        generator: str = "threefry2x32",
    ) -> None:
        self.generator = generator
        self.num_chains, self.metric, self.capacity, self.method = num_chains, metric, capacity, method
        self.is_native = False
        logdensity = pruned(logdensity)
        self._logdensity, self._dim = logdensity, dim
        self._start_one = functools.partial(start_chain, logdensity, metric)
        self._renew_one = functools.partial(renew_scale, logdensity, metric)
        self._advance_one = functools.partial(advance_chain, logdensity, metric, max_tree_depth, capacity)
        self._start: Any = None
        self._renew: Any = None
        self._advance: Any = None

    def start(self, operands: Any, geometry: Geometry, z: Float[Array, "chains dim"]) -> States:
        """Chains at the given whitened positions that have learned nothing."""
        if self._advance is None:
            self._compile(operands, geometry, z)
        if self.is_native:
            return [self._start(operands, geometry, row) for row in z]
        return self._start(operands, geometry, z)

    def renew(self, operands: Any, geometry: Geometry, states: States) -> States:
        """End a warm-up window in every chain."""
        if self.is_native:
            return [self._renew(operands, geometry, state) for state in states]
        return self._renew(operands, geometry, states)

    def gather(self, states: States) -> ChainState:
        """All chains on the host: arrays with a leading axis of length `num_chains`."""
        if self.is_native:
            return jax.tree.map(lambda *leaves: np.stack(leaves), *states)
        return jax.tree.map(np.asarray, states)

    def scatter(self, gathered: ChainState) -> States:
        """The reverse of `gather`."""
        if self.is_native:
            return [jax.tree.map(lambda leaf, c=c: jnp.asarray(leaf[c]), gathered) for c in range(self.num_chains)]
        return jax.tree.map(jnp.asarray, gathered)

    def advance(
        self,
        operands: Any,
        geometry: Geometry,
        states: States,
        keys: Sequence[Array],
        *,
        target_acceptance: float,
        first_step: int,
        num_steps: int,
        is_adapting: bool = False,
        is_collecting: bool = False,
    ) -> tuple[States, Draws]:
        """Advance every chain by `num_steps` <= `capacity`.

        Args:
            operands: data of the model.
            geometry: the shared coordinates.
            states: the chains.
            keys: one key for each chain, the same in every call.
            target_acceptance: aim of the step size adaptation.
            first_step: number of steps that the chains have taken so far.
            num_steps: how many steps to take.
            is_adapting: adapt the step size.
            is_collecting: learn the scale.

        Returns:
            The chains, and their draws as host arrays of shape (chains, num_steps, ...).
        """
        common = (
            operands,
            geometry,
            np.asarray(target_acceptance, geometry.shift.dtype),
            np.asarray(first_step, np.int32),
            np.asarray(num_steps, np.int32),
            np.asarray(is_adapting),
            np.asarray(is_collecting),
        )
        if not self.is_native:
            states, draws = self._advance(*common, states, jnp.stack(list(keys)))
            return states, jax.tree.map(lambda rows: np.asarray(rows)[:, :num_steps], draws)

        def run(state: ChainState, key: Array) -> tuple[ChainState, Draws]:
            state, draws = self._advance(*common, state, key)
            return state, jax.tree.map(np.asarray, draws)

        results = in_threads([functools.partial(run, *chain) for chain in zip(states, keys, strict=True)])
        draws = jax.tree.map(lambda *rows: np.stack([row[:num_steps] for row in rows]), *[d for _, d in results])
        return [state for state, _ in results], draws

    def _compile(self, operands: Any, geometry: Geometry, z: Array) -> None:
        dtype, key = z.dtype, jax.random.key(0, impl=self.generator)
        scalars = (np.zeros((), dtype), np.int32(0), np.int32(0), np.asarray(False), np.asarray(False))
        common = (operands, geometry, *scalars)
        is_full = getattr(geometry.scale, "ndim", 1) == 2  # not a band, which is no array
        if self._wants_native(operands, dtype, is_full=is_full):
            state = jax.eval_shape(self._start_one, operands, geometry, z[0])
            try:
                self._advance = counted(as_native(self._advance_one)).lower(*common, state, key).compile()
                self.is_native = True
            except (jax.errors.JaxRuntimeError, NotImplementedError):
                pass  # the marks are undocumented: whatever the compiler says, the ordinary way remains
        if self.is_native:
            self._start, self._renew = counted(self._start_one), counted(self._renew_one)
            return
        self._start = counted(jax.vmap(self._start_one, in_axes=(None, None, 0)))
        self._renew = counted(jax.vmap(self._renew_one, in_axes=(None, None, 0)))
        states = jax.eval_shape(jax.vmap(self._start_one, in_axes=(None, None, 0)), operands, geometry, z)
        batched = jax.vmap(self._advance_one, in_axes=(None,) * len(common) + (0, 0))
        keys = jax.random.split(key, self.num_chains)
        self._advance = counted(batched).lower(*common, states, keys).compile()

    def _wants_native(self, operands: Any, dtype: Any, *, is_full: bool) -> bool:
        if self.method == "vectorized":
            return False
        if self.method == "auto" and is_full and self._dim >= _SHARED_SCALE_DIM:
            return False
        x = jax.ShapeDtypeStruct((self._dim,), dtype)
        return may_be_native(jax.grad(self._logdensity, argnums=1), operands, x)


def in_threads(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run jobs side by side: compiled code releases the interpreter. An interrupt waits for the jobs to end."""
    if len(jobs) == 1:
        return [jobs[0]()]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(len(jobs), available)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
