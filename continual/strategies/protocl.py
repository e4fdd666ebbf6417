"""ProtoCL: a learned embedding, and prototypes of the classes that Bayes' rule updates in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import checked_losses, positive
from continual.learner import AbstractPredictor, nothing_learnt
from continual.moments import in_batches, padded_batches
from continual.strategies.architecture import AbstractNetwork, Parameters
from continual.strategies.memory import AbstractMemory, BalancedMemory, Stored
from continual.strategies.network import Batch, Trained, Training, generator, rows_of, stepped
from continual.strategies.prototypes import Prototypes, one_hot
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.arguments import positive_integer
from probinf.errors import ArgumentTypeError

Augmentation = Callable[[Array, Array], Array]  # key and the rows of a batch to rows


class Embedding(eqx.Module):
    """What is learnt by gradient.

    Attributes:
        network: its parameters.
        log_noise: log s².
        log_precision: log of the prototypes' prior precision.
        log_concentration: log of the classes' prior concentration.
    """

    network: Parameters
    log_noise: Array
    log_precision: Array
    log_concentration: Array

    def prior(self, num_classes: int, dimension: int) -> Prototypes:
        """Prototypes before any data, around 0."""
        ones = jnp.ones(num_classes, self.log_noise.dtype)
        zeros = jnp.zeros((num_classes, dimension), self.log_noise.dtype)
        noise = jnp.exp(self.log_noise)
        return Prototypes(jnp.exp(self.log_concentration) * ones, jnp.exp(self.log_precision) * ones, zeros, noise)


class ProtoPast(eqx.Module):
    """Examples kept, the number of examples of each class so far, and the prototypes that follow."""

    stored: Stored
    counts: Array
    prototypes: Prototypes


class PrototypePredictor(AbstractPredictor):
    """Predictive distribution over the classes seen."""

    network: AbstractNetwork
    parameters: Parameters
    prototypes: Prototypes
    seen: Array
    width: int = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), rows_of(inputs, self.width), 1000)


@eqx.filter_jit
def _probabilities(predictor: PrototypePredictor, x: Array) -> Array:
    logits = predictor.prototypes.log_joint(predictor.network(predictor.parameters, x))
    return jax.nn.softmax(jnp.where(predictor.seen[None], logits, -jnp.inf), axis=1)


class ProtoCL(AbstractSequential):
    r"""Prototypes with one shared posterior, and evaluation that changes nothing.

    Each step draws a batch with equally many examples of each class seen, from the task and the memory. One half makes
    the posterior of the prototypes, and the other half is predicted from it: the loss is $-\log p(y\mid x)$ there, and
    its gradient reaches the embedding through both halves. After the task the posterior is counted anew from the
    memory, each stored example with the weight of all those of its class it stands for. For a given embedding it is
    thus the same for any order of the data.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser; an epoch is as many steps as the task has batches.
        memory: which examples are kept.
        dimension: of the embedding.
        noise: s² where the optimiser starts.
        augmentation: (key, rows) to rows, applied to every batch of training, such as `Shifts((28, 28))`: the few
            stored examples are then not learnt by heart. Prototypes are counted from examples as they are.

    References:
        Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 7.
    """

    memory: AbstractMemory = BalancedMemory()
    dimension: int = eqx.field(static=True, default=128)
    noise: float = eqx.field(static=True, default=1.0)
    augmentation: Augmentation | None = None

    def __check_init__(self) -> None:
        positive_integer("dimension", self.dimension)
        positive("noise", self.noise)
        if self.augmentation is not None and not callable(self.augmentation):
            raise ArgumentTypeError(
                f"augmentation: expected a function of key and rows such as Shifts((28, 28)), found "
                f"{type(self.augmentation).__name__}."
            )

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Embedding, ProtoPast]:
        network = self.training.architecture.initial(key, width, self.dimension, dtype)
        zero = jnp.zeros((), dtype)
        embedding = Embedding(network, jnp.asarray(np.log(self.noise), dtype), zero, zero)
        prior = embedding.prior(self.num_classes, self.dimension)
        return embedding, ProtoPast(Stored.empty(width, np.dtype(dtype)), jnp.zeros(self.num_classes, dtype), prior)

    def learnt(
        self, key: Array, parameters: Embedding, past: ProtoPast, x: np.ndarray, y: np.ndarray
    ) -> tuple[Embedding, ProtoPast, int, float]:
        key_order, key_memory = jax.random.split(key)
        key_augment = jax.random.fold_in(key, 2)
        state, losses = self.with_optimiser(parameters, x.shape[1]), []
        counts = past.counts + jnp.asarray(np.bincount(y, minlength=self.num_classes), past.counts.dtype)
        steps = self.training.epochs * -(-len(x) // self.training.batch)
        rows = np.concatenate([np.asarray(past.stored.inputs, x.dtype), x])
        labels = np.concatenate([np.asarray(past.stored.labels), y])
        for i, (piece, its) in enumerate(balanced(rows, labels, self.training.batch, steps, generator(key_order))):
            piece, its = jnp.asarray(piece), jnp.asarray(its)
            if self.augmentation is not None:
                piece = _augmented(self.augmentation, key_augment, jnp.asarray(i), piece)
            state, loss = _step(self.training, state, piece, its, counts > 0)
            losses.append(loss)
        stored = self.memory.with_examples(past.stored, x, y, generator(key_memory))
        prototypes = self.counted(state.parameters, stored, counts)
        return state.parameters, ProtoPast(stored, counts, prototypes), steps, checked_losses(losses)

    def counted(self, embedding: Embedding, stored: Stored, counts: Array) -> Prototypes:
        """The posterior given stored examples, each class with the weight of all its examples."""
        x, y = np.asarray(stored.inputs), np.asarray(stored.labels)
        kept = np.maximum(np.bincount(y, minlength=self.num_classes), 1)
        weights = counts / jnp.asarray(kept, counts.dtype)
        found = embedding.prior(self.num_classes, self.dimension)
        for (rows, labels), _ in padded_batches((x, y), 1000):
            found = _updated(
                self.training.architecture, embedding, found, jnp.asarray(rows), jnp.asarray(labels), weights
            )
        return found

    def predictor(self, belief: SequentialBelief) -> PrototypePredictor:
        if not belief.width:
            raise nothing_learnt()
        network, prototypes = belief.parameters.network, belief.past.prototypes
        return PrototypePredictor(self.training.architecture, network, prototypes, belief.seen, belief.width)


def balanced(x: np.ndarray, y: np.ndarray, batch: int, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches in which the classes take turns, drawn with replacement: both halves hold as many of each, up to one."""
    classes = np.unique(y)
    pools = [np.flatnonzero(y == label) for label in classes]
    for _ in range(steps):
        turns = np.arange(batch) % len(classes)
        shift = rng.permutation(len(classes))  # no class is favoured where the batch is no multiple
        chosen = np.empty(batch, int)
        for k, pool in enumerate(pools):
            places = np.flatnonzero(shift[turns] == k)
            chosen[places] = pool[rng.integers(0, len(pool), len(places))]
        yield x[chosen], y[chosen]


@eqx.filter_jit
def _augmented(augmentation: Augmentation, key: Array, number: Array, rows: Array) -> Array:
    return augmentation(jax.random.fold_in(key, number), rows)


@eqx.filter_jit
def _step(training: Training, state: Trained, x: Array, y: Array, seen: Array) -> tuple[Trained, Array]:
    half = len(x) // 2

    def objective(embedding: Embedding) -> Array:
        z = training.architecture(embedding.network, x)
        prior = embedding.prior(len(seen), z.shape[1])
        posterior = prior.updated(z[:half], one_hot(y[:half], len(seen), z.dtype))
        logits = jnp.where(seen[None], posterior.log_joint(z[half:]), -jnp.inf)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), y[half:, None], axis=1))

    value, gradient = jax.value_and_grad(objective)(state.parameters)
    return stepped(training.optimiser, state, gradient), value


@eqx.filter_jit
def _updated(
    network: AbstractNetwork, embedding: Embedding, prototypes: Prototypes, x: Array, y: Array, weights: Array
) -> Prototypes:
    z = network(embedding.network, x)
    return prototypes.updated(z, one_hot(y, len(weights), z.dtype) * weights[None])
