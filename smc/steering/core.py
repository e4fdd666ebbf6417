"""The weight algebra of one step, the same compiled code for both executors; only proposals and scores differ."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probinf.arguments import positive_integer
from probinf.claims import Claim
from smc.steering.potential import Memory, Potential
from smc.steering.resampler import Choice, Population


class Rule(Protocol):
    """What decides which particles go on: a `Resampler`, or a rule of search."""

    @property
    def claim(self) -> Claim:
        """What the evidence of a run under this rule is worth."""
        ...

    @property
    def lookahead(self) -> bool:
        """Whether it wants the potential of one successor of each particle."""
        ...

    def choose(self, key: Array, population: Population, *, conditional: bool = False) -> Choice:
        """Ancestors and weights for the next step."""
        ...


@dataclasses.dataclass(frozen=True)
class Budget:
    """Calls that a run may make; it ends before the step that would go over. None: as many as it takes.

    Args:
        generator: proposals of single particles.
        judge: scores of single particles.

    Raises:
        ArgumentError, ArgumentTypeError: a limit that is no positive integer.
    """

    generator: int | None = None
    judge: int | None = None

    def __post_init__(self) -> None:
        for name in ("generator", "judge"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed during a run: numbers, potential, rule, budget."""

    num_particles: int
    max_steps: int
    potential: Potential
    rule: Any
    budget: Budget
    conditional: bool = False


class Weighted(NamedTuple):
    """All that is carried from step to step beside the states.

    Attributes:
        log_weights: (N,) unnormalised, nats.
        done: (N,) finished: absorbing.
        failed: (N,) lost for good, by a failed call or by its potentials: weight zero.
        memory: what the potential remembers.
        scores: (N,) the judge's last word.
        generator_calls: proposals made so far.
        judge_calls: scores asked for so far.
        has_ended: no further step is due.
    """

    log_weights: Float[Array, " particles"]
    done: Bool[Array, " particles"]
    failed: Bool[Array, " particles"]
    memory: Memory
    scores: Float[Array, " particles"]
    generator_calls: Int[Array, ""]
    judge_calls: Int[Array, ""]
    has_ended: Bool[Array, ""]


class Record(NamedTuple):
    """What is kept of a step, all before selection but the last three.

    Attributes:
        log_weights: (N,) nats.
        log_potential: (N,) sum of the log potentials so far, nats.
        scores: (N,).
        done: (N,).
        fault: 0, or a value of `FAULTS`.
        is_step: whether the run still went on at this step.
        ancestors: (N,) chosen after it.
        ess: scalar, over N.
        temperature: scalar.
        is_resampled: scalar.
    """

    log_weights: Array
    log_potential: Array
    scores: Array
    done: Array
    fault: Array
    is_step: Array
    ancestors: Array
    ess: Array
    temperature: Array
    is_resampled: Array


NAN_SCORE, SCORE_RANGE, ALL_DEAD = 1, 2, 3


def start(plan: Plan) -> Weighted:
    """Before the first step: equal weights that average to one."""
    num, dtype = plan.num_particles, jnp.result_type(float)
    zero, no = jnp.zeros(num, dtype), jnp.zeros(num, bool)
    count = jnp.zeros((), jnp.int32)
    return Weighted(zero, no, no, plan.potential.start(num), zero, count, count, jnp.zeros((), bool))


