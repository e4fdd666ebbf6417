r"""Particle Gibbs and parallel tempering over sweeps: whole paths refreshed by conditional populations.

A sweep keeps a reference path as particle 0, scored at the same steps as all others, and draws the next reference in
proportion to the final weights, once. It leaves the target unchanged for every N of at least 2 (Andrieu, Doucet &
Holenstein 2010). Ancestor sampling needs the density of a step and is not offered for black boxes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, UnknownNameError
from probinf.random import as_key
from smc.steering.box import BlackBox
from smc.steering.core import Budget, Plan, Record, Weighted
from smc.steering.potential import Potential
from smc.steering.resampler import Resampler
from smc.steering.steer import plan_of
from smc.steering.traced import Reference, first_states, run_traced


class Path(NamedTuple):
    """A path and what it weighs.

    Attributes:
        states: (T, ...) one for each step.
        log_potential: scalar, sum of its log potentials, nats.
        score: scalar, the judge's last word on it.
    """

    states: Any
    log_potential: Array
    score: Array


class Sweeps(eqx.Module):
    """Paths of a chain whose target is p times the product of potentials.

    Attributes:
        paths: states (S, T, ...) after each sweep, or a list of S lists.
        log_potential: (S,) sum of the log potentials along each path, nats.
        scores: (S,) the judge's last word on each.
        log_evidence: scalar, of the first population, which is not conditional: log of an unbiased estimate at
            temperature 1.
        swap_rate: (M - 1,) share of accepted swaps between neighbouring temperatures.
        generator_calls: proposals of single particles, all chains and sweeps.
        judge_calls: scores of single particles.
        claim: of the sweep as a kernel.
    """

    paths: Any
    log_potential: Array
    scores: Array
    log_evidence: Array
    swap_rate: Array
    generator_calls: Int[Array, ""]
    judge_calls: Int[Array, ""]
    claim: str = eqx.field(static=True, default="invariant")

    @property
    def states(self) -> Any:
        """The final states, (S, ...) or a list of S."""
        if isinstance(self.paths, list):
            return [path[-1] for path in self.paths]
        return jax.tree.map(lambda a: a[:, -1], self.paths)


def gibbs_sweeps(
    box: BlackBox,
    seed: Any = 0,
    *,
    num_particles: int,
    num_sweeps: int,
    max_steps: int,
    potential: Potential,
    rule: Resampler | None = None,
    executor: str = "traced",
) -> Sweeps:
    """Particle Gibbs: `num_sweeps` populations, each around the path drawn from the one before. Claim: invariant.

    The budget is particles times sweeps; at an equal one more particles usually beat more sweeps.

    Args:
        box: generator and judge.
        seed: integer or key.
        num_particles: N, at least 2.
        num_sweeps: S, the first of which is an ordinary population.
        max_steps: T.
        potential: how scores become potentials.
        rule: multinomial resampling at every step by default. Annealing, triggers and look-ahead are legal as long as
            the rule keeps its residual weights.
        executor: "traced" or "host".

    Raises:
        ArgumentError: fewer than 2 particles, or a rule that is biased.
        ArgumentTypeError, UnknownNameError: as in `steer`.

    References:
        Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 2.4.3.
    """
    return tempered_sweeps(
        box,
        seed,
        num_particles=num_particles,
        num_sweeps=num_sweeps,
        max_steps=max_steps,
        potential=potential,
        temperatures=(1.0,),
        rule=rule,
        executor=executor,
    )


def tempered_sweeps(
    box: BlackBox,
    seed: Any = 0,
    *,
    num_particles: int,
    num_sweeps: int,
    max_steps: int,
    potential: Potential,
    temperatures: tuple[float, ...],
    rule: Resampler | None = None,
    executor: str = "traced",
) -> Sweeps:
    r"""Particle Gibbs at several temperatures whose neighbours exchange paths. Claim: invariant.

    Chain k has the target $p \cdot \exp(L / T_k)$, L the sum of log potentials. After each sweep neighbours (even pairs
    and odd pairs in turn) swap with chance $\min(1, \exp((1/T_k - 1/T_{k+1})(L_{k+1} - L_k)))$. The paths
    returned are those of temperature 1, the first.

    Args:
        box: generator and judge.
        seed: integer or key.
        num_particles: N of each chain.
        num_sweeps: S.
        max_steps: T.
        potential: how scores become potentials.
        temperatures: increasing, the first one 1.
        rule: as in `gibbs_sweeps`.
        executor: "traced" (chains side by side) or "host" (one after the other).

    Raises:
        ArgumentError: a ladder that does not begin at 1 or does not increase; otherwise as `gibbs_sweeps`.
    """
    rule = Resampler("always", None, "multinomial") if rule is None else rule
    plan = plan_of(num_particles, max_steps, potential, rule, None)
    positive_integer("num_sweeps", num_sweeps)
    if num_particles < 2:
        raise ArgumentError("num_particles: a conditional population needs at least 2 particles: one is the reference.")
    if str(rule.claim) != "unbiased":
        raise ArgumentError("rule: sweeps need a rule that keeps its residual weights (correct=True).")
    ladder = np.asarray(temperatures, float)
    if ladder.ndim != 1 or ladder.size == 0 or ladder[0] != 1 or (np.diff(ladder) <= 0).any():
        raise ArgumentError(f"temperatures: expected an increasing ladder that begins with 1, found {temperatures!r}.")
    key = as_key(seed)
    powers = jnp.asarray(1 / ladder, jnp.result_type(float))
    if executor == "traced":
        first_states(box, 1)
        return sweeps_traced_jit(box, plan, key, powers, num_sweeps)
    if executor == "host":
        from smc.steering.host_sweeps import sweeps_host

        return sweeps_host(box, plan, key, powers, num_sweeps)
    raise UnknownNameError(executor, ("traced", "host"), "executor", "tempered_sweeps")


def conditional(plan: Plan) -> Plan:
    """The plan of a population with a reference."""
    return dataclasses.replace(plan, conditional=True, budget=Budget())


def sweep(box: BlackBox, plan: Plan, key: Array, path: Path | None, power: Array) -> tuple[Path, Weighted, Record]:
    """One population, around a path or free, and the path drawn from it."""
    key_run, key_draw = jax.random.split(key)
    reference = None if path is None else Reference(path.states)
    now, history, records = run_traced(box, plan if path is None else conditional(plan), key_run, reference, power)
    index = draw_reference(key_draw, records)
    lineage = lineage_of(records.ancestors, index)
    states = jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, lineage), history)
    return Path(states, now.memory.collected[index], now.scores[index]), now, records


def draw_reference(key: Array, records: Record) -> Int[Array, ""]:
    """The next reference, in proportion to the final weights; these hold the last potential already."""
    return jax.random.categorical(key, records.log_weights[-1])


def lineage_of(ancestors: Int[Array, "steps particles"], index: Int[Array, ""]) -> Int[Array, " steps"]:
    """The particle at each step that a final particle descends from."""

    def back(i: Array, row: Array) -> tuple[Array, Array]:
        return row[i], row[i]

    last = index.astype(ancestors.dtype)
    _, earlier = jax.lax.scan(back, last, ancestors[:-1], reverse=True)
    return jnp.concatenate([earlier, last[None]])


def sweeps_traced(box: BlackBox, plan: Plan, key: Array, powers: Float[Array, " chains"], num_sweeps: int) -> Sweeps:
    """All sweeps of all chains in one scan."""
    chains = powers.shape[0]

    def all_chains(key: Array, paths: Path | None) -> tuple[Path, Weighted, Record]:
        keys = jax.random.split(key, chains)
        if paths is None:
            return jax.vmap(lambda k, p: sweep(box, plan, k, None, p))(keys, powers)
        return jax.vmap(lambda k, path, p: sweep(box, plan, k, path, p))(keys, paths, powers)

    key_first, key_rest = jax.random.split(key)
    first, now, records = all_chains(key_first, None)
    log_evidence = jax.nn.logsumexp(records.log_weights[0, -1]) - jnp.log(jnp.asarray(plan.num_particles, powers.dtype))

    def one(carry: Path, row: tuple[Array, Array]) -> tuple[Path, tuple]:
        key_sweep, key_swap = jax.random.split(row[0])
        paths, now, _ = all_chains(key_sweep, carry)
        order, accepted = swap(key_swap, paths.log_potential, powers, row[1])
        paths = jax.tree.map(lambda a: a[order], paths)
        return paths, (
            jax.tree.map(lambda a: a[0], paths),
            accepted,
            jnp.sum(now.generator_calls, dtype=jnp.int32),
            jnp.sum(now.judge_calls, dtype=jnp.int32),
        )

    rows = jax.random.split(key_rest, num_sweeps - 1), jnp.arange(num_sweeps - 1, dtype=jnp.int32)
    _, (paths, accepted, generator, judge) = jax.lax.scan(one, first, rows)
    head = jax.tree.map(lambda a: a[:1], first)
    paths = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, paths)
    return Sweeps(
        paths.states,
        paths.log_potential,
        paths.score,
        log_evidence,
        swap_rate(accepted),
        jnp.sum(now.generator_calls, dtype=jnp.int32) + jnp.sum(generator, dtype=jnp.int32),
        jnp.sum(now.judge_calls, dtype=jnp.int32) + jnp.sum(judge, dtype=jnp.int32),
    )


def swap(
    key: Array, log_potential: Float[Array, " chains"], powers: Float[Array, " chains"], turn: Array
) -> tuple[Int[Array, " chains"], Bool[Array, " chains"]]:
    """Which chain's path each chain goes on with; and the accepted pairs, named by their colder chain."""
    chains = powers.shape[0]
    index = jnp.arange(chains, dtype=jnp.int32)
    if chains == 1:
        return index, jnp.zeros(1, bool)
    log_ratio = (powers[:-1] - powers[1:]) * (log_potential[1:] - log_potential[:-1])
    wins = -jax.random.exponential(key, (chains - 1,), powers.dtype) < log_ratio
    accepted = jnp.append(wins & ((index[:-1] + turn) % 2 == 0), jnp.zeros((), bool))
    up = accepted.astype(jnp.int32)
    down = jnp.concatenate([jnp.zeros(1, jnp.int32), up[:-1]])
    return index + up - down, accepted


def swap_rate(accepted: Bool[Array, "sweeps chains"]) -> Float[Array, " pairs"]:
    """Accepted over tried: each pair is tried every other sweep."""
    sweeps, chains = accepted.shape
    tries = [max(len(range(pair % 2, sweeps, 2)), 1) for pair in range(chains - 1)]
    return jnp.sum(accepted[:, :-1], axis=0, dtype=jnp.result_type(float)) / jnp.asarray(tries, jnp.result_type(float))


sweeps_traced_jit = eqx.filter_jit(sweeps_traced)
