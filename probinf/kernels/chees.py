r"""ChEES-HMC: many chains that take the same number of leapfrog steps and share everything they learn.

All chains advance together as arrays of shape (chains, dim), so that one gradient of the ensemble is one batch of the
model: a regression's X @ beta becomes one matrix product. Shared by the ensemble are a diagonal metric, the step size
and the length of trajectories. Lengths are varied by a Halton sequence between zero and twice their mean: a trajectory
of one fixed length may return to where it began.

Momenta are standard normal and the diagonal metric stands in the step of each coordinate, ``scale_i * step_size``.
Randomness of step n is ``fold_in(key, n)``: draws do not depend on how a run is cut into pieces.

References:
    Hoffman, Radul & Sountsov (2021), An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte Carlo.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.adaptation import (
    Moments,
    StepSizeState,
    restart_step_size,
    scale_from_moments,
    start_moments,
    start_step_size,
    update_moments_by_batch,
    update_step_size,
)
from probinf.kernels.batch_first import batch_first
from probinf.kernels.nuts import LogDensity

# Section 4 of the paper: Adam without momentum. Its rate, 0.025, is doubled, as warm-up is
# short; the two rates were not compared.
_LEARNING_RATE, _SECOND_MOMENT_DECAY, _TINY = 0.05, 0.95, 1e-20
_AVERAGE_DECAY = 0.5  # weight n ** -0.5 for the n-th log length: recent lengths count most
_LOWEST_ACCEPTANCE = 0.01  # one chain that is stuck must not stop all others
_DIVERGENCE = 1000.0  # nats of energy error, as in Stan
_HALTON_BITS = 24


class TrajectoryState(NamedTuple):
    """Adam on the log of the longest trajectory, in units of the metric; all scalars."""

    log_length: Float[Array, ""]
    log_length_average: Float[Array, ""]
    second_moment: Float[Array, ""]
    num_updates: Float[Array, ""]


class Ensemble(NamedTuple):
    """All chains and what they have learned together."""

    x: Float[Array, "chains dim"]
    logdensity: Float[Array, " chains"]
    gradient: Float[Array, "chains dim"]
    scale: Float[Array, " dim"]
    step_size: StepSizeState
    trajectory: TrajectoryState
    moments: Moments


class EnsembleDraws(NamedTuple):
    """One row for each step: (steps, chains, dim), (steps, chains), or (steps,) for what all chains share."""

    x: Array
    lp: Array
    energy: Array
    acceptance_rate: Array
    diverging: Array
    n_steps: Array
    step_size: Array


class Phase(NamedTuple):
    """What a piece of the run does, as traced booleans, so that one compiled program serves all of it."""

    is_adapting: Array | np.ndarray
    is_collecting: Array | np.ndarray
    renews: Array | np.ndarray


def halton(n: Array, dtype: Any) -> Array:
    """The n-th number of the Halton sequence in base 2, in (0, 1), for n >= 1."""
    bits = np.arange(_HALTON_BITS, dtype=np.int32)
    digits = jnp.bitwise_and(jnp.right_shift(n.astype(jnp.int32), bits), jnp.int32(1)).astype(dtype)
    return jnp.sum(digits * jnp.asarray(np.ldexp(1.0, -(bits + 1)), dtype))


def harmonic_acceptance(rates: Float[Array, " chains"]) -> Float[Array, ""]:
    """Harmonic mean: chains in the narrowest places decide, as the step size is common."""
    rates = jnp.where(jnp.isfinite(rates), rates, jnp.zeros_like(rates))
    return 1.0 / jnp.mean(1.0 / jnp.maximum(rates, _LOWEST_ACCEPTANCE))


def length_gradient(
    old: Float[Array, "chains dim"],
    new: Float[Array, "chains dim"],
    velocity: Float[Array, "chains dim"],
    weights: Float[Array, " chains"],
    length: Float[Array, ""],
) -> Float[Array, ""]:
    r"""Estimate of the derivative of the ChEES criterion by the log of the trajectory's length.

    ChEES = 1/4 E[(\|z' - E z'\|² - \|z - E z\|²)²], z the whitened positions before and z' after a trajectory.

    Args:
        old: positions before.
        new: positions after, proposed, not necessarily accepted.
        velocity: dz'/dt at the end.
        weights: acceptance probability of each chain; zero where a proposal is not finite.
        length: time of the trajectory.
    """
    is_usable = (weights > 0.0)[:, None]
    new, velocity = jnp.where(is_usable, new, 0.0), jnp.where(is_usable, velocity, 0.0)
    total = jnp.maximum(jnp.sum(weights), jnp.asarray(1e-6, weights.dtype))
    old = old - jnp.mean(old, axis=0)[None, :]
    new = new - (jnp.sum(weights[:, None] * new, axis=0) / total)[None, :]
    change = jnp.sum(new**2, axis=1) - jnp.sum(old**2, axis=1)
    return length * jnp.sum(weights * change * jnp.sum(new * velocity, axis=1)) / total


def _randomness(key: Array, chains: int, dim: int, dtype: Any) -> tuple[Array, Array]:
    """Standard normals (chains, dim) and standard exponentials (chains,), from one draw of uniforms in a row.

    One draw of one axis: XLA takes two to four times as long to compile a draw of two axes.
    """
    low = jnp.nextafter(jnp.asarray(-1.0, dtype), jnp.zeros((), dtype))  # erf_inv(-1) is infinite
    u = jax.random.uniform(key, (chains * (dim + 1),), dtype, low, jnp.ones((), dtype))
    normals = jnp.asarray(2.0**0.5, dtype) * jax.lax.erf_inv(u[: chains * dim])
    exponentials = jnp.asarray(math.log(2.0), dtype) - jnp.log1p(-u[chains * dim :])
    return normals.reshape(chains, dim), exponentials


def start_trajectory(log_length: Float[Array, ""]) -> TrajectoryState:
    """Adam at a length, without memory."""
    return TrajectoryState(log_length, log_length, jnp.zeros_like(log_length), jnp.zeros_like(log_length))


def update_trajectory(state: TrajectoryState, gradient: Float[Array, ""], longest: Float[Array, ""]) -> TrajectoryState:
    """One step of Adam upwards; a gradient that is not finite changes nothing."""
    count = state.num_updates + 1.0
    second = _SECOND_MOMENT_DECAY * state.second_moment + (1.0 - _SECOND_MOMENT_DECAY) * gradient**2
    unbiased = second / (1.0 - _SECOND_MOMENT_DECAY**count)
    log_length = state.log_length + _LEARNING_RATE * gradient / jnp.sqrt(unbiased + _TINY)
    log_length = jnp.minimum(log_length, jnp.log(longest))
    weight = count**-_AVERAGE_DECAY
    average = weight * log_length + (1.0 - weight) * state.log_length_average
    new = TrajectoryState(log_length, average, second, count)
    is_usable = jnp.isfinite(log_length) & jnp.isfinite(second)
    return jax.tree.map(lambda a, b: jnp.where(is_usable, a, b), new, state)


def start_ensemble(logdensity: LogDensity, operands: Any, x: Float[Array, "chains dim"]) -> Ensemble:
    """Chains at x. The first metric comes from the spread of the positions and of their gradients."""
    dim, dtype = x.shape[1], x.dtype
    value, gradient = jax.vmap(jax.value_and_grad(lambda x: logdensity(operands, x)))(x)
    empty = start_moments(dim, dtype, "diagonal")
    scale = scale_from_moments(update_moments_by_batch(empty, x, gradient), jnp.ones(dim, dtype))
    one = jnp.ones((), dtype)
    return Ensemble(x, value, gradient, scale, start_step_size(one), start_trajectory(jnp.log(one)), empty)


def renew_ensemble(state: Ensemble) -> Ensemble:
    """End a warm-up window: a new metric, and step size and length adapted from where they are."""
    scale = scale_from_moments(state.moments, state.scale)
    moments = start_moments(scale.shape[0], scale.dtype, "diagonal")
    trajectory = start_trajectory(state.trajectory.log_length)
    return state._replace(
        scale=scale, step_size=restart_step_size(state.step_size), trajectory=trajectory, moments=moments
    )


def advance_ensemble(
    logdensity: LogDensity,
    max_leapfrogs: int,
    capacity: int,
    operands: Any,
    target_acceptance: Float[Array, ""],
    first_step: Array,
    num_steps: Array,
    phase: Phase,
    state: Ensemble,
    key: Array,
) -> tuple[Ensemble, EnsembleDraws]:
    """Advance all chains by `num_steps` <= `capacity`.

    Args:
        logdensity: function of (operands, x) for one x of shape (dim,), in nats.
        max_leapfrogs: the most leapfrog steps in one trajectory.
        capacity: rows of the returned arrays; those from `num_steps` on are zero.
        operands: data of the model.
        target_acceptance: aim of the step size adaptation, for the harmonic mean over chains.
        first_step: number of the first step since the start; it selects the randomness and the trajectory's length.
        num_steps: how many steps to take.
        phase: whether step size and length adapt, whether positions feed the metric, whether it is renewed at the end.
        state: the ensemble.
        key: the same in every call.
    """
    chains, dim = state.x.shape
    dtype = state.x.dtype
    of_one = batch_first(lambda x: logdensity(operands, x))
    value_and_gradient = jax.vmap(jax.value_and_grad(of_one))
    # Inside a trajectory only the gradient is needed, which is often much cheaper alone (no log1p in a sigmoid's).
    gradient_only = jax.vmap(jax.grad(of_one))
    scale = state.scale[None, :]

    def body(n: Array, carry: tuple[Ensemble, EnsembleDraws]) -> tuple[Ensemble, EnsembleDraws]:
        state, rows = carry
        adapted, trajectory, is_adapting = state.step_size, state.trajectory, phase.is_adapting
        step_size = jnp.exp(jnp.where(is_adapting, adapted.log_step_size, adapted.log_step_size_average))
        longest = jnp.exp(jnp.where(is_adapting, trajectory.log_length, trajectory.log_length_average))
        length = halton(first_step + n + 1, dtype) * longest
        num_leapfrogs = jnp.clip(jnp.ceil(length / step_size), 1, max_leapfrogs).astype(jnp.int32)
        momentum, patience = _randomness(jax.random.fold_in(key, first_step + n), chains, dim, dtype)
        step = step_size * scale

        def leapfrog(_: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            x, p = at
            x = x + step * p
            return x, p + step * gradient_only(x)

        p = momentum + 0.5 * step * state.gradient
        x, p = jax.lax.fori_loop(0, num_leapfrogs - 1, leapfrog, (state.x, p))
        x = x + step * p
        value, gradient = value_and_gradient(x)
        p = p + 0.5 * step * gradient

        energy = 0.5 * jnp.sum(momentum**2, axis=1) - state.logdensity
        new_energy = 0.5 * jnp.sum(p**2, axis=1) - value
        change = new_energy - energy
        change = jnp.where(jnp.isnan(change), jnp.inf, change)
        rate = jnp.exp(-jnp.maximum(change, 0.0))
        is_accepted = patience > change

        def adapt() -> tuple[StepSizeState, TrajectoryState]:
            slope = length_gradient(state.x / scale, x / scale, p, rate, length)
            cap = step_size * max_leapfrogs
            return (
                update_step_size(adapted, harmonic_acceptance(rate), target_acceptance),
                update_trajectory(trajectory, slope, cap),
            )

        adapted, trajectory = jax.lax.cond(is_adapting, adapt, lambda: (adapted, trajectory))
        moved = is_accepted[:, None]
        x = jnp.where(moved, x, state.x)
        gradient = jnp.where(moved, gradient, state.gradient)
        value = jnp.where(is_accepted, value, state.logdensity)
        energy = jnp.where(is_accepted, new_energy, energy)
        moments = jax.lax.cond(
            phase.is_collecting,
            lambda: update_moments_by_batch(state.moments, x, gradient),
            lambda: state.moments,
        )
        row = EnsembleDraws(x, value, energy, rate, change > _DIVERGENCE, num_leapfrogs, step_size)
        rows = jax.tree.map(lambda r, v: jax.lax.dynamic_update_index_in_dim(r, v.astype(r.dtype), n, 0), rows, row)
        return Ensemble(x, value, gradient, state.scale, adapted, trajectory, moments), rows

    per_chain = [jnp.zeros((capacity, chains), kind) for kind in (dtype, dtype, dtype, bool)]
    shared = [jnp.zeros(capacity, kind) for kind in (jnp.int32, dtype)]
    empty = EnsembleDraws(jnp.zeros((capacity, chains, dim), dtype), *per_chain, *shared)
    state, rows = jax.lax.fori_loop(0, num_steps, body, (state, empty))
    return jax.lax.cond(phase.renews, renew_ensemble, lambda s: s, state), rows
