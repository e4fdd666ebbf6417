"""Elastic weight consolidation: parameters that earlier tasks are sure of are held by springs."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.checks import positive
from continual.strategies.architecture import Parameters
from continual.strategies.curvature import Diagonal, penalty_of, with_task
from continual.strategies.network import NetworkPredictor, epochs_of, trained
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.errors import ArgumentError


class Springs(NamedTuple):
    """Stiffness of every parameter, and where its spring rests."""

    stiffness: Diagonal
    rest: Parameters


class EWC(AbstractSequential):
    r"""Minimises $-\log p(D_t\mid\theta) + \frac\lambda 2 \sum_{s<t}\sum_k F_k^s(\theta_k - \theta_k^s)^2$.

    F is the diagonal of the Fisher information at the end of task s, summed over its examples. The sum of springs is
    one spring at the weighted mean of the $\theta^s$, so the size does not grow with the tasks. With `online=True` all
    springs are moved to the last parameters, after those of the past are made weaker: $F \leftarrow \gamma F + F^t$.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
        strength: lambda; 1 is Laplace's approximation with a flat prior.
        online: move all springs to the last parameters.
        decay: gamma of the online form.

    References:
        Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks, Eq. 3; Huszár (2018), Note on
        the quadratic penalties in elastic weight consolidation; Schwarz et al. (2018), Progress & compress, section 4.
    """

    strength: float = eqx.field(static=True, default=1.0)
    online: bool = eqx.field(static=True, default=False)
    decay: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        positive("strength", self.strength)
        if not 0 <= self.decay <= 1:
            raise ArgumentError(f"decay: expected a number from 0 to 1, found {self.decay}.")
        if self.decay != 1 and not self.online:
            raise ArgumentError("decay: springs of single tasks do not get weaker; pass online=True.")

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Parameters, Springs]:
        parameters = self.training.architecture.initial(key, width, self.num_classes, dtype)
        return parameters, Springs(Diagonal.prior(parameters, 0.0), jax.tree.map(jnp.zeros_like, parameters))

    def learnt(
        self, key: Array, parameters: Parameters, past: Springs, x: np.ndarray, y: np.ndarray
    ) -> tuple[Parameters, Springs, int, float]:
        penalty = penalty_of(past.stiffness, past.rest, self.strength / len(x))
        state = self.with_optimiser(parameters, x.shape[1])
        state, steps, loss = trained(self.training, state, epochs_of(self.training, key, x, y), penalty)
        flat = Diagonal.prior(state.parameters, 0.0)
        new = with_task(flat, self.training.architecture, state.parameters, x)
        return state.parameters, self.consolidated(past, new, state.parameters), steps, loss

    def consolidated(self, past: Springs, new: Diagonal, parameters: Parameters) -> Springs:
        """The springs with those of a task added, whose Fisher information at `parameters` is `new`."""
        if self.online:
            stiffness = jax.tree.map(lambda a, b: self.decay * a + b, past.stiffness.values, new.values)
            return Springs(Diagonal(stiffness), parameters)
        stiffness = jax.tree.map(jnp.add, past.stiffness.values, new.values)

        def weighted(total: Array, added: Array, rest: Array, here: Array) -> Array:
            share = jnp.where(total > 0, added / jnp.where(total > 0, total, 1), 0)
            return rest + share * (here - rest)

        rest = jax.tree.map(weighted, stiffness, new.values, past.rest, parameters)
        return Springs(Diagonal(stiffness), rest)

    def predictor(self, belief: SequentialBelief) -> NetworkPredictor:
        return self.point_predictor(belief)
