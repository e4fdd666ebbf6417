"""One sweep of particle Gibbs from exact draws on the three-letter toy, and three mistakes that it can have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import smc
from smc.steering import sweeps, traced
from smc.steering.core import Budget, Plan

POTENTIAL = smc.Potential("exp", "step")


def sweep_codes(
    box: smc.BlackBox, paths: np.ndarray, target: np.ndarray, rule: Any, runs: int, seed: int
) -> np.ndarray:
    """Index of the path after one sweep of N = 4 from an exact draw, (runs,)."""
    steps = paths.shape[1]
    plan = Plan(4, steps, POTENTIAL, rule, Budget())
    drawn = np.random.default_rng(seed).choice(len(paths), runs, p=target)
    states = (
        jnp.asarray(paths[drawn], jnp.int32),
        jnp.broadcast_to(jnp.arange(1, steps + 1, dtype=jnp.int32), (runs, steps)),
    )
    start = sweeps.Path(states, jnp.zeros(runs), jnp.zeros(runs))
    one = jnp.ones((), jnp.result_type(float))

    def step(key: Any, path: Any) -> Any:
        return sweeps.sweep(box, plan, key, path, one)[0].states[0]

    found = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(seed), runs), start)
    return np.asarray(found) @ 3 ** np.arange(steps - 1, -1, -1)


@contextlib.contextmanager
def scored_late() -> Iterator[None]:
    """The reference carries the score of its previous state."""
    original = traced.weigh

    def weigh(plan: Any, before: Any, scores: Any, finished: Any, failed: Any, step: Any, power: Any) -> Any:
        late = jnp.where(step > 1, before.scores[0], scores[0])
        return original(plan, before, scores.at[0].set(late), finished, failed, step, power)

    with mock.patch.object(traced, "weigh", weigh):
        yield


@contextlib.contextmanager
def last_twice() -> Iterator[None]:
    """The next reference is drawn by the final weights times the last potential."""

    def draw(key: Any, records: Any) -> Any:
        return jax.random.categorical(key, records.log_weights[-1] + records.scores[-1])

    with mock.patch.object(sweeps, "draw_reference", draw):
        yield


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """Resampling may give the reference's place another ancestor."""
    with mock.patch.object(sweeps, "conditional", lambda plan: plan):
        yield


MUTANTS = {
    "scored one step late": scored_late,
    "last potential used twice": last_twice,
    "replaced in resampling": replaced,
}
