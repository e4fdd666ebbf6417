"""Joint sampling: the oracle that keeps all data and samples their posterior anew after each task."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

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


class JointSampling(AbstractWeightSampler):
    """The posterior of all weights given all data so far, by a sampler of chains: only chance stands in between.

    Args:
        model: what the weights mean.
        sampler: `pi.NUTS` or `pi.ChEES`; `init="prior"` gives chains independent starts.
        powers: of the likelihood, rising to below 1, each with a warm-up of its own, that each chain passes through
            first: annealing, for posteriors of regions that chains seldom leave.
        grid: inputs for R-hat; see `convergence`.
        num_kept: draws that predictions are the mean of.

    Example:
        >>> network = SoftmaxNetwork(num_inputs=2, num_classes=2)
        >>> result = continual.run(JointSampling(network), continual.toy_gaussians())
    """

    model: AbstractWeightModel
    sampler: Sampler = eqx.field(static=True, default=NUTS)
    powers: tuple[float, ...] = eqx.field(static=True, default=(), kw_only=True)
    grid: Any = eqx.field(default=None, kw_only=True)
    num_kept: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_sampler_settings(self.grid, self.num_kept, self.model.num_inputs)
        check_sampler(self.sampler, self.powers)

    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        if belief.stored is not None:
            x = jnp.concatenate([belief.stored[0], x])
            y = jnp.concatenate([belief.stored[1], y])
        draws = sampled(self.sampler, self.powers, self.model, belief.prior, x, y, key)
        return dataclasses.replace(belief, draws=draws, stored=(x, y))
