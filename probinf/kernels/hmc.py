"""Hamiltonian Monte Carlo moves of a whole population by BlackJAX's kernel: one step size and metric for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LogDensity = Callable[[Array], Array]

_SHORTEST = 0.3


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
    keys: Array,
    population: HMCPopulation,
    logdensity: LogDensity,
    step_size: Array,
    variance: Float[Array, " dim"],
    num_leapfrog: int,
) -> tuple[HMCPopulation, Array]:
    """Move every particle by one trajectory that leaves the target unchanged.

    Args:
        keys: (N,), one for each particle's momentum and acceptance.
        population: the particles, started with the same target.
        logdensity: function of one position (d,), in nats. It is an argument because in tempering it changes at every
            temperature.
        step_size: scalar, in units of the metric.
        variance: (d,), the diagonal inverse mass matrix.
        num_leapfrog: leapfrog steps of each trajectory.

    Returns:
        The population, and the acceptance rate of each particle, (N,). A trajectory that meets NaN is rejected.
    """
    import blackjax

    kernel = blackjax.hmc.build_kernel()

    def one(key: Array, particle: HMCPopulation) -> tuple[HMCPopulation, Array]:
        # BlackJAX annotates the density as a float; it holds a scalar array.
        density: Any = particle.logdensity
        state = blackjax.mcmc.hmc.HMCState(particle.position, density, particle.gradient)
        new, info = kernel(key, state, logdensity, step_size, variance, num_leapfrog)
        rate = jnp.where(jnp.isfinite(info.acceptance_rate), info.acceptance_rate, jnp.zeros_like(info.acceptance_rate))
        return HMCPopulation(new.position, new.logdensity, new.logdensity_grad), rate

    return jax.vmap(one)(keys, population)


def step_size_share(move: Array) -> Array:
    """The share of the step size that a move of given number takes, between 0.3 and 1 by a golden-ratio sequence.

    Trajectories of one fixed length may return to where they began (a Gaussian's orbits are periodic). A sequence fixed
    in advance varies the length as random step sizes do (Neal 2011, section 4.2) and spares their random numbers.
    """
    dtype = jnp.result_type(float)
    return _SHORTEST + (1 - _SHORTEST) * jnp.mod((move + 1).astype(dtype) * jnp.asarray(0.6180339887498949, dtype), 1)
