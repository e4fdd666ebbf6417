"""What samplers of weights share: the program, its prior as data, the belief, predictions, and R-hat of functions."""

from __future__ import annotations

import abc
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
from continual.sequential_sampling.weight_models import AbstractWeightModel, SoftmaxNetwork
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.inference.diagnostics import diagnose
from probinf.random import as_key
from probinf.representations.belief import AbstractBelief

_GRID = 100  # inputs that functions are compared at by default
_ROWS = 100  # inputs in a compiled prediction


class AsDistribution(dist.Distribution):
    """A belief over weights as a NumPyro distribution, so that it can stand in a program."""

    pytree_data_fields = ("belief",)
    support: Any = constraints.real_vector

    def __init__(self, belief: AbstractBelief, size: int) -> None:
        self.belief = belief
        super().__init__(batch_shape=(), event_shape=(size,), validate_args=False)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        count = int(np.prod(sample_shape, dtype=int))
        return self.belief.sample(key, count).reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Any) -> Any:
        return self.belief.log_prob(value)


@pi.model
def weights_program(model: AbstractWeightModel, prior: AbstractBelief, inputs: Array, targets: Array) -> None:
    """Weights from a prior that is data, and the likelihood of one task."""
    weights = pi.sample("weights", AsDistribution(prior, model.num_weights))
    pi.factor("likelihood", model.log_likelihood(weights, inputs, targets))


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
