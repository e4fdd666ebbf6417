"""Learners that keep examples and train from scratch when asked: GDumb, and joint training as the oracle."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.strategies.memory import AbstractMemory, BalancedMemory, Stored
from continual.strategies.network import (
    NetworkPredictor,
    Training,
    checked_task,
    epochs_of,
    generator,
    initial,
    trained,
)
from probinf.arguments import positive_integer
from probinf.random import as_key


class StoredBelief(eqx.Module):
    """Examples kept, and the key of training."""

    key: Array
    stored: Stored | None


class GDumb(AbstractLearner):
    """Keep a balanced memory while data pass by; train a new network on it alone when a prediction is asked for.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        memory: what is kept.
        training: network and optimiser.

    References:
        Prabhu, Torr & Dokania (2020), GDumb: a simple approach that questions our progress in continual learning.
    """

    num_classes: int = eqx.field(static=True)
    memory: AbstractMemory = BalancedMemory()
    training: Training = Training(epochs=50)

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)

    def start(self, key: Any, t0: int = 0) -> StoredBelief:
        return StoredBelief(as_key(key, argument="key"), None)

    def update(
        self, belief: StoredBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[StoredBelief, UpdateInfo]:
        require_label(sensor)
        stored = belief.stored
        x, y = checked_task(inputs, value, t, None if stored is None else stored.inputs.shape[1], self.num_classes)
        key, key_memory = jax.random.split(belief.key)
        stored = Stored.empty(x.shape[1], x.dtype) if stored is None else stored
        stored = self.memory.with_examples(stored, x, y, generator(key_memory))
        return StoredBelief(key, stored), UpdateInfo(len(x), 0)

    def predictor(self, belief: StoredBelief) -> NetworkPredictor:
        """A network trained on the memory; the same each time for the same belief."""
        if belief.stored is None:
            raise nothing_learnt()
        x, y = np.asarray(belief.stored.inputs), np.asarray(belief.stored.labels)
        key_start, key_order = jax.random.split(jax.random.fold_in(belief.key, 1))
        state = initial(key_start, self.training, x.shape[1], self.num_classes, x.dtype)
        state, _, _ = trained(self.training, state, epochs_of(self.training, key_order, x, y))
        seen = np.bincount(y, minlength=self.num_classes) > 0
        return NetworkPredictor(self.training.architecture, state, jax.numpy.asarray(seen))


class _Everything(AbstractMemory):
    """Keeps all."""

    def kept(self, old: np.ndarray, new: np.ndarray, num_seen: int, rng: np.random.Generator) -> np.ndarray:
        return np.arange(len(old) + len(new))


def Joint(num_classes: int, training: Training = Training(epochs=5)) -> GDumb:  # noqa: B008 - a learner as the others
    """The oracle: all examples are kept, and a new network is trained on all of them after each task.

    Args:
        num_classes: classes there will ever be.
        training: network and optimiser.
    """
    return GDumb(num_classes, _Everything(), training)
