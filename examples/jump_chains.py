"""Many chains of one kernel side by side, in one compiled program: shared by the trans-dimensional examples."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from probinf.kernels.kernel import Density, Kernel
from probinf.kernels.running import with_key
from probinf.transformations.traces import Trace


class Chains(NamedTuple):
    """What the chains visited.

    Attributes:
        records: pytree of arrays (records, chains, ...): `see` of the states, warm-up left out.
        accepted: share of accepted moves.
        compile_seconds: time to trace and compile.
        run_seconds: time to run, warm-up included.
    """

    records: Any
    accepted: float
    compile_seconds: float
    run_seconds: float


def run_chains(
    kernel: Kernel,
    target: Density,
    starts: Any,
    see: Callable[[Any], Any],
    *,
    num_records: int,
    num_warmup: int,
    thin: int,
    seed: int,
) -> Chains:
    """Run vectorised chains: `lax.scan` over steps, `vmap` over chains, everything in one program.

    The program is compiled for half of the chains and runs twice at the same time, once on each of two cores: XLA does
    not spread the small operations of a loop over several.

    Args:
        kernel: one step of a chain.
        target: the density.
        starts: pytree of starting points with a leading axis over chains, an even number.
        see: what to keep of a state.
        num_records: states kept of each chain.
        num_warmup: records thrown away at the start.
        thin: steps from one record to the next.
        seed: integer.
    """
    num_chains = jax.tree.leaves(starts)[0].shape[0] // 2

    def take_step(position: Any, log_weight: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        state, info = kernel.step(target, Trace(position, log_weight))
        return state.slots, state.log_weight, info["accepted"]

    def once(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        keys = jax.random.split(key, num_chains)
        *states, accepted = jax.vmap(lambda k, *state: with_key(take_step, k, *state))(keys, *states)
        return tuple(states), accepted.mean()

    def record(states: Any, key: jax.Array) -> tuple[Any, Any]:
        states, accepted = jax.lax.scan(once, states, jax.random.split(key, thin))
        return states, (jax.vmap(see)(states[0]), accepted.mean())

    @jax.jit
    def run(key: jax.Array, positions: Any) -> Any:
        states = (positions, jax.vmap(target.log_density)(positions))
        # The warm-up is recorded too: a second loop for it would be compiled a second time.
        return jax.lax.scan(record, states, jax.random.split(key, num_warmup + num_records))[1]

    halves = [jax.tree.map(lambda x, i=i: x[i * num_chains : (i + 1) * num_chains], starts) for i in range(2)]
    keys = jax.random.split(jax.random.key(seed))
    begin = time.perf_counter()
    compiled = run.lower(keys[0], halves[0]).compile()
    middle = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda key, half: jax.block_until_ready(compiled(key, half)), keys, halves))
    end = time.perf_counter()
    kept = [jax.tree.map(lambda x: np.asarray(x)[num_warmup:], half) for half in done]
    records, accepted = jax.tree.map(lambda a, b: np.concatenate([a, b], axis=-1 if a.ndim == 1 else 1), *kept)
    accepted = float(accepted.mean())
    return Chains(records, accepted, middle - begin, end - middle)


def mean_and_error(values: np.ndarray, where: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean over records and chains and its standard error, from the differences between chains.

    Args:
        values: (records, chains, ...).
        where: (records, chains) which states count (a conditional expectation: a ratio, linearised); all by default.
    """
    weight = np.ones(values.shape[:2]) if where is None else where.astype(float)
    shaped = weight.reshape(*weight.shape, *(1,) * (values.ndim - 2))
    share, total = shaped.mean(0), (values * shaped).mean(0)
    mean = total.mean(0) / share.mean(0)
    residual = (total - mean * share) / share.mean(0)
    return mean, residual.std(0, ddof=1) / np.sqrt(values.shape[1])


def number_table(number: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of states with k = 0..most, and standard errors; `number` is (records, chains)."""
    per_chain = np.stack([(number == k).mean(0) for k in range(most + 1)])
    return per_chain.mean(1), per_chain.std(1, ddof=1) / np.sqrt(number.shape[1])
