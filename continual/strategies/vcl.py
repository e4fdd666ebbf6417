"""Variational continual learning: a mean-field Gaussian over the weights, whose prior is that of the task before."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import checked_losses, positive
from continual.learner import AbstractPredictor, nothing_learnt
from continual.moments import in_batches
from continual.strategies.architecture import AbstractNetwork, Parameters
from continual.strategies.memory import Stored
from continual.strategies.network import (
    Loss,
    Trained,
    Training,
    cross_entropy,
    epochs_of,
    generator,
    rows_of,
    stepped,
)
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, DataError


class MeanField(NamedTuple):
    """Independent Gaussians, one for each parameter."""

    mean: Parameters
    log_std: Parameters

    @property
    def std(self) -> Parameters:
        """Standard deviations."""
        return jax.tree.map(jnp.exp, self.log_std)


class VariationalPast(NamedTuple):
    """The posterior so far, and the examples set aside."""

    prior: MeanField
    coreset: Stored


class VariationalPredictor(AbstractPredictor):
    """Mean of the softmax over draws of the weights; the same draws each time."""

    network: AbstractNetwork
    posterior: MeanField
    seen: Array
    key: Array
    samples: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), rows_of(inputs, self.width), 1000)


@eqx.filter_jit
def _probabilities(predictor: VariationalPredictor, x: Array) -> Array:
    mean, std = predictor.posterior.mean, predictor.posterior.std

    def one(total: Array, key: Array) -> tuple[Array, None]:
        logits = predictor.network.sampled(key, mean, std, x)
        return total + jax.nn.softmax(jnp.where(predictor.seen[None], logits, -jnp.inf), axis=1), None

    zero = jnp.zeros((len(x), len(predictor.seen)), x.dtype)
    total, _ = jax.lax.scan(one, zero, jax.random.split(predictor.key, predictor.samples))
    return total / predictor.samples


class VCL(AbstractSequential):
    r"""Minimises $-E_q \log p(D_t\mid\theta) + \mathrm{KL}(q \,\|\, q_{t-1})$ over mean-field Gaussians q.

    With a coreset, `coreset` random examples of each task are set aside. They are left out of training, and a
    prediction comes from q trained on all of them, with q as prior.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
        prior_std: of every parameter before any data, around 0.
        initial_std: where the optimiser starts.
        coreset: examples of each task that are set aside.
        samples: draws of the weights in a prediction.

    References:
        Nguyen, Li, Bui & Turner (2018), Variational continual learning, Eq. 4 and Alg. 1.
    """

    prior_std: float = eqx.field(static=True, default=1.0)
    initial_std: float = eqx.field(static=True, default=0.05)
    coreset: int = eqx.field(static=True, default=0)
    samples: int = eqx.field(static=True, default=16)

    def __check_init__(self) -> None:
        positive("prior_std", self.prior_std)
        positive("initial_std", self.initial_std)
        positive_integer("samples", self.samples)
        if isinstance(self.coreset, bool) or not isinstance(self.coreset, int) or self.coreset < 0:
            raise ArgumentError(f"coreset: expected a number of examples, 0 or more, found {self.coreset!r}.")

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[MeanField, VariationalPast]:
        mean = self.training.architecture.initial(key, width, self.num_classes, dtype)
        prior = MeanField(jax.tree.map(jnp.zeros_like, mean), filled(mean, np.log(self.prior_std)))
        posterior = MeanField(mean, filled(mean, np.log(self.initial_std)))
        return posterior, VariationalPast(prior, Stored.empty(width, np.dtype(dtype)))

    def learnt(
        self, key: Array, parameters: MeanField, past: VariationalPast, x: np.ndarray, y: np.ndarray
    ) -> tuple[MeanField, VariationalPast, int, float]:
        key_fit, key_coreset = jax.random.split(key)
        coreset = past.coreset
        if self.coreset:
            if len(x) <= self.coreset:
                raise DataError(f"coreset: {self.coreset} examples of a task that has {len(x)}; nothing is left.")
            order = generator(key_coreset).permutation(len(x))
            aside, kept = order[: self.coreset], order[self.coreset :]
            coreset = Stored(
                np.concatenate([coreset.inputs, x[aside]]),
                np.concatenate([coreset.labels, y[aside]]),
                np.asarray(int(coreset.num_seen) + len(x), np.int32),
            )
            x, y = x[kept], y[kept]
        state = self.with_optimiser(parameters, x.shape[1])
        state, steps, loss = fitted(self.training, state, past.prior, key_fit, x, y)
        return state.parameters, VariationalPast(state.parameters, coreset), steps, loss

    def predictor(self, belief: SequentialBelief) -> VariationalPredictor:
        """Of q; where there is a coreset, trained on it first, the same each time for the same belief."""
        if not belief.width:
            raise nothing_learnt()
        key_fit, key_draw = jax.random.split(jax.random.fold_in(belief.key, 1))
        posterior: MeanField = belief.parameters
        if self.coreset:
            stored = belief.past.coreset
            x, y = np.asarray(stored.inputs), np.asarray(stored.labels)
            state = self.with_optimiser(posterior, belief.width)
            posterior = fitted(self.training, state, posterior, key_fit, x, y)[0].parameters
        network = self.training.architecture
        return VariationalPredictor(network, posterior, belief.seen, key_draw, self.samples, belief.width)


def filled(like: Parameters, value: float) -> Parameters:
    """The same number for every parameter."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), like)


def fitted(
    training: Training,
    state: Trained,
    prior: MeanField,
    key: Array,
    x: np.ndarray,
    y: np.ndarray,
    loss: Loss = cross_entropy,
) -> tuple[Trained, int, float]:
    """The posterior after some data, the number of steps, and the mean of the negative ELBO for each example."""
    key_order, key_noise = jax.random.split(key)
    values = []
    for i, (rows, labels) in enumerate(epochs_of(training, key_order, x, y)):
        noise = jax.random.fold_in(key_noise, i)
        size = jnp.asarray(len(x), rows.dtype)
        state, value = _step(training, state, prior, noise, jnp.asarray(rows), jnp.asarray(labels), size, loss)
        values.append(value)
    return state, len(values), checked_losses(values)


@eqx.filter_jit
def _step(
    training: Training, state: Trained, prior: MeanField, key: Array, x: Array, y: Array, size: Array, loss: Loss
) -> tuple[Trained, Array]:
    def objective(q: MeanField) -> Array:
        outputs = training.architecture.sampled(key, q.mean, q.std, x)
        return loss(outputs, y) + divergence(q, prior) / size

    value, gradient = jax.value_and_grad(objective)(state.parameters)
    return stepped(training.optimiser, state, gradient), value


def divergence(q: MeanField, p: MeanField) -> Array:
    """KL(q || p), nats."""

    def one(mean: Array, log_std: Array, prior_mean: Array, prior_log_std: Array) -> Array:
        ratio = jnp.exp(2 * (log_std - prior_log_std))
        distance = ((mean - prior_mean) * jnp.exp(-prior_log_std)) ** 2
        return 0.5 * jnp.sum(ratio + distance - 1) - jnp.sum(log_std - prior_log_std)

    return sum(jax.tree.leaves(jax.tree.map(one, q.mean, q.log_std, p.mean, p.log_std)))  # pyright: ignore[reportReturnType]
