"""Sweeps on the host: one population after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smc.steering.box import BlackBox
from smc.steering.core import Plan
from smc.steering.host import run_host
from smc.steering.sweeps import Path, Sweeps, conditional, lineage_of, swap, swap_rate


def sweeps_host(box: BlackBox, plan: Plan, key: jax.Array, powers: jax.Array, num_sweeps: int) -> Sweeps:
    """The sweeps of `tempered_sweeps` with lists for arrays."""
    chains = len(powers)
    paths: list[Any] = [None] * chains
    kept: list[Path] = []
    accepted, calls, log_evidence = [], np.zeros(2, int), None
    for s in range(num_sweeps):
        key, key_sweep, key_swap = jax.random.split(key, 3)
        for k, key_chain in enumerate(jax.random.split(key_sweep, chains)):
            key_run, key_draw = jax.random.split(key_chain)
            held = None if paths[k] is None else padded(paths[k].states, plan.max_steps)
            run = run_host(
                box, plan if held is None else conditional(plan), key_run, reference=held, power=float(powers[k])
            )
            index = jax.random.categorical(key_draw, run.log_weights)
            lineage = np.asarray(lineage_of(run.ancestors, index))
            states = [run.history[t][i] for t, i in enumerate(lineage)]
            paths[k] = Path(states, run.log_potential[index], run.scores[index])
            calls += [int(run.generator_calls), int(run.judge_calls)]
            log_evidence = run.log_evidence if log_evidence is None else log_evidence
        if s:
            order, wins = swap(
                key_swap, jnp.stack([p.log_potential for p in paths]), powers, jnp.asarray(s - 1, jnp.int32)
            )
            paths = [paths[int(i)] for i in order]
            accepted.append(wins)
        kept.append(paths[0])
    assert log_evidence is not None
    rows = jnp.stack(accepted) if accepted else jnp.zeros((0, chains), bool)
    return Sweeps(
        [path.states for path in kept],
        jnp.stack([path.log_potential for path in kept]),
        jnp.stack([path.score for path in kept]),
        log_evidence,
        swap_rate(rows),
        jnp.asarray(calls[0], jnp.int32),
        jnp.asarray(calls[1], jnp.int32),
    )


def padded(states: list[Any], length: int) -> list[Any]:
    """A path of full length: a finished state stays as it is."""
    return states + [states[-1]] * (length - len(states))
