"""`SteeringRun`: what a run found, what it cost, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.representations.concrete import is_concrete


class Failure(NamedTuple):
    """A particle that was lost on the host: its weight is zero from that step on.

    Attributes:
        step: number of the step, from 1.
        particle: its index at that step.
        call: "propose", "score" or "finished".
        reason: type and text of the last error.
        attempts: how often it was tried.
    """

    step: int
    particle: int
    call: str
    reason: str
    attempts: int


class SteeringRun(eqx.Module):
    """A weighted population of answers.

    Attributes:
        states: the N final states: a pytree with leading axis N, or a list.
        log_weights: (N,) unnormalised, nats; `log_evidence` is their log mean.
        log_evidence: scalar, log of the estimated mean of the product of potentials, nats.
        log_potential: (N,) sum of the log potentials along each answer, nats: what its target adds to p.
        scores: (N,) the judge's last word on each.
        done: (N,) whether the answer was finished; False where `max_steps` or the budget cut it short.
        ancestors: (T, N) particle at step t that each particle of step t + 1 came from.
        step_log_weights: (T, N) before selection, nats.
        step_scores: (T, N).
        step_done: (T, N).
        ess: (T,) effective sample size over N before selection.
        temperature: (T,) 1 where nothing was annealed.
        is_resampled: (T,).
        is_step: (T,) False after the run had ended (only in traced code, whose T is fixed).
        fault: (T,) 0, or 1: NaN score, 2: score outside of the link's range, 3: all weights zero.
        generator_calls: proposals of single particles.
        judge_calls: scores of single particles.
        history: states before selection, (T, N, ...) or a list of T lists; None where it was not kept.
        claim: what the evidence is worth.
        failures: particles lost on the host.
        is_partial: the run was interrupted; everything is as of its last complete step.
        seconds: wall time; None inside compiled code.
    """

    states: Any
    log_weights: jax.Array
    log_evidence: jax.Array
    log_potential: jax.Array
    scores: jax.Array
    done: jax.Array
    ancestors: jax.Array
    step_log_weights: jax.Array
    step_scores: jax.Array
    step_done: jax.Array
    ess: jax.Array
    temperature: jax.Array
    is_resampled: jax.Array
    is_step: jax.Array
    fault: jax.Array
    generator_calls: jax.Array
    judge_calls: jax.Array
    history: Any
    claim: str = eqx.field(static=True)
    failures: tuple[Failure, ...] = eqx.field(static=True, default=())
    is_partial: bool = eqx.field(static=True, default=False)
    seconds: float | None = eqx.field(static=True, default=None)

    def __repr__(self) -> str:
        if not is_concrete(self.log_weights, self.ess) or np.ndim(self.log_evidence):
            return f"SteeringRun({self.log_weights.shape[-1]} particles, {self.claim})"
        steps, num = int(self.num_steps), self.log_weights.shape[0]
        resampled = int(np.sum(np.asarray(self.is_resampled)[:steps]))
        lines = [
            f"SteeringRun({num} particles, {steps} steps, resampled after {resampled})",
            f"  log evidence {float(self.log_evidence):.4g} nats ({self.claim}); smallest effective sample size "
            f"{float(np.min(np.asarray(self.ess)[:steps], initial=1.0)):.1%} of the particles",
            f"  {int(np.sum(self.done))} of {num} answers finished",
            f"  {int(self.generator_calls)} calls of the generator, {int(self.judge_calls)} of the judge"
            + ("" if self.seconds is None else f", {self.seconds:.3g} s"),
        ]
        if self.failures:
            lines.append(f"  warning: {len(self.failures)} particles lost, the first: {self.failures[0].reason}")
        if self.is_partial:
            lines.append("  warning: interrupted; everything is as of the last complete step")
        return "\n".join(lines)

    @property
    def weights(self) -> jax.Array:
        """Normalised weights, (N,)."""
        return jax.nn.softmax(self.log_weights)

    @property
    def num_steps(self) -> jax.Array:
        """Steps that were made."""
        return jnp.sum(self.is_step)

    def lineages(self) -> jax.Array:
        """(T, N): the particle at each step that the final particles descend from."""

        def back(index: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            return row[index], row[index]

        last = jnp.arange(self.ancestors.shape[1], dtype=jnp.int32)
        # The ancestors of the last step have no children.
        _, earlier = jax.lax.scan(back, last, self.ancestors[:-1], reverse=True)
        return jnp.concatenate([earlier, last[None]])

    def trajectories(self) -> Any:
        """States along the lineage of each final particle: a pytree (T, N, ...), or a list of N lists.

        Raises:
            ArgumentError: the run kept no history.
        """
        if self.history is None:
            raise ArgumentError("history: the run did not keep its states; call steer(..., history=True).")
        lineages = self.lineages()
        if isinstance(self.history, list):
            rows = np.asarray(lineages)
            return [[self.history[t][i] for t, i in enumerate(column)] for column in rows.T]
        return jax.tree.map(lambda a: jax.vmap(lambda row, index: row[index])(a, lineages), self.history)

    def answer(self, rule: str = "argmax", *, key: Any = None, by: Callable[..., Any] | None = None) -> Any:
        """One final answer (see `smc.steering.answers`)."""
        from smc.steering.answers import final_answer

        return final_answer(self, rule, key=key, by=by)