def weigh(
    plan: Plan,
    before: Weighted,
    scores: Float[Array, " particles"],
    finished: Bool[Array, " particles"],
    failed: Bool[Array, " particles"],
    step: Int[Array, ""],
    power: Float[Array, ""],
) -> tuple[Weighted, Record]:
    """Put one step's scores into the weights.

    Args:
        plan: of the run.
        before: what the last step left behind.
        scores: (N,); not looked at where a particle was done.
        finished: (N,) it ends with this step.
        failed: (N,) its proposal or score was lost: weight zero from now on.
        step: its number, from 1.
        power: scalar, exponent of all potentials.
    """
    active = ~before.done & ~before.has_ended
    failed = before.failed | (failed & active)
    judged = active & ~failed
    done = before.done | (active & (finished | failed))
    calls = (
        before.generator_calls + jnp.sum(active, dtype=jnp.int32),
        before.judge_calls + jnp.sum(judged, dtype=jnp.int32),
    )
    cost = jnp.sum(~done, dtype=jnp.int32) * (2 if plan.rule.lookahead else 1)
    limits = plan.budget.generator, plan.budget.judge
    spent = [c + cost > limit for c, limit in zip(calls, limits, strict=True) if limit is not None]
    is_final = jnp.any(jnp.stack([step >= plan.max_steps, *spent]))
    legal = plan.potential.is_legal(scores)
    scores = jnp.where(judged, scores, before.scores)
    log_g, memory = plan.potential.update(before.memory, scores, ~judged, done | is_final)
    log_weights = jnp.where(failed, -jnp.inf, before.log_weights + power * log_g)
    is_dead = jnp.max(log_weights) == -jnp.inf
    ended = before.has_ended | jnp.all(done) | is_final | is_dead
    fault = jnp.where(
        jnp.any(judged & jnp.isnan(scores)), NAN_SCORE, jnp.where(jnp.any(judged & ~legal), SCORE_RANGE, 0)
    )
    fault = jnp.where((fault == 0) & is_dead & ~before.has_ended, ALL_DEAD, fault).astype(jnp.int32)
    after = Weighted(log_weights, done, failed, memory, scores, *calls, ended)
    index = jnp.arange(plan.num_particles, dtype=jnp.int32)
    nothing = jnp.zeros((), log_weights.dtype)
    return after, Record(
        log_weights,
        memory.collected,
        scores,
        done,
        fault,
        ~before.has_ended,
        index,
        nothing,
        nothing + 1,
        jnp.zeros((), bool),
    )


def look_ahead(
    plan: Plan, now: Weighted, scores: Array, finished: Array, step: Array, power: Array
) -> tuple[Weighted, Array]:
    """Log potentials (N,) of one successor each, and the calls they cost; nothing where a particle is done."""
    active = ~now.done & ~now.has_ended
    log_g, _ = plan.potential.update(now.memory, scores, ~active, finished | (step + 1 >= plan.max_steps))
    cost = jnp.sum(active, dtype=jnp.int32)
    return now._replace(generator_calls=now.generator_calls + cost, judge_calls=now.judge_calls + cost), power * log_g


def select(
    plan: Plan, key: Array, now: Weighted, record: Record, log_ahead: Array, step: Array
) -> tuple[Weighted, Record]:
    """Apply the rule: everything carried but the states follows the ancestors."""
    population = Population(now.log_weights, log_ahead, now.memory.prefix, now.done, step, plan.max_steps)
    choice = plan.rule.choose(key, population, conditional=plan.conditional)
    goes_on = ~now.has_ended
    ancestors = jnp.where(goes_on, choice.ancestors, record.ancestors)
    log_weights = jnp.where(goes_on, choice.log_weights, now.log_weights)
    moved = jax.tree.map(lambda a: a[ancestors], (now.done, now.failed, now.memory, now.scores))
    done, failed, memory, scores = moved
    lost = log_weights == -jnp.inf  # what has no weight costs no more calls
    record = record._replace(
        ancestors=ancestors,
        ess=choice.ess,
        temperature=jnp.where(goes_on, choice.temperature, 1),
        is_resampled=choice.is_resampled & goes_on,
    )
    after = Weighted(
        log_weights, done | lost, failed | lost, memory, scores, now.generator_calls, now.judge_calls, now.has_ended
    )
    return after, record


def step_keys(key: Array, step: Any) -> tuple[Array, Array, Array]:
    """Keys of one step: for moving, for selecting, for looking ahead."""
    key_move, key_select, key_ahead = jax.random.split(jax.random.fold_in(key, step), 3)
    return key_move, key_select, key_ahead


weigh_jit = eqx.filter_jit(weigh)
look_ahead_jit = eqx.filter_jit(look_ahead)
select_jit = eqx.filter_jit(select)
