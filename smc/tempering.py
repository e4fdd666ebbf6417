"""The compiled pieces of tempering: the start, the next inverse temperature, and one temperature with its moves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.kernels.chains import cached, counted
from probinf.kernels.flat import FlatLayout
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import scheme, weights_from_log
from probinf.transformations.tempering import next_inverse_temperature, powers
from smc.tempered_density import log_prior_and_likelihood
from smc.tempered_moves import Moved, Moves


class Settings(NamedTuple):
    """What the compiled programs depend on besides the model; see `smc.TemperedSMC`."""

    num_runs: int
    num_particles: int
    num_moves: int
    max_moves: int
    num_leapfrog: int
    resample: str
    moves: str = "hmc"
    chain_length: int = 0
    persistent: bool = False


class TemperedState(NamedTuple):
    """R runs of N particles side by side.

    Attributes:
        position: (R, N, d), unconstrained.
        log_prior: (R, N) nats, Jacobians included.
        log_likelihood: (R, N) nats; -inf is a legal zero.
        inverse_temperature: (R,), 0 at the prior and 1 at the posterior.
        log_evidence: (R,) nats.
        log_step_size: (R,), in standard deviations of the particles.
        halfway: (R, N) nats, the log likelihood after half of the moves.
        variance: (R,), estimate of the variance of the log evidence from the one run; NaN where there is none.
    """

    position: Array
    log_prior: Array
    log_likelihood: Array
    inverse_temperature: Array
    log_evidence: Array
    log_step_size: Array
    halfway: Array
    variance: Array


class TemperatureInfo(NamedTuple):
    """What happened at one temperature, each of shape (R,): see `smc.history`.

    Attributes:
        ess: effective sample size at the new temperature.
        acceptance: rate of the last round of moves.
        num_moves: moves made.
        autocorrelation: largest correlation of a coordinate, or of the log density, with itself before the moves.
        slowest: index of that coordinate.
        still: share of the particles that no move moved.
        shift: this step of the log evidence minus what it would be with half of the moves before it.
        shift_variance: variance of `shift` if the moves mix.
    """

    ess: Array
    acceptance: Array
    num_moves: Array
    autocorrelation: Array
    slowest: Array
    still: Array
    shift: Array
    shift_variance: Array


def log_mean_power(log_likelihood: Float[Array, " particles"], step: Array) -> Array:
    """Log of the mean of L^step, scalar, in nats."""
    return step * jnp.max(log_likelihood) + log_mean_exp(powers(log_likelihood, step))


def relative_powers(log_likelihood: Float[Array, " particles"], step: Array) -> Array:
    """L^step over its mean, (N,)."""
    log_weights = powers(log_likelihood, step)
    return jnp.exp(log_weights - log_mean_exp(log_weights))


class TemperingPrograms:
    """The compiled programs of one model and one size; data and keys are their arguments.

    Args:
        target: the program's `unconstrained()`.
        settings: sizes and names.
    """

    def __init__(self, target: Any, settings: Settings) -> None:
        # The target's operands are not kept: the data of the first run must not be those of the next.
        self.layout = layout = FlatLayout(target.position_shapes)
        self.settings = settings
        self.law = scheme(settings.resample)
        self.parts = lambda operands, x: log_prior_and_likelihood(target, operands, layout.unravel(x))
        self.moves = Moves(settings.moves, self.parts, settings.num_leapfrog)
        self._draw = lambda operands, key: layout.ravel(target.prior_position(operands, key))
        self.start = counted(self._start)
        self.step = counted(self._step)
        self.constrain = counted(
            lambda operands, position: jax.vmap(jax.vmap(lambda x: target.constrain(operands, layout.unravel(x))))(
                position
            )
        )

    def _start(self, operands: Any, key: Array) -> tuple[TemperedState, Array]:
        """Particles of the prior, and how many of them lie where their density cannot be computed, (R,)."""
        runs, num, dtype = self.settings.num_runs, self.settings.num_particles, self.layout.dtype
        x = jax.vmap(lambda k: self._draw(operands, k))(jax.random.split(key, runs * num))
        legal = jnp.all(jnp.isfinite(x), axis=1)
        x = jnp.where(legal[:, None], x, jnp.zeros_like(x))
        prior, likelihood = jax.vmap(lambda row: self.parts(operands, row))(x)
        legal = legal & jnp.isfinite(prior)
        # A draw that rounding sent to the border of its support has no density: weight zero, and counted.
        likelihood = jnp.where(legal, likelihood, -jnp.inf).reshape(runs, num).astype(dtype)
        prior = jnp.where(legal, prior, 0).reshape(runs, num).astype(dtype)
        step = jnp.log(jnp.asarray(self.moves.tuning.start(self.layout.dim), dtype))
        zero = jnp.zeros(runs, dtype)
        variance = zero if self.settings.chain_length else zero + jnp.nan
        x = x.reshape(runs, num, -1)
        state = TemperedState(x, prior, likelihood, zero, zero, jnp.full(runs, step), likelihood, variance)
        return state, jnp.sum((~legal).reshape(runs, num).astype(jnp.int32), axis=1)

    def _step(
        self, operands: Any, state: TemperedState, threshold: Array, key: Array, number: Array
    ) -> tuple[TemperedState, TemperatureInfo]:
        """Temperature `number` of a run: reweight, resample, move."""
        key_resample, key_moves = jax.random.split(jax.random.fold_in(key, number))
        beta, ess = jax.vmap(next_inverse_temperature, in_axes=(0, 0, None))(
            state.log_likelihood, state.inverse_temperature, threshold
        )
        delta = beta - state.inverse_temperature
        log_weights = jax.vmap(powers)(state.log_likelihood, delta)
        increment = jax.vmap(log_mean_power)(state.log_likelihood, delta)
        scale = self.moves.scale(normalised(log_weights), state.position)
        shift, shift_variance = jax.vmap(halfway_shift)(state.log_likelihood, state.halfway, delta)
        ancestors = self.law(log_weights, self.settings.num_particles).sample(key_resample)
        before = jnp.take_along_axis(state.position, ancestors[:, :, None], axis=1)
        moved, still = self.move(operands, before, beta, scale, state.log_step_size, key_moves)
        prior, likelihood, halfway = self.look(operands, moved)
        new = TemperedState(
            moved.position,
            prior,
            likelihood,
            beta,
            state.log_evidence + increment,
            moved.log_step_size,
            halfway,
            state.variance,
        )
        return new, info_of(ess, moved, still, shift, shift_variance)

    def move(
        self, operands: Any, before: Array, beta: Array, scale: Array, log_step: Array, key: Array
    ) -> tuple[Moved, Array]:
        """Rounds of moves, and the share of the particles that none of them moved."""
        numbers = self.settings.num_moves, self.settings.max_moves
        moved = self.moves.rounds(operands, before, beta, scale, log_step, key, *numbers)
        still = jnp.mean(jnp.all(moved.position == before, axis=2).astype(before.dtype), axis=1)
        return moved, still

    def look(self, operands: Any, moved: Moved) -> tuple[Array, Array, Array]:
        """Log prior and log likelihood after the moves, and log likelihood halfway, each (R, N)."""
        parts = jax.vmap(jax.vmap(lambda x: self.parts(operands, x)))
        prior, likelihood = parts(moved.position)
        return prior, likelihood, parts(moved.halfway)[1]


def normalised(log_weights: Float[Array, "runs particles"]) -> Array:
    """Weights of each run, summing to one."""
    weights = jax.vmap(weights_from_log)(log_weights)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def halfway_shift(log_likelihood: Array, halfway: Array, step: Array) -> tuple[Array, Array]:
    """Log mean L^step after all moves minus after half of them, of the same particles, and its variance.

    Given where the particles stood before the moves they are independent, whatever their ancestors.
    """
    shift = log_mean_power(log_likelihood, step) - log_mean_power(halfway, step)
    difference = relative_powers(log_likelihood, step) - relative_powers(halfway, step)
    return shift, jnp.mean(difference**2) / log_likelihood.size


def info_of(ess: Array, moved: Moved, still: Array, shift: Array, shift_variance: Array) -> TemperatureInfo:
    """The record of one temperature."""
    return TemperatureInfo(
        ess,
        moved.acceptance,
        moved.num_moves,
        moved.autocorrelation,
        moved.slowest,
        still,
        shift,
        shift_variance,
    )


def tempering_programs(target: Any, settings: Settings) -> TemperingPrograms:
    """The programs of an earlier run of the same model and sizes, if there was one."""
    if settings.chain_length:
        from smc.waste_free_tempering import WasteFreePrograms as Programs
    elif settings.persistent:
        from smc.persistent import PersistentPrograms as Programs
    else:
        Programs = TemperingPrograms
    key = ("tempering", target.signature, str(jnp.zeros(()).dtype), settings)
    return cached(key, lambda: Programs(target, settings))
