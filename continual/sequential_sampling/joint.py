"""Joint sampling: the oracle that keeps all data and samples their posterior anew after each task."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

import probinf as pi
from continual.sequential_sampling.weight_models import AbstractWeightModel
from continual.sequential_sampling.weight_posterior import (
    AbstractWeightSampler,
    WeightBelief,
    check_sampler_settings,
    weights_program,
)
from probinf.errors import ArgumentTypeError

Sampler = pi.NUTS | pi.ChEES
NUTS = pi.NUTS(num_warmup=500, num_draws=1000, init="prior")


class JointSampling(AbstractWeightSampler):
    """The posterior of all weights given all data so far, by a sampler of chains: only chance stands in between.

    Args:
        model: what the weights mean.
        sampler: `pi.NUTS` or `pi.ChEES`; `init="prior"` gives chains independent starts.
        grid: inputs for R-hat; see `convergence`.
        num_kept: draws that predictions are the mean of.

    Example:
        >>> network = SoftmaxNetwork(num_inputs=2, num_classes=2)
        >>> result = continual.run(JointSampling(network), continual.toy_gaussians())
    """

    model: AbstractWeightModel
    sampler: Sampler = eqx.field(static=True, default=NUTS)
    grid: Any = eqx.field(default=None, kw_only=True)
    num_kept: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_sampler_settings(self.grid, self.num_kept, self.model.num_inputs)
        check_sampler(self.sampler)

    def learnt(self, key: Array, belief: WeightBelief, x: Array, y: Array) -> WeightBelief:
        if belief.stored is not None:
            x = jnp.concatenate([belief.stored[0], x])
            y = jnp.concatenate([belief.stored[1], y])
        found = self.sampler.run(weights_program(self.model, belief.prior, x, y), key)
        return dataclasses.replace(belief, draws=jnp.asarray(found["weights"]), stored=(x, y))


def check_sampler(sampler: Any) -> None:
    """Door check of a sampler.

    Raises:
        ArgumentTypeError: it is neither NUTS nor ChEES.
    """
    if not isinstance(sampler, pi.NUTS | pi.ChEES):
        raise ArgumentTypeError(f"sampler: expected pi.NUTS(...) or pi.ChEES(...), found {sampler!r}.")
