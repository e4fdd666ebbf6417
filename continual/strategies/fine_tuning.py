"""Fine-tuning: go on training on whatever comes. It forgets; it is the lower end of every comparison."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.strategies.network import NetworkPredictor, Trained, Training, checked_task, epochs_of, initial, trained
from probinf.arguments import positive_integer
from probinf.random import as_key


class NetworkBelief(eqx.Module):
    """A network, the classes it has seen, and the key of what is random later; no network before the first data."""

    key: Array
    state: Trained | None
    seen: Array


class FineTuning(AbstractLearner):
    """A network trained on each task in turn, with nothing against forgetting.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
    """

    num_classes: int = eqx.field(static=True)
    training: Training = Training()

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)

    def start(self, key: Any, t0: int = 0) -> NetworkBelief:
        return NetworkBelief(as_key(key, argument="key"), None, jnp.zeros(self.num_classes, bool))

    def update(
        self, belief: NetworkBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[NetworkBelief, UpdateInfo]:
        require_label(sensor)
        state = belief.state
        width = None if state is None else state.width
        x, y = checked_task(inputs, value, t, width, self.num_classes)
        key, key_start, key_order = jax.random.split(belief.key, 3)
        if state is None:
            state = initial(key_start, self.training, x.shape[1], self.num_classes, x.dtype)
        state, steps, loss = trained(self.training, state, epochs_of(self.training, key_order, x, y))
        return NetworkBelief(key, state, belief.seen.at[y].set(True)), UpdateInfo(len(x), steps, loss)

    def predictor(self, belief: NetworkBelief) -> NetworkPredictor:
        if belief.state is None:
            raise nothing_learnt()
        return NetworkPredictor(self.training.architecture, belief.state, belief.seen)
