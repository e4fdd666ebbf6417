"""`steer`: particle inference with a black-box generator and judge."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError, UnknownNameError
from probinf.random import as_key
from probinf.representations.concrete import is_concrete
from smc.steering.box import BlackBox
from smc.steering.core import ALL_DEAD, NAN_SCORE, SCORE_RANGE, Budget, Plan, Record, Weighted
from smc.steering.potential import Potential
from smc.steering.resampler import Resampler
from smc.steering.run import SteeringRun
from smc.steering.traced import first_states, run_traced


def steer(
    box: BlackBox,
    seed: Any = 0,
    *,
    num_particles: int,
    max_steps: int,
    potential: Potential,
    rule: Any = None,
    budget: Budget | None = None,
    executor: str = "traced",
    history: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    retries: int = 0,
) -> SteeringRun:
    r"""Run a population of answers: propose, judge, weigh, resample, until all are finished.

    The target is p times the product of potentials, and the evidence Z its total mass. With a `Resampler` that keeps
    its residual weights E[Z^] = Z, and E[Z^ f^] = Z E[f], for every number of particles; a weighted average by itself
    has a bias of order 1 / N.

    ```python
    run = smc.steer(box, 0, num_particles=16, max_steps=40, potential=smc.Potential("odds", "difference"))
    run.answer(), run.log_evidence, run.generator_calls
    ```

    Args:
        box: generator and judge.
        seed: integer or key. The same key gives the same ancestors on both executors if the generator is a function of
            its keys.
        num_particles: N.
        max_steps: the last step; particles that are not finished then stay as they are, `run.done` says which.
        potential: how scores become potentials.
        rule: `Resampler()` by default: annealed, ESS-triggered, corrected. Or a rule of search: `Beam`, `DiverseTree`,
            `Halving`.
        budget: calls that may be made; the run ends before the step that would go over.
        executor: "traced" (JAX functions, one compiled scan, may be called inside `jax.jit` and `jax.vmap`) or "host"
            (Python objects; functions may be coroutines).
        history: keep the states of all steps, memory T N states; the host executor always does.
        checkpoint: a file that is written after each complete step, an `.npz` with a JSON header. If it exists the run
            goes on from there to the same result. Host states must be JSON-able.
        timeout: host only, seconds that one particle's awaitable or future may take.
        retries: host only, how often a failed call is tried again before its particle is lost.

    Returns:
        The run. An interrupt (Ctrl-C) returns what is complete, `is_partial`, where steps are taken one by one: on the
        host, and traced with a checkpoint.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument that cannot be used; it is named.
        ModelError: `propose`, `score` or `finished` answers with the wrong structure or shape.
        DataError: a score is NaN or outside of the link's range; a checkpoint is corrupt or belongs to another run.
        InferenceError: all weights are zero at some step, or every call of a step failed. Its `partial` holds the run.

    References:
        Puri et al. (2025), arXiv 2502.01618; Lew et al. (2023), arXiv 2306.03081; Chopin & Papaspiliopoulos (2020).
    """
    plan = plan_of(num_particles, max_steps, potential, rule, budget)
    key = as_key(seed)
    if not isinstance(box, BlackBox):
        raise ArgumentTypeError(f"box: expected a BlackBox, found {type(box).__name__}.")
    if executor not in ("traced", "host"):
        raise UnknownNameError(executor, ("traced", "host"), "executor", "steer")
    if executor == "traced" and (timeout is not None or retries):
        raise ArgumentError("timeout, retries: the traced executor has neither; pass executor='host'.")
    began = time.perf_counter()
    if executor == "host":
        from smc.steering.host import run_host

        run = run_host(box, plan, key, checkpoint=checkpoint, timeout=timeout, retries=retries)
    elif checkpoint is not None:
        from smc.steering.stepwise import run_stepwise

        run = run_stepwise(box, plan, key, checkpoint)
    else:
        first_states(box, 1)  # says what is wrong before anything is compiled
        run = trimmed(_run_jit(box, plan, key, history))
    if is_concrete(run.log_weights):
        run = dataclasses.replace(run, seconds=time.perf_counter() - began)
    return checked(run, plan)


def plan_of(num_particles: int, max_steps: int, potential: Potential, rule: Any, budget: Budget | None) -> Plan:
    """Checked settings."""
    if not isinstance(potential, Potential):
        raise ArgumentTypeError(
            f"potential: expected smc.Potential(link, mode), found {type(potential).__name__}: how scores become "
            "weights decides what the target is, so there is no default."
        )
    rule = Resampler() if rule is None else rule
    if not callable(getattr(rule, "choose", None)):
        raise ArgumentTypeError(f"rule: expected a Resampler or a rule of search, found {type(rule).__name__}.")
    num, budget = positive_integer("num_particles", num_particles), budget or Budget()
    for name in ("generator", "judge"):
        limit = getattr(budget, name)
        if limit is not None and limit < num:
            raise ArgumentError(f"budget: {limit} {name} calls do not suffice for one step of {num} particles.")
    if hasattr(rule, "check"):
        rule.check(num)
    return Plan(num, positive_integer("max_steps", max_steps), potential, rule, budget)


def assemble(
    plan: Plan, now: Weighted, states: Any, records: Record, *, keep_history: bool = True, final_states: Any = None
) -> SteeringRun:
    """A run from its records (T, ...) and states (T, N, ...)."""
    log_weights = records.log_weights[-1]
    size = jnp.log(jnp.asarray(plan.num_particles, log_weights.dtype))
    last = jax.tree.map(lambda a: a[-1], states) if final_states is None else final_states
    return SteeringRun(
        states=last,
        log_weights=log_weights,
        log_evidence=jax.nn.logsumexp(log_weights) - size,
        log_potential=records.log_potential[-1],
        scores=records.scores[-1],
        done=records.done[-1],
        ancestors=records.ancestors,
        step_log_weights=records.log_weights,
        step_scores=records.scores,
        step_done=records.done,
        ess=records.ess,
        temperature=records.temperature,
        is_resampled=records.is_resampled,
        is_step=records.is_step,
        fault=records.fault,
        generator_calls=now.generator_calls,
        judge_calls=now.judge_calls,
        history=states if keep_history else None,
        claim=str(plan.rule.claim),
    )


@eqx.filter_jit
def _run_jit(box: BlackBox, plan: Plan, key: jax.Array, keep_history: bool) -> SteeringRun:
    """The traced run as one compiled program."""
    return assemble(plan, *run_traced(box, plan, key), keep_history=keep_history)


_ROWS = (
    "ancestors",
    "step_log_weights",
    "step_scores",
    "step_done",
    "ess",
    "temperature",
    "is_resampled",
    "is_step",
    "fault",
)


def trimmed(run: SteeringRun) -> SteeringRun:
    """The steps that were made, where their number is known."""
    if not is_concrete(run.is_step) or bool(np.all(run.is_step)):
        return run
    count = int(run.num_steps)
    rows: dict[str, Any] = {name: getattr(run, name)[:count] for name in _ROWS}
    rows["history"] = None if run.history is None else jax.tree.map(lambda a: a[:count], run.history)
    return dataclasses.replace(run, **rows)


def checked(run: SteeringRun, plan: Plan) -> SteeringRun:
    """Raise what the flags of a run say; inside compiled code they stay flags."""
    if not is_concrete(run.fault) or not np.any(run.fault):
        return run
    step = int(np.argmax(np.asarray(run.fault) != 0))
    fault, scores = int(run.fault[step]), np.asarray(run.step_scores[step])
    if fault == NAN_SCORE:
        raise _with_partial(
            DataError(f"score: NaN for particle {int(np.argmax(np.isnan(scores)))} at step {step + 1}."), run
        )
    if fault == SCORE_RANGE:
        link = plan.potential.link
        legal = np.asarray(plan.potential.is_legal(jnp.asarray(scores)))
        wrong = int(np.argmin(legal))
        wanted = "a number below infinity" if link == "exp" else "a number between 0 and 1"
        raise _with_partial(
            DataError(
                f"score: {scores[wrong]:g} for particle {wrong} at step {step + 1}; link {link!r} needs {wanted}. For "
                "rewards on another scale use link='exp'."
            ),
            run,
        )
    assert fault == ALL_DEAD
    raise _with_partial(
        InferenceError(
            f"steer: all {plan.num_particles} weights are zero at step {step + 1}. The judge rules every particle out: "
            "use more particles, or a judge that is not certain (link 'odds' clips its chances)."
        ),
        run,
    )


def _with_partial(error: Any, run: SteeringRun) -> Any:
    error.partial = run
    return error
