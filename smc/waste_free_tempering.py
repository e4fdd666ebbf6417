"""Adaptive tempering without waste: every state of every chain is a particle, and one run estimates its own error."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smc.tempered_moves import Moved, autocorrelations
from smc.tempering import (
    TemperatureInfo,
    TemperedState,
    TemperingPrograms,
    info_of,
    log_mean_power,
    next_inverse_temperature,
    normalised,
    powers,
    relative_powers,
)


def chain_variance(relative: Float[Array, "chains length"]) -> Array:
    r"""Variance of the log of a mean over independent chains, by the delta method, from the spread of their means.

    $$\frac{1}{M (M - 1)} \sum_m (\bar w_m - 1)^2,$$

    with weights over their mean. Whatever the correlation within a chain, its mean has it (Dau & Chopin 2022,
    section 4).
    """
    means = jnp.mean(relative, axis=1)
    num = means.shape[0]
    return jnp.sum((means - jnp.mean(means)) ** 2) / (num * (num - 1))


class WasteFreePrograms(TemperingPrograms):
    """Tempering whose N particles are M chains of P states (Dau & Chopin 2022, algorithm 2); chain by chain."""

    def _step(
        self, operands: Any, state: TemperedState, threshold: Array, key: Array, number: Array
    ) -> tuple[TemperedState, TemperatureInfo]:
        """Temperature `number` of a run: reweight N, resample M, and keep all P states of each one's chain."""
        key_resample, key_moves = jax.random.split(jax.random.fold_in(key, number))
        length = self.settings.chain_length
        chains = self.settings.num_particles // length
        beta, ess = jax.vmap(next_inverse_temperature, in_axes=(0, 0, None))(
            state.log_likelihood, state.inverse_temperature, threshold
        )
        delta = beta - state.inverse_temperature
        log_weights = jax.vmap(powers)(state.log_likelihood, delta)
        increment = jax.vmap(log_mean_power)(state.log_likelihood, delta)
        relative = jax.vmap(relative_powers)(state.log_likelihood, delta)
        # Draws from the prior are independent: chains of one state.
        at_start = state.inverse_temperature == 0
        alone = jax.vmap(chain_variance)(relative[:, :, None])
        together = relative.reshape(-1, chains, length)
        variance = jnp.where(at_start, alone, jax.vmap(chain_variance)(together))
        half = length // 2
        early = state.log_likelihood.reshape(-1, chains, length)[:, :, :half].reshape(-1, chains * half)
        late = state.log_likelihood.reshape(-1, chains, length)[:, :, half:].reshape(early.shape[0], -1)
        shift = jax.vmap(log_mean_power)(late, delta) - jax.vmap(log_mean_power)(early, delta)
        difference = jnp.mean(together[:, :, half:], axis=2) - jnp.mean(together[:, :, :half], axis=2)
        shift_variance = jnp.var(difference, axis=1) / chains
        scale = self.moves.scale(normalised(log_weights), state.position)
        ancestors = self.law(log_weights, chains).sample(key_resample)
        before = jnp.take_along_axis(state.position, ancestors[:, :, None], axis=1)
        position, moved = self._chains(operands, before, beta, scale, state.log_step_size, key_moves)
        prior, likelihood = jax.vmap(jax.vmap(lambda x: self.parts(operands, x)))(position)
        new = TemperedState(
            position,
            prior,
            likelihood,
            beta,
            state.log_evidence + increment,
            moved.log_step_size,
            likelihood,
            state.variance + variance,
        )
        still = jnp.mean(jnp.all(moved.position == before, axis=2).astype(before.dtype), axis=1)
        zero = jnp.zeros_like(shift)
        return new, info_of(
            ess, moved, still, jnp.where(at_start, zero, shift), jnp.where(at_start, zero, shift_variance)
        )

    def _chains(
        self, operands: Any, before: Array, beta: Array, scale: Array, log_step: Array, key: Array
    ) -> tuple[Array, Moved]:
        """All states of the chains, (R, M * P, d), the starts included, and what is known about the last."""
        length = self.settings.chain_length

        def one(population: Any, number: Array) -> tuple[Any, tuple[Array, Array]]:
            population, rate = self.moves.step(operands, key, number, population, beta, log_step, scale)
            return population, (population.position, rate)

        first = self.moves.start(operands, before, beta)
        last, (rest, rates) = jax.lax.scan(one, first, jnp.arange(length - 1))
        states = jnp.concatenate([before[None], rest])  # (P, R, M, d)
        position = jnp.moveaxis(states, 0, 2).reshape(before.shape[0], -1, before.shape[2])
        rate = jnp.mean(rates, axis=0)
        rho = jax.vmap(autocorrelations)(self.moves.watched(first), self.moves.watched(last))
        moved = Moved(
            last.position,
            last.position,
            self.moves.adapt(log_step, rate),
            rate,
            jnp.full(rate.shape, length - 1, jnp.int32),
            jnp.max(rho, axis=1),
            jnp.argmax(rho, axis=1).astype(jnp.int32),
        )
        return position, moved
