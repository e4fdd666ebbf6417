"""What a smoothing method is, and what it hands over."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probinf.claims import Claim
from smc.filtering import History
from smc.state_space_model import StateSpaceModel


class Draws(NamedTuple):
    """Weighted states at every time, before anything is averaged.

    Attributes:
        particles: (T, K, *state).
        log_weights: (T, K) nats, unnormalised.
        indices: (T, K), which of the filter's particles each one is; None where they are others.
        joined: column k is one path through time, and not only K marginals.
        acceptance: (T - 1,), share of proposals accepted in the step from t + 1 to t; None without proposals.
        sound: (T - 1,), whether every state found a predecessor of positive probability.
        excess: largest log ratio of a transition density to its stated bound met in the run, nats; None without one.
    """

    particles: Array
    log_weights: Array
    indices: Array | None
    joined: bool
    acceptance: Array | None
    sound: Array
    excess: Array | None = None


class SmoothingMethod(eqx.Module):
    """Turns the history of a particle filter into weighted states given all observations."""

    claim: ClassVar[Claim]

    @abc.abstractmethod
    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        """Run on a history; compiled by `smc.smooth`."""

    def check(self, model: StateSpaceModel) -> None:
        """Refuse a model that the method cannot smooth, before long work starts."""
        del model


def trace_back(history: History, index: Int[Array, " paths"]) -> Int[Array, "time paths"]:
    """Ancestors at all times of the particles with these indices at the last time."""

    def step(index: Array, ancestors: Array) -> tuple[Array, Array]:
        index = ancestors[index]
        return index, index

    _, earlier = jax.lax.scan(step, index, history.ancestors[1:], reverse=True)
    return jnp.concatenate([earlier, index[None]])


def take_particles(history: History, indices: Int[Array, "time paths"]) -> Float[Array, "time paths ..."]:
    """The states with these indices, (T, M, *state)."""
    return jax.vmap(lambda x, i: x[i])(history.particles, indices)


def always(num_times: Any) -> Array:
    """`sound` of a method that cannot fail."""
    return jnp.ones(num_times - 1, bool)
