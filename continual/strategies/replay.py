"""Experience replay: each step sees new examples and as many from a bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.strategies.memory import AbstractMemory, ReservoirMemory, Stored
from continual.strategies.network import (
    Batch,
    NetworkPredictor,
    Trained,
    Training,
    checked_task,
    epochs_of,
    generator,
    initial,
    trained,
)
from probinf.arguments import positive_integer
from probinf.random import as_key


class ReplayBelief(eqx.Module):
    """A network, a memory, the classes seen, and the key of what is random later."""

    key: Array
    state: Trained | None
    stored: Stored | None
    seen: Array


class Replay(AbstractLearner):
    """A network trained on each task together with stored examples of earlier ones.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        memory: what is kept.
        training: network and optimiser; a step has `batch` new examples and `batch` stored ones.

    References:
        Chaudhry et al. (2019), On tiny episodic memories in continual learning.
    """

    num_classes: int = eqx.field(static=True)
    memory: AbstractMemory = ReservoirMemory()
    training: Training = Training()

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)

    def start(self, key: Any, t0: int = 0) -> ReplayBelief:
        return ReplayBelief(as_key(key, argument="key"), None, None, jnp.zeros(self.num_classes, bool))

    def update(
        self, belief: ReplayBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[ReplayBelief, UpdateInfo]:
        require_label(sensor)
        state, stored = belief.state, belief.stored
        width = None if state is None else state.width
        x, y = checked_task(inputs, value, t, width, self.num_classes)
        key, key_start, key_order, key_memory = jax.random.split(belief.key, 4)
        if state is None or stored is None:
            state = initial(key_start, self.training, x.shape[1], self.num_classes, x.dtype)
            stored = Stored.empty(x.shape[1], x.dtype)
        rng = generator(key_memory)
        batches = _with_stored(epochs_of(self.training, key_order, x, y), stored, self.training.batch, rng)
        state, steps, loss = trained(self.training, state, batches)
        stored = self.memory.with_examples(stored, x, y, rng)
        return ReplayBelief(key, state, stored, belief.seen.at[y].set(True)), UpdateInfo(len(x), steps, loss)

    def predictor(self, belief: ReplayBelief) -> NetworkPredictor:
        if belief.state is None:
            raise nothing_learnt()
        return NetworkPredictor(self.training.architecture, belief.state, belief.seen)


def _with_stored(batches: Iterator[Batch], stored: Stored, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    inputs, labels = np.asarray(stored.inputs), np.asarray(stored.labels)
    for x, y in batches:
        if len(labels):
            chosen = rng.integers(0, len(labels), size)
            x, y = np.concatenate([x, inputs[chosen]]), np.concatenate([y, labels[chosen]])
        yield x, y
