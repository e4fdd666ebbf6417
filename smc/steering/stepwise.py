"""Traced steps taken one by one, so that a run can be saved, stopped and resumed between them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import DataError
from probinf.progress import Progress
from smc.steering.box import BlackBox
from smc.steering.core import Plan, Record, start
from smc.steering.host import restore_weighted
from smc.steering.run import SteeringRun
from smc.steering.saved import load, save, settings_of
from smc.steering.traced import advance_jit, first_states


def run_stepwise(box: BlackBox, plan: Plan, key: jax.Array, path: str | os.PathLike[str]) -> SteeringRun:
    """The run of `run_traced`, one compiled step at a time, with a file after each.

    Raises:
        DataError: the file is corrupt or belongs to another run.
    """
    from smc.steering.steer import assemble

    settings = settings_of(plan, key, "traced")
    states, now = first_states(box, plan.num_particles), start(plan)
    history: list[Any] = []
    records: list[Record] = []
    found = load(path, settings)
    if found is not None:
        arrays, _ = found
        now = restore_weighted(arrays, plan)
        records = [
            Record(*(arrays[f"record/{name}"][t] for name in Record._fields)) for t in range(len(arrays["record/ess"]))
        ]
        states = _like(states, arrays, "state")
        stacked = _like(states, arrays, "history", lead=1)
        history = [jax.tree.map(lambda a, t=t: a[t], stacked) for t in range(len(records))]
    is_partial, power = False, jnp.ones((), jnp.result_type(float))
    try:
        with Progress(plan.max_steps, "steer") as bar:
            bar.update(len(records))
            while len(records) < plan.max_steps and not bool(now.has_ended):
                step = jnp.asarray(len(records) + 1, jnp.int32)
                states, now, before, record = advance_jit(box, plan, key, states, now, step, power, None)
                history.append(jax.tree.map(np.asarray, before))
                records.append(jax.tree.map(np.asarray, record))
                arrays = {f"now/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(now))}
                arrays |= {f"record/{name}": np.stack([getattr(r, name) for r in records]) for name in Record._fields}
                arrays |= {f"state/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(states))}
                leaves = [jax.tree.leaves(row) for row in history]
                arrays |= {f"history/{i}": np.stack(column) for i, column in enumerate(zip(*leaves, strict=True))}
                save(path, settings, arrays, {})
                bar.update(1, ess=record.ess)
    except KeyboardInterrupt:
        if not records:
            raise
        history, is_partial = history[: len(records)], True
    stacked, rows = (jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *parts) for parts in (history, records))
    return dataclasses.replace(assemble(plan, now, stacked, rows), is_partial=is_partial)


def _like(states: Any, arrays: dict[str, np.ndarray], group: str, lead: int = 0) -> Any:
    leaves = jax.tree.leaves(states)
    found = [arrays.get(f"{group}/{i}") for i in range(len(leaves))]
    for i, (leaf, array) in enumerate(zip(leaves, found, strict=True)):
        if array is None or array.shape[lead:] != leaf.shape or array.dtype != leaf.dtype:
            raise DataError(
                f"checkpoint: the states there are not those of this box (leaf {i}, expected {leaf.shape})."
            )
    return jax.tree.unflatten(jax.tree.structure(states), [jnp.asarray(a) for a in found])
