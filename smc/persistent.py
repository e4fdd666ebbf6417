"""Persistent sampling: the particles of all temperatures so far, weighted as draws from their mixture."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.kernels.chains import counted
from smc.tempering import (
    Settings,
    TemperatureInfo,
    TemperedState,
    TemperingPrograms,
    halfway_shift,
    info_of,
    next_inverse_temperature,
    normalised,
)

_FIRST_CAPACITY = 16


class PersistentState(NamedTuple):
    """R runs with the particles of all t temperatures so far, in pools with room for C >= t of them.

    Attributes:
        latest: the particles of the last temperature.
        position: (R, C, N, d), unconstrained.
        log_likelihood: (R, C, N) nats.
        log_mixture: (R, C, N), log of sum_s L^beta_s / Z_s over the temperatures so far.
        inverse_temperatures: (R, C).
        log_evidences: (R, C) nats, of each temperature.
        count: t.
    """

    latest: TemperedState
    position: Array
    log_likelihood: Array
    log_mixture: Array
    inverse_temperatures: Array
    log_evidences: Array
    count: Array


def log_mixture_of(
    log_likelihood: Float[Array, ...], inverse_temperatures: Array, log_evidences: Array, count: Array
) -> Array:
    r"""$\log \sum_{s \le t} L^{\beta_s} / Z_s$: the mixture of t tempered posteriors over the prior, times t.

    Args:
        log_likelihood: any shape, nats.
        inverse_temperatures: (C,).
        log_evidences: (C,).
        count: t; later entries do not count.
    """
    finite = jnp.where(log_likelihood == -jnp.inf, 0, log_likelihood)  # dead particles have no weight anyway
    shape = (-1, *(1,) * log_likelihood.ndim)
    terms = inverse_temperatures.reshape(shape) * finite[None] - log_evidences.reshape(shape)
    terms = jnp.where(
        (jnp.arange(inverse_temperatures.size, dtype=count.dtype) < count).reshape(shape), terms, -jnp.inf
    )
    return jax.scipy.special.logsumexp(terms, axis=0)


def persistent_log_weights(
    log_likelihood: Float[Array, "capacity particles"], log_mixture: Array, inverse_temperature: Array, count: Array
) -> Array:
    r"""Log weights of all particles so far for one inverse temperature (Karamanis & Seljak 2024, section 3).

    $$\log w = \beta \log L - \log \frac1t \sum_{s \le t} L^{\beta_s} / \hat Z_s,$$

    whose mean over the t N particles estimates Z(β).
    """
    dead = (log_likelihood == -jnp.inf) | (jnp.arange(log_likelihood.shape[0], dtype=count.dtype) >= count)[:, None]
    finite = jnp.where(dead, 0, log_likelihood)
    log_weights = inverse_temperature * finite - log_mixture + jnp.log(count.astype(log_mixture.dtype))
    return jnp.where(dead, -jnp.inf, log_weights)


def persistent_log_evidence(log_weights: Float[Array, "capacity particles"], count: Array) -> Array:
    """Log of the mean weight of the t N particles, in nats."""
    number = count.astype(log_weights.dtype) * log_weights.shape[1]
    return jax.scipy.special.logsumexp(log_weights) - jnp.log(number)


class Chosen(NamedTuple):
    """The next temperature of R runs, and the particles that go to it."""

    inverse_temperature: Array
    ess: Array
    log_evidence: Array
    before: Array
    scale: Array
    shift: Array
    shift_variance: Array


class PersistentPrograms(TemperingPrograms):
    """Tempering that throws no particle away (Karamanis & Seljak 2024, algorithm 1).

    Pools grow by doubling, so that a few programs serve any number of temperatures; the moves are compiled once.
    """

    def __init__(self, target: Any, settings: Settings) -> None:
        super().__init__(target, settings)
        self._start_latest: Any = self.start
        self.start = self._start_pool
        self._choose_jit = counted(self._choose)
        self._move_jit = counted(self._move_and_look)
        self._insert_jit = counted(self._insert)
        self.step = self._step_pool
        self.weigh = counted(self._weigh)

    def _start_pool(self, operands: Any, key: Array) -> tuple[PersistentState, Array]:
        latest, outside = self._start_latest(operands, key)
        runs, num, dim = latest.position.shape
        dtype = latest.position.dtype
        zero = jnp.zeros((runs, _FIRST_CAPACITY), dtype)
        pool = jnp.zeros((runs, _FIRST_CAPACITY, num), dtype)
        empty = PersistentState(
            latest, jnp.zeros((*pool.shape, dim), dtype), pool, pool, zero, zero, jnp.zeros((), jnp.int32)
        )
        return self._insert_jit(empty, latest), outside

    def _step_pool(
        self, operands: Any, state: PersistentState, threshold: Any, key: Array, number: Any
    ) -> tuple[PersistentState, TemperatureInfo]:
        """Temperature `number` of a run: weigh all particles so far, resample N of them, move these, and add them."""
        if int(state.count) == state.position.shape[1]:
            state = _doubled(state)
        chosen = self._choose_jit(state, threshold, key, number)
        latest, info = self._move_jit(operands, chosen, state.latest.log_step_size, key, number)
        return self._insert_jit(state, latest), info

    def _choose(self, state: PersistentState, threshold: Array, key: Array, number: Array) -> Chosen:
        key_resample, _ = jax.random.split(jax.random.fold_in(key, number))
        runs, _, num, dim = state.position.shape
        latest = state.latest

        def temperature(likelihood: Array, mixture: Array, beta: Array, own: Array) -> tuple[Array, ...]:
            base = persistent_log_weights(likelihood, mixture, beta, state.count).reshape(-1)
            goal = threshold * jnp.sum((own > -jnp.inf).astype(own.dtype))
            new, ess = next_inverse_temperature(
                jnp.where(base == -jnp.inf, -jnp.inf, likelihood.reshape(-1)), beta, threshold, base, goal
            )
            log_weights = persistent_log_weights(likelihood, mixture, new, state.count)
            return new, ess, persistent_log_evidence(log_weights, state.count), log_weights.reshape(-1)

        beta, ess, log_evidence, log_weights = jax.vmap(temperature)(
            state.log_likelihood, state.log_mixture, latest.inverse_temperature, latest.log_likelihood
        )
        flat = state.position.reshape(runs, -1, dim)
        ancestors = self.law(log_weights, num).sample(key_resample)
        before = jnp.take_along_axis(flat, ancestors[:, :, None], axis=1)
        scale = self.moves.scale(normalised(log_weights), flat)
        delta = beta - latest.inverse_temperature
        shift, shift_variance = jax.vmap(halfway_shift)(latest.log_likelihood, latest.halfway, delta)
        return Chosen(beta, ess, log_evidence, before, scale, shift, shift_variance)

    def _move_and_look(
        self, operands: Any, chosen: Chosen, log_step: Array, key: Array, number: Array
    ) -> tuple[TemperedState, TemperatureInfo]:
        _, key_moves = jax.random.split(jax.random.fold_in(key, number))
        beta = chosen.inverse_temperature
        moved, still = self.move(operands, chosen.before, beta, chosen.scale, log_step, key_moves)
        prior, likelihood, halfway = self.look(operands, moved)
        nothing = jnp.full_like(beta, jnp.nan)
        latest = TemperedState(
            moved.position, prior, likelihood, beta, chosen.log_evidence, moved.log_step_size, halfway, nothing
        )
        return latest, info_of(chosen.ess, moved, still, chosen.shift, chosen.shift_variance)

    def _insert(self, state: PersistentState, latest: TemperedState) -> PersistentState:
        """The pool with one more temperature: its particles, and its term in the mixture of all."""
        at = state.count
        likelihoods = state.log_likelihood.at[:, at].set(latest.log_likelihood)
        betas = state.inverse_temperatures.at[:, at].set(latest.inverse_temperature)
        log_zs = state.log_evidences.at[:, at].set(latest.log_evidence)
        one = jnp.expand_dims(latest.inverse_temperature, (1, 2)), jnp.expand_dims(latest.log_evidence, (1, 2))
        finite = jnp.where(likelihoods == -jnp.inf, 0, likelihoods)
        older = jnp.where(at > 0, jnp.logaddexp(state.log_mixture, one[0] * finite - one[1]), state.log_mixture)
        own = jax.vmap(log_mixture_of, in_axes=(0, 0, 0, None))(latest.log_likelihood, betas, log_zs, at + 1)
        return PersistentState(
            latest,
            state.position.at[:, at].set(latest.position),
            likelihoods,
            older.at[:, at].set(own),
            betas,
            log_zs,
            at + 1,
        )

    def _weigh(self, state: PersistentState) -> tuple[Array, Array]:
        """Log weights (R, C, N) for the last temperature, its own particles included, and log evidence (R,)."""

        def one(likelihood: Array, mixture: Array, beta: Array) -> tuple[Array, Array]:
            log_weights = persistent_log_weights(likelihood, mixture, beta, state.count)
            return log_weights, persistent_log_evidence(log_weights, state.count)

        return jax.vmap(one)(state.log_likelihood, state.log_mixture, state.latest.inverse_temperature)


def _doubled(state: PersistentState) -> PersistentState:
    def longer(x: Array) -> Array:
        return jnp.concatenate([x, jnp.zeros_like(x)], axis=1)

    pools = ("position", "log_likelihood", "log_mixture", "inverse_temperatures", "log_evidences")
    return state._replace(**{name: longer(getattr(state, name)) for name in pools})
