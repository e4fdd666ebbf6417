"""The host executor: states are Python objects, and the black box may be slow, remote or unreliable."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import DataError, InferenceError, ModelError
from probinf.progress import Progress
from smc.steering.box import BlackBox
from smc.steering.calls import call_batch, copies
from smc.steering.core import Plan, Record, Weighted, look_ahead_jit, select_jit, start, step_keys, weigh_jit
from smc.steering.run import Failure, SteeringRun
from smc.steering.saved import load, save, settings_of


class HostState(NamedTuple):
    """A run after a complete step.

    Attributes:
        states: the N states that the next step begins with.
        now: what else is carried.
        history: for each step the N states before selection.
        records: for each step its record, NumPy.
        failures: particles lost so far.
    """

    states: list[Any]
    now: Weighted
    history: list[list[Any]]
    records: list[Record]
    failures: tuple[Failure, ...]


class Caller:
    """A black box with its time-outs and retries; remembers what failed."""

    def __init__(self, box: BlackBox, timeout: float | None, retries: int) -> None:
        self.box, self.timeout, self.retries = box, timeout, retries
        self.failures: list[Failure] = []

    def propose(self, step: int, states: list[Any], rows: np.ndarray, keys: jax.Array) -> tuple[list[Any], np.ndarray]:
        """States with the given rows one step further; and which rows were lost, (N,)."""

        def ask(wanted: list[int]) -> Any:
            chosen = [rows[i] for i in wanted]
            return self.box.extend(copies([states[i] for i in chosen]), keys[np.asarray(chosen)])

        new, lost = self._ask("propose", ask, step, rows, len(states))
        return [new.get(i, state) for i, state in enumerate(states)], lost

    def score(self, step: int, states: list[Any], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (N,), zero where not asked for; and which rows were lost, (N,).

        Raises:
            DataError: a score is no number.
        """

        def ask(wanted: list[int]) -> Any:
            return self.box.score([states[rows[i]] for i in wanted])

        found, lost = self._ask("score", ask, step, rows, len(states))
        scores = np.zeros(len(states))
        for i, value in found.items():
            try:
                scores[i] = float(value)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"score: expected a number for particle {i} at step {step}, found {value!r}."
                ) from error
        return scores, lost

    def finished(self, states: list[Any], rows: np.ndarray) -> np.ndarray:
        """Which of the rows are finished, (N,)."""
        ends = np.zeros(len(states), bool)
        if self.box.finished is not None and len(rows):
            answers = list(self.box.finished([states[i] for i in rows]))
            if len(answers) != len(rows):
                raise ModelError(f"finished: expected {len(rows)} answers, one for each state, found {len(answers)}.")
            ends[rows] = [bool(a) for a in answers]
        return ends

    def _ask(self, name: str, ask: Any, step: int, rows: np.ndarray, num: int) -> tuple[dict[int, Any], np.ndarray]:
        lost = np.zeros(num, bool)
        if not len(rows):
            return {}, lost
        outcome = call_batch(name, ask, len(rows), timeout=self.timeout, retries=self.retries)
        if len(outcome.lost) == len(rows):
            reason, attempts = next(iter(outcome.lost.values()))
            raise InferenceError(
                f"{name}: all {len(rows)} calls of step {step} failed after {attempts} attempt(s), the first with "
                f"{reason}. The run as of step {step - 1} is in the error's `partial`; with a checkpoint it can go on."
            )
        for i, (reason, attempts) in outcome.lost.items():
            lost[rows[i]] = True
            self.failures.append(Failure(step, int(rows[i]), name, reason, attempts))
        return {int(rows[i]): v for i, v in enumerate(outcome.values) if i not in outcome.lost}, lost


def run_host(
    box: BlackBox,
    plan: Plan,
    key: jax.Array,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    retries: int = 0,
    reference: list[Any] | None = None,
    power: float = 1.0,
) -> SteeringRun:
    """Steps on the host; see `steer`. `reference`: states (T) that particle 0 is held to."""
    settings = settings_of(plan, key, "host")
    state = None if checkpoint is None else load_host(checkpoint, settings, plan)
    if state is None:
        state = HostState(copies([box.start] * plan.num_particles), start(plan), [], [], ())
    caller = Caller(box, timeout, retries)
    is_partial = False
    try:
        with Progress(plan.max_steps, "steer") as bar:
            bar.update(len(state.records))
            while len(state.records) < plan.max_steps and not bool(state.now.has_ended):
                state = one_step(caller, plan, key, state, reference, power)
                if checkpoint is not None:
                    save_host(checkpoint, settings, state)
                bar.update(1, ess=state.records[-1].ess)
    except KeyboardInterrupt:
        if not state.records:
            raise
        is_partial = True
    except InferenceError as error:
        error.partial = _finish(plan, state, is_partial=True) if state.records else None
        raise
    return _finish(plan, state, is_partial=is_partial)


