"""The posterior of one task as the prior of the next, by sampling and a fitted density."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from continual.sequential_sampling.densities import AbstractEstimator, GaussianEstimator
from continual.sequential_sampling.joint import NUTS, Sampler, check_sampler
from continual.sequential_sampling.weight_models import AbstractWeightModel
from continual.sequential_sampling.weight_posterior import (
    AbstractWeightSampler,
    WeightBelief,
    check_sampler_settings,
    weights_program,
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
    grid: Any = eqx.field(default=None, kw_only=True)
    num_kept: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_sampler_settings(self.grid, self.num_kept, self.model.num_inputs)
        check_sampler(self.sampler)
        found = self.sampler.num_chains * (self.sampler.num_draws // self.sampler.thinning)
        least = self.estimator.num_required(self.model.num_weights)
        if found < least:
            raise ArgumentError(
                f"sampler: {found} draws in all, but {type(self.estimator).__name__} needs {least} or more for "
                f"{self.model.num_weights} weights. Raise num_draws or num_chains."
            )

    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        key_sample, key_fit = jax.random.split(key)
        found = self.sampler.run(weights_program(self.model, belief.prior, x, y), key_sample)
        draws = np.asarray(found["weights"])
        prior = self.estimator.fit(key_fit, draws.reshape(-1, draws.shape[2]))
        return dataclasses.replace(belief, prior=prior, draws=jnp.asarray(draws))
