"""Hamiltonian Monte Carlo moves of a whole population: one step size, metric and key for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LogDensity = Callable[[Array], Array]

_SHORTEST = 0.3
_WRITTEN_OUT = 8  # leapfrog steps up to which a trajectory is not a loop, so that steps become one operation


class HMCPopulation(NamedTuple):
    """Particles with the density and gradient of the target they were last seen by.

    Attributes:
        position: (N, d).
        logdensity: (N,) nats.
        gradient: (N, d).
    """

    position: Array
    logdensity: Array
    gradient: Array


def start_population(position: Float[Array, "particles dim"], logdensity: LogDensity) -> HMCPopulation:
    """Look at every particle with a target, again when the target changes, or old densities bias the moves."""
    value, gradient = jax.vmap(jax.value_and_grad(logdensity))(position)
    return HMCPopulation(position, value, gradient)


def move_population(
    key: Array,
    population: HMCPopulation,
    logdensity: LogDensity,
    step_size: Array,
    variance: Float[Array, " dim"],
    num_leapfrog: int,
) -> tuple[HMCPopulation, Array]:
    """Move every particle by one trajectory that leaves the target unchanged.

    Args:
        key: of the momenta and acceptances of all particles: a key for each would cost as much as what it draws.
        population: the particles, started with the same target.
        logdensity: function of one position (d,), in nats. It is an argument because in tempering it changes at every
            temperature.
        step_size: scalar, in units of the metric.
        variance: (d,), the diagonal inverse mass matrix.
        num_leapfrog: leapfrog steps of each trajectory.

    Returns:
        The population, and the acceptance probability of each particle, (N,). A trajectory that meets NaN is rejected.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, section 3.
    """
    key_momentum, key_accept = jax.random.split(key)
    density_and_gradient = jax.vmap(jax.value_and_grad(logdensity))
    size = (step_size * jnp.sqrt(variance))[None]  # momenta are standard normal, positions carry the metric

    def leapfrog(_: Any, carry: tuple[HMCPopulation, Array]) -> tuple[HMCPopulation, Array]:
        at, momentum = carry
        half = momentum + 0.5 * size * at.gradient
        position = at.position + size * half
        value, gradient = density_and_gradient(position)
        return HMCPopulation(position, value, gradient), half + 0.5 * size * gradient

    momentum = jax.random.normal(key_momentum, population.position.shape, population.position.dtype)
    carry = (population, momentum)
    if num_leapfrog <= _WRITTEN_OUT:
        for step in range(num_leapfrog):
            carry = leapfrog(step, carry)
    else:
        carry = jax.lax.fori_loop(0, num_leapfrog, leapfrog, carry)
    proposed, last = carry
    gain = 0.5 * (jnp.sum(momentum**2, axis=1) - jnp.sum(last**2, axis=1))
    log_ratio = gain + proposed.logdensity - population.logdensity
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accept = -jax.random.exponential(key_accept, log_ratio.shape, log_ratio.dtype) < log_ratio

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(accept.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(chosen, proposed, population), jnp.exp(jnp.minimum(log_ratio, 0))


def step_size_share(move: Array) -> Array:
    """The share of the step size that a move of given number takes, between 0.3 and 1 by a golden-ratio sequence.

    Trajectories of one fixed length may return to where they began (a Gaussian's orbits are periodic). A sequence fixed
    in advance varies the length as random step sizes do (Neal 2011, section 4.2) and spares their random numbers.
    """
    dtype = jnp.result_type(float)
    return _SHORTEST + (1 - _SHORTEST) * jnp.mod((move + 1).astype(dtype) * jnp.asarray(0.6180339887498949, dtype), 1)
