"""Synaptic intelligence: how much of the fall of the loss each parameter brought about is what it must not lose."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.checks import checked_losses, positive
from continual.strategies.architecture import Parameters
from continual.strategies.curvature import Diagonal, Penalty, penalty_of
from continual.strategies.network import (
    Loss,
    NetworkPredictor,
    Trained,
    Training,
    cross_entropy,
    epochs_of,
    stepped,
)
from continual.strategies.sequential import AbstractSequential, SequentialBelief


class Importance(NamedTuple):
    """Omega of every parameter, and its value at the end of the last task."""

    values: Diagonal
    reference: Parameters


class SynapticIntelligence(AbstractSequential):
    r"""Minimises the mean loss plus $c\sum_k\Omega_k(\theta_k - \tilde\theta_k)^2$.

    After each task $\Omega_k$ grows by $\omega_k / (\Delta_k^2 + \xi)$, where $\omega_k = -\int g_k\,d\theta_k$ along
    the path of the optimiser, g the gradient of the loss without the penalty, and $\Delta$ the way the parameter
    went. A negative contribution counts as none.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
        strength: c, for the loss as a mean over examples, as it is in the papers.
        damping: xi.

    References:
        Zenke, Poole & Ganguli (2017), Continual learning through synaptic intelligence, Eq. 4-5.
    """

    strength: float = eqx.field(static=True, default=1.0)
    damping: float = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        positive("strength", self.strength)
        positive("damping", self.damping)

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Parameters, Importance]:
        parameters = self.training.architecture.initial(key, width, self.num_classes, dtype)
        return parameters, Importance(Diagonal.prior(parameters, 0.0), parameters)

    def learnt(
        self, key: Array, parameters: Parameters, past: Importance, x: np.ndarray, y: np.ndarray
    ) -> tuple[Parameters, Importance, int, float]:
        penalty = penalty_of(past.values, past.reference, 2 * self.strength)
        state, work = self.with_optimiser(parameters, x.shape[1]), jax.tree.map(jnp.zeros_like, parameters)
        losses = []
        for rows, labels in epochs_of(self.training, key, x, y):
            state, work, loss = step(self.training, state, work, jnp.asarray(rows), jnp.asarray(labels), penalty)
            losses.append(loss)
        past = self.consolidated(past, work, state.parameters)
        return state.parameters, past, len(losses), checked_losses(losses)

    def consolidated(self, past: Importance, work: Parameters, parameters: Parameters) -> Importance:
        """The importance after a task whose path integrals are `work`."""

        def grown(old: Array, w: Array, here: Array, before: Array) -> Array:
            return old + jnp.maximum(w, 0) / ((here - before) ** 2 + self.damping)

        values = jax.tree.map(grown, past.values.values, work, parameters, past.reference)
        return Importance(Diagonal(values), parameters)

    def predictor(self, belief: SequentialBelief) -> NetworkPredictor:
        return self.point_predictor(belief)


@eqx.filter_jit
def step(
    training: Training,
    state: Trained,
    work: Parameters,
    x: Array,
    y: Array,
    penalty: Penalty,
    loss: Loss = cross_entropy,
) -> tuple[Trained, Parameters, Array]:
    """One step, the path integral so far, and the loss without the penalty."""

    def of_data(parameters: Any) -> Array:
        return loss(training.architecture(parameters, x), y)

    value, gradient = jax.value_and_grad(of_data)(state.parameters)
    held = jax.grad(penalty)(state.parameters)
    new = stepped(training.optimiser, state, jax.tree.map(jnp.add, gradient, held))
    work = jax.tree.map(lambda w, g, a, b: w - g * (b - a), work, gradient, state.parameters, new.parameters)
    return new, work, value
