"""What the groups of `accelerator.py` share: programs compiled together, calls timed in turn, the memory's speed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

K = TypeVar("K")


def compiled(programs: Mapping[K, tuple[Callable, tuple]]) -> dict[K, Any]:
    """Functions with example arguments, compiled side by side.

    Traced they are one after another: NumPyro's handlers keep one stack for all threads.
    """
    lowered = [jax.jit(function).lower(*args) for function, args in programs.values()]
    with ThreadPoolExecutor(min(12, os.cpu_count() or 1)) as pool:
        return dict(zip(programs, pool.map(lambda program: program.compile(), lowered), strict=True))


def in_turn(calls: Mapping[str, Callable[[int], Any]], runs: int) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Wall seconds and results of call k = 1..runs of each, turn by turn; turn 0 warms up."""
    seconds, found = {name: [] for name in calls}, {name: [] for name in calls}
    for k in range(runs + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            result = jax.block_until_ready(call(k))
            if k:
                seconds[name].append(time.perf_counter() - began)
                found[name].append(result)
    return {name: np.array(taken) for name, taken in seconds.items()}, found


@functools.lru_cache
def bandwidth(quick: bool) -> float:
    """Bytes a second, read and written, of a large copy on the device; in place, so that no pages are fresh."""
    turns = 4 if quick else 20
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = copy(jnp.zeros(2**22 if quick else 2**27, jnp.float32))
    taken = []
    for _ in range(3 if quick else 7):
        x = jax.block_until_ready(copy(x))
        began = time.perf_counter()
        for _ in range(turns):
            x = copy(x)
        jax.block_until_ready(x)
        taken.append(time.perf_counter() - began)
    return 2 * turns * x.nbytes / float(np.median(taken))


def peak_bytes() -> int | None:
    """The most that the device has held so far in this process; None where it does not tell."""
    stats = jax.devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")
