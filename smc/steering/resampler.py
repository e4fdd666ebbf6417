r"""The four switches that act on log weights alone: trigger, annealing, scheme, correction.

With $\ell$ the normalised log weights, $q \propto e^{\ell/\tau}$ the resampling weights and $a$ the ancestors,

$$\log w' = \log w[a] - \log N - \log q[a]$$

is properly weighted for any q > 0: E[Z^] = Z for every N. With tau = 1 it is the ordinary filter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probinf.claims import Claim
from probinf.errors import ArgumentError, UnknownNameError
from probinf.transformations.conditional import Conditional
from probinf.transformations.resampling import scheme
from smc.steering.annealing import EntropicAnnealing, relative_ess

TRIGGERS = ("always", "ess", "never")

#: Look-ahead potentials are cut off this far below the largest, nats.
LOOKAHEAD_FLOOR = 20.0


class Population(NamedTuple):
    """What a selection rule sees.

    Attributes:
        log_weights: (N,) unnormalised, nats.
        log_ahead: (N,) log potential of one successor each, nats; zeros without look-ahead.
        scores: (N,) the score of each prefix, aggregated.
        done: (N,) finished particles.
        step: number of the step just scored, from 1.
        max_steps: the last one.
    """

    log_weights: Float[Array, " particles"]
    log_ahead: Float[Array, " particles"]
    scores: Float[Array, " particles"]
    done: Bool[Array, " particles"]
    step: Int[Array, ""]
    max_steps: int


class Choice(NamedTuple):
    """What a selection rule says.

    Attributes:
        ancestors: (N,) int32.
        log_weights: (N,) after the selection, nats.
        ess: effective sample size before it, over N.
        temperature: the tau of the step, 1 without annealing.
        is_resampled: whether anything was selected.
    """

    ancestors: Int[Array, " particles"]
    log_weights: Float[Array, " particles"]
    ess: Float[Array, ""]
    temperature: Float[Array, ""]
    is_resampled: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Resampler:
    """Resampling with four independent switches; the default is annealed, ESS-triggered and corrected.

    Args:
        trigger: "ess" (when the effective sample size is below `threshold` N), "always", "never", or a function
            `trigger(step, ess)` with a boolean answer; `ess` is relative to N.
        anneal: a function of normalised log weights (N,) and the share of steps done that gives a temperature of at
            least 1 (`EntropicAnnealing`, `FloorAnnealing`), or None for temperature 1.
        scheme: name of a resampling scheme.
        correct: keep the ratio of weight and resampling weight. False throws it away and is not consistent at
            temperatures above 1 or with look-ahead: as N grows it converges to potentials G ** (1 / tau).
        lookahead: draw and score one successor of each particle and resample by weight times its potential: an
            auxiliary particle filter at the price of one more generation and one more score per particle and step.
        threshold: of the trigger "ess".

    Raises:
        UnknownNameError: no such trigger or scheme.
        ArgumentError: a threshold outside [0, 1].

    References:
        Puri et al. (2025), arXiv 2502.01618; Giannone et al. (2026), arXiv 2510.05825; Chopin & Papaspiliopoulos
        (2020), An Introduction to Sequential Monte Carlo, chapter 10.
    """

    trigger: str | Callable[..., Any] = "ess"
    anneal: Callable[..., Any] | None = dataclasses.field(default_factory=EntropicAnnealing)
    scheme: str = "systematic"
    correct: bool = True
    lookahead: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not callable(self.trigger) and self.trigger not in TRIGGERS:
            raise UnknownNameError(self.trigger, TRIGGERS, "trigger", "Resampler")
        scheme(self.scheme)
        if not 0 <= self.threshold <= 1:
            raise ArgumentError(f"threshold: expected a share between 0 and 1, found {self.threshold!r}.")

    @property
    def claim(self) -> Claim:
        """Unbiased evidence; approximate where the residual weight is thrown away."""
        is_plain = self.anneal is None and not self.lookahead
        return Claim.UNBIASED if self.correct or is_plain or self.trigger == "never" else Claim.APPROXIMATE

    def choose(self, key: Array, population: Population, *, conditional: bool = False) -> Choice:
        """Resample, or not. `conditional`: particle 0 descends from particle 0."""
        log_weights = population.log_weights
        num = log_weights.shape[0]
        log_q, ess, tau = self.log_resampling_weights(population)
        law = Conditional(log_q, num, self.scheme) if conditional else scheme(self.scheme)(log_q, num)
        drawn = law.sample(key).astype(jnp.int32)
        due = self._is_due(population.step, ess) & (ess > 0) & ~jnp.all(population.done)
        return Choice(
            jnp.where(due, drawn, jnp.arange(num, dtype=jnp.int32)),
            jnp.where(due, self.carried(log_weights, log_q, drawn), log_weights),
            ess,
            tau,
            due,
        )

    def log_resampling_weights(
        self, population: Population
    ) -> tuple[Float[Array, " particles"], Float[Array, ""], Float[Array, ""]]:
        """The normalised weights log q to draw ancestors by, the ESS of the weights over N, and the temperature."""
        log_weights = population.log_weights
        total = jax.nn.logsumexp(log_weights)
        is_alive = total > -jnp.inf
        normalised = log_weights - jnp.where(is_alive, total, 0)
        ess = jnp.where(is_alive, relative_ess(normalised), 0)
        share = population.step.astype(ess.dtype) / population.max_steps
        one = jnp.ones_like(ess)
        tau = one if self.anneal is None else jnp.asarray(self.anneal(normalised, share), ess.dtype)
        # The weights drawn from must be positive wherever a weight is: another successor may fare better than this one.
        best = jnp.max(population.log_ahead)
        ahead = jnp.where(best > -jnp.inf, jnp.maximum(population.log_ahead, best - LOOKAHEAD_FLOOR), 0)
        wanted = normalised + ahead
        log_q = jnp.where(wanted > -jnp.inf, wanted / tau, -jnp.inf)
        return log_q - jnp.where(is_alive, jax.nn.logsumexp(log_q), 0), ess, tau

    def carried(
        self, log_weights: Float[Array, " particles"], log_q: Float[Array, " particles"], ancestors: Array
    ) -> Float[Array, " particles"]:
        """Log weights of the children, nats."""
        size = jnp.log(jnp.asarray(log_weights.shape[0], log_weights.dtype))
        if self.correct:
            return (log_weights - jnp.where(log_q > -jnp.inf, log_q, 0))[ancestors] - size
        return jnp.zeros_like(log_weights) + (jax.nn.logsumexp(log_weights) - size)

    def _is_due(self, step: Array, ess: Array) -> Array:
        if callable(self.trigger):
            return jnp.asarray(self.trigger(step, ess), bool)
        return {"always": jnp.asarray(True), "never": jnp.asarray(False), "ess": ess < self.threshold}[self.trigger]


def bootstrap_resampler(trigger: str = "always", scheme: str = "multinomial") -> Resampler:
    """The particle filter as published for language models (Puri et al. 2025): multinomial, at every step.

    No annealing. Claim: unbiased. `trigger="ess"` is the usual one of the filtering literature.
    """
    return Resampler(trigger, None, scheme)


def entropic_particle_filter(method: str = "ess") -> Resampler:
    """The entropic particle filter as published (Giannone et al. 2026): annealed resampling at every step.

    The residual weight is dropped. Claim: approximate. It is **not consistent**: with more particles it converges to
    the flow with potentials G ** (1 / tau) instead of the target, and its evidence is biased, 45-fold in one of the
    four letter cases of `benchmarks/steering.py`. `Resampler()` is the corrected form.
    """
    return Resampler("always", EntropicAnnealing(method), "systematic", correct=False)
