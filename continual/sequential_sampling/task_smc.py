"""Sequential Monte Carlo over tasks: each task's likelihood is let in by degrees, with Hamiltonian moves."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.sequential_sampling.weight_models import AbstractWeightModel
from continual.sequential_sampling.weight_posterior import (
    AbstractWeightSampler,
    WeightBelief,
    check_sampler_settings,
)
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, InferenceError
from probinf.representations.belief import AbstractBelief
from probinf.transformations.resampling import scheme
from smc.tempered_moves import Moves
from smc.tempering import log_mean_power, next_inverse_temperature, normalised, powers

_MAX_TEMPERATURES = 500


class TaskSMC(AbstractWeightSampler):
    r"""Particles that pass through $p(\theta \mid D_{1:t-1})\,p(D_t \mid \theta)^\beta$, β from 0 to 1, task by task.

    The next β is where the effective sample size falls to `threshold`; then particles are resampled and moved by
    Hamiltonian Monte Carlo that leaves the tempered posterior of *all* data unchanged, as `smc.TemperedSMC` does inside
    one task. No density is fitted, so the recursion is exact up to Monte Carlo error; the price is that moves look at
    the data of earlier tasks, which are kept. The evidence is consistent: metric and step size are fitted.

    Args:
        model: what the weights mean.
        num_particles: particles of each run.
        num_runs: independent runs, equal in predictions; R-hat compares them.
        num_moves: trajectories at each temperature, at least.
        max_moves: trajectories at each temperature, at most; see `smc.TemperedSMC`.
        num_leapfrog: gradients of a trajectory.
        threshold: share of the living particles that the effective sample size falls to.
        grid: inputs for R-hat; see `convergence`.
        num_kept: draws that predictions are the mean of.

    Example:
        >>> network = SoftmaxNetwork(num_inputs=2, num_classes=2)
        >>> result = continual.run(TaskSMC(network, num_particles=512), continual.toy_gaussians())

    References:
        Chopin (2002), A sequential particle filter method for static models. Del Moral, Doucet & Jasra (2006),
        Sequential Monte Carlo samplers.
    """

    model: AbstractWeightModel
    num_particles: int = eqx.field(static=True, default=512)
    num_runs: int = eqx.field(static=True, default=4)
    num_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=64)
    num_leapfrog: int = eqx.field(static=True, default=5)
    threshold: float = eqx.field(static=True, default=0.5)
    grid: Any = eqx.field(default=None, kw_only=True)
    num_kept: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_sampler_settings(self.grid, self.num_kept, self.model.num_inputs)
        for name in ("num_particles", "num_runs", "num_moves", "max_moves", "num_leapfrog"):
            positive_integer(name, getattr(self, name))
        if self.num_particles < 2:
            raise ArgumentError(f"num_particles: expected 2 or more, found {self.num_particles}.")
        if self.max_moves < self.num_moves:
            raise ArgumentError(f"max_moves: expected at least num_moves = {self.num_moves}, found {self.max_moves}.")
        if not 0 < self.threshold < 1:
            raise ArgumentError(f"threshold: expected a share between 0 and 1, found {self.threshold}.")

    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        """The belief after a task.

        Raises:
            InferenceError: the temperature does not reach 1: particles too far from the data, or NaN in the likelihood.
        """
        key_start, key_steps = jax.random.split(key)
        past = (x[:0], y[:0]) if belief.stored is None else belief.stored
        data = _Data(belief.prior, *past, x, y)
        particles, evidence = belief.draws, belief.log_evidence
        if particles is None or evidence is None:
            shape = (self.num_runs, self.num_particles, self.model.num_weights)
            particles = belief.prior.sample(key_start, shape[0] * shape[1]).reshape(shape)
            evidence = jnp.zeros(self.num_runs, particles.dtype)
        moves = Moves("hmc", functools.partial(_parts, self.model), self.num_leapfrog)
        zero = jnp.zeros(self.num_runs, particles.dtype)
        step = jnp.full_like(zero, np.log(moves.tuning.start(self.model.num_weights)))
        state = _State(particles, _likelihood(self.model, data, particles), zero, evidence, step)
        for number in range(_MAX_TEMPERATURES):
            before = float(jnp.min(state.inverse_temperature))
            state = _temperature(self, data, state, jax.random.fold_in(key_steps, number))
            reached = float(jnp.min(state.inverse_temperature))
            if reached == 1.0:
                stored = (jnp.concatenate([data.past_inputs, x]), jnp.concatenate([data.past_targets, y]))
                return dataclasses.replace(belief, draws=state.position, stored=stored, log_evidence=state.log_evidence)
            if not reached > before:
                break
        raise InferenceError(
            f"TaskSMC: inverse temperature {float(jnp.min(state.inverse_temperature)):.3g} was not left. Raise "
            "num_particles or max_moves, or look at the scale of the inputs."
        )


class _Data(NamedTuple):
    """What the target is made of: first prior, data of earlier tasks, data of this task."""

    prior: AbstractBelief
    past_inputs: Array
    past_targets: Array
    inputs: Array
    targets: Array


class _State(NamedTuple):
    """R runs of N particles; see `smc.tempering.TemperedState`."""

    position: Array
    log_likelihood: Array
    inverse_temperature: Array
    log_evidence: Array
    log_step_size: Array


def _parts(model: AbstractWeightModel, data: _Data, weights: Array) -> tuple[Array, Array]:
    """Log density given the earlier tasks, and log likelihood of this one, nats."""
    past = data.prior.log_prob(weights)
    if len(data.past_inputs):
        past = past + model.log_likelihood(weights, data.past_inputs, data.past_targets)
    return past, model.log_likelihood(weights, data.inputs, data.targets)


@eqx.filter_jit
def _likelihood(model: AbstractWeightModel, data: _Data, particles: Array) -> Array:
    return jax.vmap(jax.vmap(lambda row: model.log_likelihood(row, data.inputs, data.targets)))(particles)


@eqx.filter_jit
def _temperature(learner: TaskSMC, data: _Data, state: _State, key: Array) -> _State:
    """One temperature: reweight, resample, move."""
    key_resample, key_moves = jax.random.split(key)
    threshold = jnp.asarray(learner.threshold, state.position.dtype)
    beta, _ = jax.vmap(next_inverse_temperature, in_axes=(0, 0, None))(
        state.log_likelihood, state.inverse_temperature, threshold
    )
    delta = beta - state.inverse_temperature
    log_weights = jax.vmap(powers)(state.log_likelihood, delta)
    increment = jax.vmap(log_mean_power)(state.log_likelihood, delta)
    moves = Moves("hmc", functools.partial(_parts, learner.model), learner.num_leapfrog)
    scale = moves.scale(normalised(log_weights), state.position)
    ancestors = scheme("systematic")(log_weights, learner.num_particles).sample(key_resample)
    before = jnp.take_along_axis(state.position, ancestors[:, :, None], axis=1)
    moved = moves.rounds(
        data, before, beta, scale, state.log_step_size, key_moves, learner.num_moves, learner.max_moves
    )
    likelihood = _likelihood(learner.model, data, moved.position)
    return _State(moved.position, likelihood, beta, state.log_evidence + increment, moved.log_step_size)
