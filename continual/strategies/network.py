"""A softmax network, trained by Adam on batches of fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from continual.checks import checked_inputs, checked_labels, checked_losses, positive
from continual.learner import AbstractPredictor
from continual.moments import in_batches, padded_batches
from continual.strategies.architecture import AbstractNetwork, Dense, Parameters
from probinf.arguments import positive_integer

Batch = tuple[np.ndarray, np.ndarray]  # rows and labels
Loss = Callable[[Array, Array], Array]  # outputs and targets of a batch to their mean loss


class Training(eqx.Module):
    """Network and optimiser.

    Args:
        hidden: widths of the hidden layers, ReLU between them; () is softmax regression.
        learning_rate: of Adam.
        epochs: passes over the data at hand.
        batch: examples in a step.
        network: another network than dense layers, say a `FlaxNetwork`; `hidden` then counts for nothing.
    """

    hidden: tuple[int, ...] = eqx.field(static=True, default=(256,))
    learning_rate: float = eqx.field(static=True, default=1e-3)
    epochs: int = eqx.field(static=True, default=1)
    batch: int = eqx.field(static=True, default=64)
    network: AbstractNetwork | None = None

    def __check_init__(self) -> None:
        positive_integer("epochs", self.epochs)
        positive_integer("batch", self.batch)
        positive("learning_rate", self.learning_rate)
        Dense(self.hidden)  # checks the widths

    @property
    def architecture(self) -> AbstractNetwork:
        """The network."""
        return Dense(self.hidden) if self.network is None else self.network

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate)


class Trained(eqx.Module):
    """Parameters and the optimiser's state; `width` is that of the rows."""

    parameters: Parameters
    optimiser: Any
    width: int = eqx.field(static=True)


class NetworkPredictor(AbstractPredictor):
    """Softmax over the classes seen."""

    network: AbstractNetwork
    state: Trained
    seen: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), rows_of(inputs, self.state.width), 1000)


def rows_of(inputs: Any, width: int) -> np.ndarray:
    """Inputs of a predictor as rows of `width` floats.

    Raises:
        DataError: they are not finite, or have another width.
    """
    return checked_inputs(flat(checked_inputs(inputs, "inputs")), "inputs", width)


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
    """A new network and its optimiser."""
    parameters = training.architecture.initial(key, width, num_classes, dtype)
    return Trained(parameters, training.optimiser.init(parameters), width)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean of -log p(label), nats, over the rows whose label is not -1."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(jnp.where(labels >= 0, losses, 0)) / jnp.sum(labels >= 0).astype(losses.dtype)


def trained(
    training: Training,
    state: Trained,
    batches: Iterator[Batch],
    penalty: Callable[[Parameters], Array] | None = None,
    loss: Loss = cross_entropy,
) -> tuple[Trained, int, float]:
    """The state after a step on each batch, the number of steps and the mean loss.

    Args:
        training: network and optimiser.
        state: where to go on.
        batches: rows and targets.
        penalty: a pytree, added to the loss of every step as a function of the parameters.
        loss: of outputs and targets.

    Raises:
        InferenceError: a loss is not finite; the step is named.
    """
    losses = []
    for x, y in batches:
        state, one = _step(training, state, jnp.asarray(x), jnp.asarray(y), penalty, loss)
        losses.append(one)
    return state, len(losses), checked_losses(losses)


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
def _step(
    training: Training, state: Trained, x: Array, y: Array, penalty: Callable[[Parameters], Array] | None, loss: Loss
) -> tuple[Trained, Array]:
    def objective(parameters: Parameters) -> Array:
        found = loss(training.architecture(parameters, x), y)
        return found if penalty is None else found + penalty(parameters)

    value, gradient = jax.value_and_grad(objective)(state.parameters)
    return stepped(training.optimiser, state, gradient), value


def stepped(optimiser: optax.GradientTransformation, state: Trained, gradient: Parameters) -> Trained:
    """The state after one step along a gradient."""
    change, memory = optimiser.update(gradient, state.optimiser, state.parameters)
    return Trained(optax.apply_updates(state.parameters, change), memory, state.width)


@eqx.filter_jit
def _probabilities(predictor: NetworkPredictor, x: Array) -> Array:
    logits = predictor.network(predictor.state.parameters, x)
    return jax.nn.softmax(jnp.where(predictor.seen[None], logits, -jnp.inf), axis=1)