def one_step(
    caller: Caller, plan: Plan, key: jax.Array, before: HostState, reference: list[Any] | None, power: float
) -> HostState:
    """Propose, score, weigh, select: the traced executor's `advance` with lists for arrays."""
    step = len(before.records) + 1
    key_move, key_select, key_ahead = step_keys(key, step)
    num, now, count = plan.num_particles, before.now, jnp.asarray(step, jnp.int32)
    caller.failures = []
    active = ~np.asarray(now.done)
    rows = np.flatnonzero(active)
    states, lost = caller.propose(step, before.states, rows, jax.random.split(key_move, num))
    if reference is not None:
        states[0], lost[0] = reference[step - 1], False
    ends = caller.finished(states, np.flatnonzero(active & ~lost))
    scores, unjudged = caller.score(step, states, np.flatnonzero(active & ~lost))
    scale = jnp.asarray(power, jnp.result_type(float))
    now, record = weigh_jit(plan, now, as_float(scores), jnp.asarray(ends), jnp.asarray(lost | unjudged), count, scale)
    log_ahead = jnp.zeros_like(now.log_weights)
    if plan.rule.lookahead and not bool(now.has_ended):
        rows = np.flatnonzero(~np.asarray(now.done))
        successors, lost = caller.propose(step, states, rows, jax.random.split(key_ahead, num))
        live = np.flatnonzero(~np.asarray(now.done) & ~lost)
        next_ends = caller.finished(successors, live)
        next_scores, _ = caller.score(step, successors, live)
        now, log_ahead = look_ahead_jit(plan, now, as_float(next_scores), jnp.asarray(next_ends), count, scale)
    now, record = select_jit(plan, key_select, now, record, log_ahead, count)
    record = jax.tree.map(np.asarray, record)
    selected = [states[i] for i in record.ancestors]  # copied before a generator may change them
    return HostState(
        selected, now, [*before.history, states], [*before.records, record], (*before.failures, *caller.failures)
    )


def as_float(scores: np.ndarray) -> jax.Array:
    """Scores in the float type of the weights."""
    return jnp.asarray(scores, jnp.result_type(float))


def _finish(plan: Plan, state: HostState, *, is_partial: bool) -> SteeringRun:
    import dataclasses

    from smc.steering.steer import assemble

    records = jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows)), *state.records)
    run = assemble(plan, state.now, state.history, records, final_states=state.history[-1])
    return dataclasses.replace(run, failures=state.failures, is_partial=is_partial)


def save_host(path: str | os.PathLike[str], settings: dict[str, Any], state: HostState) -> None:
    """Write a run: weights and records as arrays, states as JSON.

    Raises:
        ArgumentError: a state is not JSON-able.
    """
    arrays = {f"now/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state.now))}
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *state.records)
    arrays |= {f"record/{name}": getattr(stacked, name) for name in Record._fields}
    values = {"states": state.states, "history": state.history, "failures": [list(f) for f in state.failures]}
    save(path, settings, arrays, values)


def load_host(path: str | os.PathLike[str], settings: dict[str, Any], plan: Plan) -> HostState | None:
    """The run in a file, or None where there is none.

    Raises:
        DataError: it is corrupt, or belongs to another run.
    """
    found = load(path, settings)
    if found is None:
        return None
    arrays, values = found
    now = restore_weighted(arrays, plan)
    steps = len(arrays["record/ess"])
    records = [Record(*(arrays[f"record/{name}"][t] for name in Record._fields)) for t in range(steps)]
    failures = tuple(Failure(*f) for f in values["failures"])
    return HostState(values["states"], now, values["history"], records, failures)


def restore_weighted(arrays: dict[str, np.ndarray], plan: Plan) -> Weighted:
    """What is carried, from the arrays of a file."""
    template = start(plan)
    leaves = [jnp.asarray(arrays[f"now/{i}"]) for i in range(len(jax.tree.leaves(template)))]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
