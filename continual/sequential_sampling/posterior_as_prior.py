"""The posterior of one task as the prior of the next, by sampling and a fitted density."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from continual.sequential_sampling.densities import AbstractEstimator, GaussianEstimator
from continual.sequential_sampling.weight_models import AbstractWeightModel
from continual.sequential_sampling.weight_posterior import (
    NUTS,
    AbstractWeightSampler,
    Sampler,
    WeightBelief,
    check_sampler,
    check_sampler_settings,
    sampled,
)
from probinf.errors import ArgumentError


class PosteriorAsPrior(AbstractWeightSampler):
    """Sample the posterior of a task, fit a density to the draws, take it as the prior of the next task.

    Of earlier tasks only the density is kept. Each posterior is sampled to convergence; what the recursion loses, it
    loses in the density. Predictions are made by the draws of the last posterior, before a density is fitted.

    Args:
        model: what the weights mean.
        estimator: how a density is fitted.
        sampler: `pi.NUTS` or `pi.ChEES`; `init="prior"` gives chains independent starts.
        powers: of the likelihood, rising to below 1, each with a warm-up of its own, that each chain passes through
            first: annealing, for posteriors of regions that chains seldom leave.
        grid: inputs for R-hat; see `convergence`.
        num_kept: draws that predictions are the mean of.

    Example:
        >>> network = SoftmaxNetwork(num_inputs=2, num_classes=2)
        >>> learner = PosteriorAsPrior(network, MixtureEstimator((1, 2, 4)))
        >>> result = continual.run(learner, continual.toy_gaussians())

    References:
        Kessler, Cobb, Rudner, Zohren & Roberts (2023), On sequential Bayesian inference for continual learning,
        section 3.
    """

    model: AbstractWeightModel
    estimator: AbstractEstimator = GaussianEstimator()
    sampler: Sampler = eqx.field(static=True, default=NUTS)
    powers: tuple[float, ...] = eqx.field(static=True, default=(), kw_only=True)
    grid: Any = eqx.field(default=None, kw_only=True)
    num_kept: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_sampler_settings(self.grid, self.num_kept, self.model.num_inputs)
        check_sampler(self.sampler, self.powers)
        found = self.sampler.num_chains * (self.sampler.num_draws // self.sampler.thinning)
        least = self.estimator.num_required(self.model.num_weights)
        if found < least:
            raise ArgumentError(
                f"sampler: {found} draws in all, but {type(self.estimator).__name__} needs {least} or more for "
                f"{self.model.num_weights} weights. Raise num_draws or num_chains."
            )

    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        key_sample, key_fit = jax.random.split(key)
        draws = sampled(self.sampler, self.powers, self.model, belief.prior, x, y, key_sample)
        prior = self.estimator.fit(key_fit, np.asarray(draws).reshape(-1, draws.shape[2]))
        return dataclasses.replace(belief, prior=prior, draws=draws)
