"""A softmax network with dense layers, trained by Adam on batches of fixed shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from continual.checks import checked_inputs, checked_labels, positive
from continual.learner import AbstractPredictor
from continual.moments import in_batches, padded_batches
from probinf.arguments import positive_integer

Batch = tuple[np.ndarray, np.ndarray]  # rows and labels
Layers = list[tuple[Array, Array]]  # weights (inputs, outputs) and biases of each layer


class Training(eqx.Module):
    """Network and optimiser.

    Args:
        hidden: widths of the hidden layers, ReLU between them; () is softmax regression.
        learning_rate: of Adam.
        epochs: passes over the data at hand.
        batch: examples in a step.
    """

    hidden: tuple[int, ...] = eqx.field(static=True, default=(256,))
    learning_rate: float = eqx.field(static=True, default=1e-3)
    epochs: int = eqx.field(static=True, default=1)
    batch: int = eqx.field(static=True, default=64)

    def __check_init__(self) -> None:
        positive_integer("epochs", self.epochs)
        positive_integer("batch", self.batch)
        positive("learning_rate", self.learning_rate)
        for width in self.hidden:
            positive_integer("hidden", width)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate)


class Trained(eqx.Module):
    """Layers and the optimiser's state."""

    layers: Layers
    optimiser: Any


class NetworkPredictor(AbstractPredictor):
    """Softmax over the classes seen."""

    layers: Layers
    seen: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        x = flat(checked_inputs(inputs, "inputs"))
        checked_inputs(x, "inputs", len(self.layers[0][0]))
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), x, 1000)


def flat(inputs: np.ndarray) -> np.ndarray:
    """Inputs as rows of floats; bytes over 255."""
    dtype = np.float64 if inputs.dtype == np.float64 else np.float32
    rows = inputs.reshape(len(inputs), -1).astype(dtype)
    return rows / dtype(255) if inputs.dtype == np.uint8 else rows


def checked_task(inputs: Any, labels: Any, t: int, width: int | None, num_classes: int) -> Batch:
    """Rows and labels of a task, once all door checks are passed.

    Raises:
        DataError: as for `AbstractLearner.update`.
    """
    x = flat(checked_inputs(inputs, f"task {t}"))
    checked_inputs(x, f"task {t}", width)
    return x, checked_labels(labels, f"task {t}", len(x), num_classes)


def initial(key: Array, training: Training, width: int, num_classes: int, dtype: Any) -> Trained:
    """Layers by He's rule, zero biases."""
    widths = (width, *training.hidden, num_classes)
    layers = []
    for one, a, b in zip(jax.random.split(key, len(widths) - 1), widths, widths[1:], strict=False):
        scale = jnp.asarray(np.sqrt(2 / a), dtype)
        layers.append((scale * jax.random.normal(one, (a, b), dtype), jnp.zeros(b, dtype)))
    return Trained(layers, training.optimiser.init(layers))


def trained(training: Training, state: Trained, batches: Iterator[Batch]) -> tuple[Trained, int, float]:
    """The state after a step on each batch, the number of steps and the mean loss."""
    losses = []
    for x, y in batches:
        state, loss = _step(training, state, jnp.asarray(x), jnp.asarray(y))
        losses.append(loss)
    return state, len(losses), float(np.mean(jax.device_get(losses)))


def epochs_of(training: Training, key: Array, x: np.ndarray, y: np.ndarray) -> Iterator[Batch]:
    """Batches of all epochs, each in an order of its own; the last of an epoch is padded by label -1."""
    rng = generator(key)
    for _ in range(training.epochs):
        order = rng.permutation(len(x))
        for (rows, labels), _ in padded_batches((x[order], y[order]), training.batch):
            yield rows, labels


def generator(key: Array) -> np.random.Generator:
    """A NumPy generator that follows from a key: for orders and memories, which live on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


@eqx.filter_jit
def _step(training: Training, state: Trained, x: Array, y: Array) -> tuple[Trained, Array]:
    def loss_of(layers: Layers) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(_logits(layers, x), jnp.maximum(y, 0))
        return jnp.sum(jnp.where(y >= 0, losses, 0)) / jnp.sum(y >= 0).astype(losses.dtype)

    loss, gradient = jax.value_and_grad(loss_of)(state.layers)
    change, optimiser = training.optimiser.update(gradient, state.optimiser, state.layers)
    return Trained(optax.apply_updates(state.layers, change), optimiser), loss  # pyright: ignore[reportArgumentType]


def _logits(layers: Layers, x: Array) -> Array:
    for weights, biases in layers[:-1]:
        x = jax.nn.relu(x @ weights + biases[None])
    weights, biases = layers[-1]
    return x @ weights + biases[None]


@eqx.filter_jit
def _probabilities(predictor: NetworkPredictor, x: Array) -> Array:
    return jax.nn.softmax(jnp.where(predictor.seen[None], _logits(predictor.layers, x), -jnp.inf), axis=1)
