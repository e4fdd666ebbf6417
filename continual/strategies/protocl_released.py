"""ProtoCL as its authors released it: what the published numbers come from, kept for comparison."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from continual.checks import checked_losses
from continual.learner import AbstractPredictor, nothing_learnt
from continual.moments import in_batches
from continual.strategies.architecture import Dense, Layers
from continual.strategies.network import Trained, Training, generator, rows_of, stepped
from continual.strategies.prototypes import Prototypes, one_hot
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError


class ReleasedPast(eqx.Module):
    """Prototypes of every position in a batch, and examples kept of each task.

    Attributes:
        prototypes: a leading axis of positions.
        inputs: (kept, features).
        labels: (kept,).
        tasks: which task each came from, (kept,).
        num_tasks: so far.
    """

    prototypes: Prototypes
    inputs: np.ndarray
    labels: np.ndarray
    tasks: np.ndarray
    num_tasks: np.ndarray


class ReleasedPredictor(AbstractPredictor):
    """Row i has the prototypes of position i modulo the batch; all classes compete, those without data too."""

    network: Dense
    parameters: Layers
    prototypes: Prototypes
    batch: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        x = rows_of(inputs, self.width)
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), x, 4 * self.batch)


@eqx.filter_jit
def _probabilities(predictor: ReleasedPredictor, x: Array) -> Array:
    z, position = predictor.network(predictor.parameters, x), jnp.arange(len(x)) % predictor.batch
    return jax.nn.softmax(_log_joint(jax.tree.map(lambda leaf: leaf[position], predictor.prototypes), z), axis=1)


class ReleasedProtoCL(AbstractSequential):
    r"""The recipe of the released code, but for its evaluation.

    Every position in the mini-batch has prototypes of its own, which are never recounted: they take in an example each
    time it comes by, at the embedding it then has. The loss of a batch is that of its labels under the prototypes
    before it, which count as constants. Prior: precisions $\exp N(0, 1)$, information N(0, I), concentration
    $e^{0.78}$; s² = 0.05. Incomplete batches are dropped; a task of less than
    one repeats its examples. Of each task, `capacity` divided by the number of tasks are
    kept; in training each is repeated until old and new are about equally many. The released evaluation goes on
    updating the prototypes with test labels, and keeps dropout on; here it does neither.

    Args:
        num_classes: classes there will ever be.
        training: network and optimiser; dense layers.
        capacity: examples kept in all.
        dimension: of the embedding.
        dropout: share of units left out behind every layer, in training.
        l2: added to the gradient, times the parameters.

    Raises:
        ArgumentError: the network is not dense, or a share is not in [0, 1).

    References:
        Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 7, and its code.
    """

    training: Training = Training(epochs=50, learning_rate=1e-4)
    capacity: int = eqx.field(static=True, default=1000)
    dimension: int = eqx.field(static=True, default=128)
    dropout: float = eqx.field(static=True, default=0.1)
    l2: float = eqx.field(static=True, default=1e-4)

    def __check_init__(self) -> None:
        positive_integer("capacity", self.capacity)
        positive_integer("dimension", self.dimension)
        if not isinstance(self.training.architecture, Dense):
            raise ArgumentError("training: the released network has dense layers; leave network=None.")
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"dropout: expected a share from 0 to below 1, found {self.dropout}.")
        if not 0 <= self.l2 < np.inf:
            raise ArgumentError(f"l2: expected a number of at least 0, found {self.l2}.")

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam, with the penalty inside its gradient."""
        return optax.chain(optax.add_decayed_weights(self.l2), self.training.optimiser)

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Layers, ReleasedPast]:
        key_network, key_precision, key_information = jax.random.split(key, 3)
        layers = self.training.architecture.initial(key_network, width, self.dimension, dtype)
        prior = Prototypes(
            jnp.full(self.num_classes, np.exp(0.78), dtype),
            jnp.exp(jax.random.normal(key_precision, (self.num_classes,), dtype)),
            jax.random.normal(key_information, (self.num_classes, self.dimension), dtype),
            jnp.asarray(0.05, dtype),
        )
        each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (self.training.batch, *leaf.shape)), prior)
        none = np.zeros(0, np.int32)
        return layers, ReleasedPast(each, np.zeros((0, width), dtype), none, none, np.asarray(0, np.int32))

    def learnt(
        self, key: Array, parameters: Layers, past: ReleasedPast, x: np.ndarray, y: np.ndarray
    ) -> tuple[Layers, ReleasedPast, int, float]:
        batch = self.training.batch
        key_order, key_drop, key_memory = jax.random.split(key, 3)
        times = max(len(x) // self.capacity, 1)
        rows = np.concatenate([x, np.repeat(np.asarray(past.inputs, x.dtype), times, axis=0)])
        labels = np.concatenate([y, np.repeat(np.asarray(past.labels), times)])
        state = Trained(parameters, self.optimiser.init(parameters), x.shape[1])
        rng, prototypes, losses = generator(key_order), past.prototypes, []
        for _ in range(self.training.epochs):
            order = np.resize(rng.permutation(len(rows)), max(len(rows), batch))
            for chosen in order[: len(order) // batch * batch].reshape(-1, batch):
                piece = jnp.asarray(rows[chosen]), jnp.asarray(labels[chosen])
                state, prototypes, loss = _step(
                    self, state, prototypes, jax.random.fold_in(key_drop, len(losses)), *piece
                )
                losses.append(loss)
        past = self._kept(past, prototypes, x, y, generator(key_memory))
        return state.parameters, past, len(losses), checked_losses(losses)

    def _kept(
        self, past: ReleasedPast, prototypes: Prototypes, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
    ) -> ReleasedPast:
        number = int(past.num_tasks)
        size = max(self.capacity // (number + 1), 1)
        chosen = rng.permutation(len(x))[:size]
        tasks = np.asarray(past.tasks)
        old = np.concatenate([np.zeros(0, int), *(np.flatnonzero(tasks == t)[:size] for t in range(number))])
        return ReleasedPast(
            prototypes,
            np.concatenate([np.asarray(past.inputs, x.dtype)[old], x[chosen]]),
            np.concatenate([np.asarray(past.labels)[old], y[chosen]]),
            np.concatenate([tasks[old], np.full(len(chosen), number, np.int32)]),
            np.asarray(number + 1, np.int32),
        )

    def predictor(self, belief: SequentialBelief) -> ReleasedPredictor:
        if not belief.width:
            raise nothing_learnt()
        network, batch = Dense(self.training.hidden), self.training.batch
        return ReleasedPredictor(network, belief.parameters, belief.past.prototypes, batch, belief.width)


@eqx.filter_jit
def _step(
    learner: ReleasedProtoCL, state: Trained, prototypes: Prototypes, key: Array, x: Array, y: Array
) -> tuple[Trained, Prototypes, Array]:
    def objective(layers: Layers) -> tuple[Array, Array]:
        z = _dropped_out(key, layers, x, learner.dropout)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(_log_joint(prototypes, z), axis=1), y[:, None], axis=1)
        return -jnp.mean(chosen), z

    (value, z), gradient = jax.value_and_grad(objective, has_aux=True)(state.parameters)
    weights = one_hot(y, learner.num_classes, z.dtype)
    prototypes = jax.vmap(lambda p, row, w: p.updated(row[None], w[None]))(prototypes, z, weights)
    return stepped(learner.optimiser, state, gradient), prototypes, value


def _log_joint(prototypes: Prototypes, z: Array) -> Array:
    """Of row i under the prototypes of position i."""
    return jax.vmap(lambda p, row: p.log_joint(row[None])[0])(prototypes, z)


def _dropped_out(key: Array, layers: Layers, x: Array, share: float) -> Array:
    for i, (weights, biases) in enumerate(layers):
        x = x @ weights + biases[None]
        x = jax.nn.relu(x) if i < len(layers) - 1 else x
        if share:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - share, x.shape)
            x = jnp.where(kept, x / (1 - share), 0)
    return x
