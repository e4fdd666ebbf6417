"""Sequential function-space variational inference: what is held is the network's outputs where it matters."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.checks import checked_losses, positive
from continual.learner import nothing_learnt
from continual.strategies.architecture import AbstractNetwork, Outputs, Parameters
from continual.strategies.memory import AbstractMemory, BalancedMemory, Stored
from continual.strategies.network import Trained, Training, cross_entropy, epochs_of, generator, stepped
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from continual.strategies.vcl import MeanField, VariationalPredictor, filled
from probinf.arguments import positive_integer


class FunctionPast(NamedTuple):
    """The posterior so far, and the examples at which it is held."""

    posterior: MeanField
    stored: Stored
    has_learnt: Array  # whether the posterior has seen data


class FunctionSpaceVI(AbstractSequential):
    r"""Minimises $-E_q\log p(D_t\mid f) + \mathrm{KL}(\tilde q(f_C) \,\|\, \tilde q_{t-1}(f_C))$.

    $\tilde q$ is the network linearised at the mean of a mean-field Gaussian: at each context point an output has the
    mean $f(x; \mu)$ and the variance $J\Sigma J^T$; points and outputs are taken to be independent. Context points are
    drawn anew in each step, half from the stored examples and half uniformly within the range of the inputs. Labels of
    stored examples are never used. Before the first task the outputs are $N(0, \sigma^2)$ everywhere.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
        memory: which examples are kept.
        context: context points in a step.
        prior_std: sigma.
        initial_std: of the parameters, where the optimiser starts.
        strength: factor of the divergence.
        samples: draws of the weights in a prediction.

    References:
        Rudner et al. (2022), Continual learning via sequential function-space variational inference, Eq. 11-14.
    """

    memory: AbstractMemory = BalancedMemory()
    context: int = eqx.field(static=True, default=40)
    prior_std: float = eqx.field(static=True, default=1.0)
    initial_std: float = eqx.field(static=True, default=0.01)
    strength: float = eqx.field(static=True, default=1.0)
    samples: int = eqx.field(static=True, default=16)

    def __check_init__(self) -> None:
        positive_integer("context", self.context)
        positive("prior_std", self.prior_std)
        positive("initial_std", self.initial_std)
        positive("strength", self.strength)
        positive_integer("samples", self.samples)

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[MeanField, FunctionPast]:
        mean = self.training.architecture.initial(key, width, self.num_classes, dtype)
        start = MeanField(mean, filled(mean, np.log(self.initial_std)))
        return start, FunctionPast(start, Stored.empty(width, np.dtype(dtype)), jnp.asarray(False))

    def learnt(
        self, key: Array, parameters: MeanField, past: FunctionPast, x: np.ndarray, y: np.ndarray
    ) -> tuple[MeanField, FunctionPast, int, float]:
        key_order, key_noise, key_context, key_memory = jax.random.split(key, 4)
        rng, state, values = generator(key_context), self.with_optimiser(parameters, x.shape[1]), []
        prior = (past.posterior, past.has_learnt, jnp.asarray(self.prior_std, x.dtype))
        weight = jnp.asarray(self.strength / len(x), x.dtype)
        low, high, stored = x.min(), x.max(), np.asarray(past.stored.inputs)
        for i, (rows, labels) in enumerate(epochs_of(self.training, key_order, x, y)):
            points = rng.uniform(low, high, (self.context, x.shape[1])).astype(x.dtype)
            if len(stored):
                points[::2] = stored[rng.integers(0, len(stored), len(points[::2]))]
            batch = jnp.asarray(rows), jnp.asarray(labels), jnp.asarray(points)
            state, value = _step(self.training, state, prior, jax.random.fold_in(key_noise, i), batch, weight)
            values.append(value)
        stored = self.memory.with_examples(past.stored, x, y, generator(key_memory))
        past = FunctionPast(state.parameters, stored, jnp.asarray(True))
        return state.parameters, past, len(values), checked_losses(values)

    def predictor(self, belief: SequentialBelief) -> VariationalPredictor:
        if not belief.width:
            raise nothing_learnt()
        key = jax.random.fold_in(belief.key, 1)
        network = self.training.architecture
        return VariationalPredictor(network, belief.parameters, belief.seen, key, self.samples, belief.width)


@eqx.filter_jit
def _step(
    training: Training, state: Trained, prior: Any, key: Array, batch: tuple[Array, Array, Array], weight: Array
) -> tuple[Trained, Array]:
    x, y, points = batch
    network = training.architecture
    posterior, has_learnt, std = prior
    before = outputs_of(network, posterior, points)
    mean = jnp.where(has_learnt, before[0], 0)
    variance = jnp.where(has_learnt, before[1], std**2)

    def objective(q: MeanField) -> Array:
        data = cross_entropy(network.sampled(key, q.mean, q.std, x), y)
        return data + weight * divergence(*outputs_of(network, q, points), mean, variance)

    value, gradient = jax.value_and_grad(objective)(state.parameters)
    return stepped(training.optimiser, state, gradient), value


def outputs_of(network: AbstractNetwork, q: MeanField, points: Array) -> tuple[Outputs, Outputs]:
    """Mean and variance of the linearised outputs; the Jacobian counts as a constant in gradients."""
    at: Parameters = jax.lax.stop_gradient(q.mean)
    variances = jax.tree.map(jnp.square, q.std)
    return network(q.mean, points), network.output_variance(at, variances, points)


def divergence(mean: Outputs, variance: Outputs, prior_mean: Outputs, prior_variance: Outputs) -> Array:
    """KL between independent Gaussians, summed, nats."""
    ratio = variance / prior_variance
    return 0.5 * jnp.sum(ratio + (mean - prior_mean) ** 2 / prior_variance - 1 - jnp.log(ratio))
