"""What learners share that carry parameters and a summary of the past from task to task."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.strategies.architecture import Parameters
from continual.strategies.network import NetworkPredictor, Trained, Training, checked_task
from probinf.arguments import positive_integer
from probinf.random import as_key


class SequentialBelief(eqx.Module):
    """Belief between two tasks.

    Attributes:
        key: of what is random later.
        parameters: of the network or of the distribution over it; `None` before the first data.
        past: what the strategy carries besides.
        seen: classes with data.
        width: of the rows.
    """

    key: Array
    parameters: Parameters
    past: Any
    seen: Array
    width: int = eqx.field(static=True, default=0)


class AbstractSequential(AbstractLearner):
    """A network trained on one task after the other, with something carried over; an update is a task.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser; Adam starts afresh in every task.
    """

    num_classes: int = eqx.field(static=True)
    training: Training = Training()

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)

    @abc.abstractmethod
    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Parameters, Any]:
        """Parameters and past before any data."""

    @abc.abstractmethod
    def learnt(
        self, key: Array, parameters: Parameters, past: Any, x: np.ndarray, y: np.ndarray
    ) -> tuple[Parameters, Any, int, float]:
        """Parameters and past after a task, the number of steps and the mean loss."""

    def start(self, key: Any, t0: int = 0) -> SequentialBelief:
        return SequentialBelief(as_key(key, argument="key"), None, None, jnp.zeros(self.num_classes, bool))

    def update(
        self, belief: SequentialBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[SequentialBelief, UpdateInfo]:
        require_label(sensor)
        x, y = checked_task(inputs, value, t, belief.width or None, self.num_classes)
        key, key_start, key_task = jax.random.split(belief.key, 3)
        parameters, past = belief.parameters, belief.past
        if not belief.width:
            parameters, past = self.fresh(key_start, x.shape[1], x.dtype)
        parameters, past, steps, loss = self.learnt(key_task, parameters, past, x, y)
        seen = belief.seen.at[y].set(True)
        return SequentialBelief(key, parameters, past, seen, x.shape[1]), UpdateInfo(len(x), steps, loss)

    def with_optimiser(self, parameters: Parameters, width: int) -> Trained:
        """Parameters with an optimiser that has seen nothing."""
        return Trained(parameters, self.training.optimiser.init(parameters), width)

    def point_predictor(self, belief: SequentialBelief) -> NetworkPredictor:
        """Softmax at the parameters.

        Raises:
            InferenceError: nothing has been learnt yet.
        """
        if not belief.width:
            raise nothing_learnt()
        state = self.with_optimiser(belief.parameters, belief.width)
        return NetworkPredictor(self.training.architecture, state, belief.seen)
