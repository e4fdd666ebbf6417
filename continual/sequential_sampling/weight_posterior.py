"""What samplers of weights share: the program, its prior as data, the belief, predictions, and R-hat of functions."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

import probinf as pi
from continual.checks import checked_inputs
from continual.learner import AbstractLearner, AbstractPredictor, UpdateInfo, nothing_learnt
from continual.moments import in_batches
from continual.sequential_sampling.coordinates import AbstractCoordinates, coordinates
from continual.sequential_sampling.weight_models import AbstractWeightModel, SoftmaxNetwork
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.inference.diagnostics import diagnose
from probinf.random import as_key
from probinf.representations.belief import AbstractBelief

_GRID = 100  # inputs that functions are compared at by default
_ROWS = 100  # inputs in a compiled prediction

Sampler = pi.NUTS | pi.ChEES
NUTS = pi.NUTS(num_warmup=500, num_draws=1000, init="prior")


class AsDistribution(dist.Distribution):
    """The prior of z as a NumPyro distribution, so that it can stand in a program."""

    pytree_data_fields = ("space",)
    support: Any = constraints.real_vector

    def __init__(self, space: AbstractCoordinates, size: int) -> None:
        self.space = space
        super().__init__(batch_shape=(), event_shape=(size,), validate_args=False)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        keys = jax.random.split(key, int(np.prod(sample_shape, dtype=int)))
        return jax.vmap(self.space.sample)(keys).reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Any) -> Any:
        return self.space.log_prob(value)


@pi.model
def weights_program(
    model: AbstractWeightModel, space: AbstractCoordinates, inputs: Array, targets: Array, power: Array
) -> None:
    """Coordinates of weights from a prior that is data, and a power of the likelihood of one task."""
    z = pi.sample("z", AsDistribution(space, model.num_weights))
    pi.factor("likelihood", power * model.log_likelihood(space.weights(z), inputs, targets))


def sampled(
    sampler: Sampler,
    powers: Sequence[float],
    model: AbstractWeightModel,
    prior: AbstractBelief,
    x: Array,
    y: Array,
    key: Array,
) -> Float[Array, "chains draws weights"]:
    """Draws of p(w) p(y | x, w), chain by chain.

    Before the warm-up each chain passes through the posteriors with the likelihood to each of `powers`, a warm-up at
    each: there, regions that chains seldom leave at power 1 are near to one another. Chains share what the sampler
    adapts, never positions.
    """
    space = coordinates(prior)
    annealing = dataclasses.replace(sampler, num_draws=1, thinning=1)
    for number, power in enumerate(powers):
        program = weights_program(model, space, x, y, jnp.asarray(power, x.dtype))
        found = annealing.run(program, jax.random.fold_in(key, number))
        annealing = dataclasses.replace(annealing, init={"z": found["z"][:, -1]})
    program = weights_program(model, space, x, y, jnp.ones((), x.dtype))
    found = dataclasses.replace(sampler, init=annealing.init).run(program, key)
    return _weights(space, jnp.asarray(found["z"]))


@eqx.filter_jit
def _weights(space: AbstractCoordinates, z: Array) -> Array:
    return jax.vmap(jax.vmap(space.weights))(z)


class WeightPredictor(AbstractPredictor):
    """Mean over draws of the expected target; classes without data have probability 0."""

    model: AbstractWeightModel
    draws: Float[Array, "draws weights"]
    seen: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        x = checked_inputs(inputs, "inputs").astype(self.draws.dtype)
        return in_batches(lambda rows: _predicted(self, jnp.asarray(rows)), x, _ROWS)


@eqx.filter_jit
def _predicted(predictor: WeightPredictor, x: Array) -> Array:
    each = jax.vmap(predictor.model.predictive, in_axes=(0, None))(predictor.draws, x)
    found = jnp.mean(each, axis=0)
    if not isinstance(predictor.model, SoftmaxNetwork):
        return found
    kept = jnp.where(predictor.seen[None], found, 0)
    return kept / jnp.sum(kept, axis=1, keepdims=True)


class Convergence(NamedTuple):
    """Of the functions on the grid, in the last update; worst over the grid.

    Attributes:
        r_hat: rank-normalised split R-hat over chains, or over independent runs of SMC.
        ess: bulk effective sample size.
    """

    r_hat: float
    ess: float


class WeightBelief(eqx.Module):
    """A posterior of weights between two tasks.

    Attributes:
        key: of what is random later.
        prior: of the next update.
        draws: of the posterior, (chains or runs, draws, weights); `None` before the first data.
        seen: classes with data; one entry, always true, for regression.
        grid: inputs that functions are compared at; `None` before the first data.
        stored: inputs and targets of all tasks so far, for learners that keep them, else `None`.
        log_evidence: (runs,), log p(all data so far) by SMC, nats; `None` for samplers that do not know it.
    """

    key: Array
    prior: AbstractBelief
    draws: Array | None
    seen: Array
    grid: Array | None
    stored: tuple[Array, Array] | None = None
    log_evidence: Array | None = None


class AbstractWeightSampler(AbstractLearner):
    """A learner whose belief is draws of all weights of a small model.

    Args:
        model: what the weights mean.
        grid: inputs (points, features) at which R-hat of functions is computed; up to 100 inputs of the first update if
            left out. Weights have symmetries and their R-hat says little.
        num_kept: draws that predictions are the mean of, spread evenly over all.
    """

    model: eqx.AbstractVar[AbstractWeightModel]
    grid: eqx.AbstractVar[Any]
    num_kept: eqx.AbstractVar[int]

    @abc.abstractmethod
    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        """The belief after checked data, without key, seen classes and grid brought up to date."""

    def start(self, key: Any, t0: int = 0) -> WeightBelief:
        prior = self.model.prior(jnp.result_type(float))
        num = self.model.num_classes if isinstance(self.model, SoftmaxNetwork) else 0
        seen = jnp.zeros(num, bool) if num else jnp.ones(1, bool)
        return WeightBelief(as_key(key, argument="key"), prior, None, seen, None)

    def update(
        self, belief: WeightBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[WeightBelief, UpdateInfo]:
        """Learn from `value`, shape (examples,), of `inputs`, shape (examples, features), of task `t`.

        Raises:
            UnknownNameError: another sensor.
            DataError: no example, an unknown label, an input that is not finite, or a width that differs; fewer draws
                than a density needs.
        """
        self.model.require_sensor(sensor)
        x, y = self.model.checked(inputs, value, f"task {t}")
        dtype = jnp.result_type(float)
        key, key_learn = jax.random.split(belief.key)
        grid = belief.grid
        if grid is None:
            grid = jnp.asarray(x[:_GRID] if self.grid is None else self.grid, dtype)
        labels = y.dtype.kind == "i"
        found = self.learnt(key_learn, belief, jnp.asarray(x, dtype), jnp.asarray(y, jnp.int32 if labels else dtype))
        seen = belief.seen.at[y].set(True) if labels else belief.seen
        changed = (key, seen, grid)
        found = eqx.tree_at(lambda b: (b.key, b.seen, b.grid), found, changed, is_leaf=lambda leaf: leaf is None)
        return found, UpdateInfo(len(x), 1)

    def predictor(self, belief: WeightBelief) -> WeightPredictor:
        """The mean over `num_kept` draws.

        Raises:
            InferenceError: nothing has been learnt yet.
        """
        if belief.draws is None:
            raise nothing_learnt()
        flat = belief.draws.reshape(-1, belief.draws.shape[2])
        rows = np.linspace(0, len(flat) - 1, min(self.num_kept, len(flat))).round().astype(int)
        return WeightPredictor(self.model, flat[rows], belief.seen)

    def convergence(self, belief: WeightBelief) -> Convergence:
        """R-hat and effective sample size of the functions on the grid, the worst of each.

        Raises:
            InferenceError: nothing has been learnt yet.
        """
        if belief.draws is None or belief.grid is None:
            raise nothing_learnt()
        found = np.stack([np.asarray(_functions(self.model, chain, belief.grid)) for chain in belief.draws])
        worst = diagnose(found.reshape(*found.shape[:2], -1))
        return Convergence(float(np.max(worst.r_hat)), float(np.min(worst.ess_bulk)))


@eqx.filter_jit
def _functions(model: AbstractWeightModel, draws: Array, grid: Array) -> Array:
    return jax.vmap(model.functions, in_axes=(0, None))(draws, grid)


def check_sampler(sampler: Any, powers: Any) -> None:
    """Door check of a sampler and of how its chains are annealed.

    Raises:
        ArgumentError: the powers do not rise from 0 to 1, both left out.
        ArgumentTypeError: the sampler is neither NUTS nor ChEES.
    """
    if not isinstance(sampler, pi.NUTS | pi.ChEES):
        raise ArgumentTypeError(f"sampler: expected pi.NUTS(...) or pi.ChEES(...), found {sampler!r}.")
    if any(not low < high for low, high in itertools.pairwise((0.0, *powers, 1.0))):
        raise ArgumentError(f"powers: expected rising numbers between 0 and 1, found {powers}.")


def check_sampler_settings(grid: Any, num_kept: Any, width: int) -> None:
    """Door checks of what all samplers of weights take.

    Raises:
        ArgumentError: the grid is not finite or of another width, or no draw is kept.
    """
    positive_integer("num_kept", num_kept)
    if grid is not None:
        found = np.asarray(grid)
        if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
            raise ArgumentError(f"grid: expected finite inputs of shape (points, {width}), found shape {found.shape}.")
