"""Learning: the weights follow the energy that inference has left."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.predictive_coding.deep.clamping import Clamp, Free, energies
from probinf.predictive_coding.deep.network import AbstractNetwork, DeepNetwork, Network, trainable
from probinf.predictive_coding.deep.optimisers import moved
from probinf.predictive_coding.deep.relaxation import AbstractRelaxation, FixedSteps, prepared


class AbstractRule(eqx.Module):
    """How one batch changes a network."""

    @abc.abstractmethod
    def step(
        self, network: Any, state: Any, optimiser: optax.GradientTransformation, clamp: Clamp
    ) -> tuple[Any, Any, Float[Array, ""]]:
        """Network and optimiser state after a batch, and the mean energy that was left, nats."""

    @abc.abstractmethod
    def check(self, network: AbstractNetwork, data: Clamp) -> None:
        """Raise if this rule cannot train the network on the data.

        Raises:
            ArgumentError: it cannot; the message says why.
        """


class AfterInference(AbstractRule):
    r"""Ordinary predictive coding: infer the activities, then one step down $\partial F / \partial\theta$ there.

    The derivative is local: that of layer l needs its error and the activity above it, nothing else.

    Args:
        relaxation: how activities are inferred.

    References:
        Whittington & Bogacz (2017), Neural Computation 29:1229; Song et al. (2024), Nature Neuroscience 27:348.
    """

    relaxation: AbstractRelaxation = FixedSteps()

    def __check_init__(self) -> None:
        require_relaxation(self.relaxation)

    def check(self, network: AbstractNetwork, data: Clamp) -> None:
        require_deep(network, "AfterInference")
        self.relaxation.check(network)  # pyright: ignore[reportArgumentType]

    def step(
        self, network: DeepNetwork, state: Any, optimiser: optax.GradientTransformation, clamp: Clamp
    ) -> tuple[DeepNetwork, Any, Float[Array, ""]]:
        fixed, free = prepared(network, clamp)
        free, _ = self.relaxation.run(network, fixed, free)
        energy, gradient = energy_gradient(network, clamp, free)
        network, state = updated(network, state, optimiser, gradient)
        return network, state, energy


def require_deep(network: AbstractNetwork, rule: str) -> None:
    """Raise if a network has no energy.

    Raises:
        ArgumentError: it is no `DeepNetwork`.
    """
    if not isinstance(network, DeepNetwork):
        raise ArgumentError(f"{rule}: it trains a DeepNetwork, found {type(network).__name__}.")


def require_relaxation(value: Any) -> None:
    """Raise if a value is not a relaxation.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not isinstance(value, AbstractRelaxation):
        raise ArgumentTypeError(f"relaxation: expected one such as deep.FixedSteps(8, 0.1), found {value!r}.")


def energy_gradient(network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Float[Array, ""], DeepNetwork]:
    """Mean energy of a batch and its derivative in the trained arrays, the activities held."""
    parameters, rest = trainable(network)

    def mean_energy(parameters: DeepNetwork) -> Array:
        return jnp.mean(energies(eqx.combine(parameters, rest), clamp, free))

    return jax.value_and_grad(mean_energy)(parameters)


def updated(
    network: Network, state: Any, optimiser: optax.GradientTransformation, gradient: Any
) -> tuple[Network, Any]:
    """Network and optimiser state after one optimiser step."""
    parameters, rest = trainable(network)
    parameters, state = moved(optimiser, parameters, gradient, state)
    return eqx.combine(parameters, rest), state
