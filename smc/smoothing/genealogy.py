"""Smoothing by the filter's own family tree."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from probinf.claims import Claim
from smc.filtering import History
from smc.smoothing.method import Draws, SmoothingMethod, always, take_particles, trace_back
from smc.state_space_model import StateSpaceModel


class Genealogy(SmoothingMethod):
    """The paths of the last particles, with the last weights (Kitagawa 1996). O(T N), no transition density needed.

    Resampling makes the paths coalesce: some time before the end all of them share one ancestor, and the estimate there
    rests on a single draw. `Smoothed.distinct` says how many are left. Claim: unbiased (evidence estimate times path).
    """

    claim: ClassVar[Claim] = Claim.UNBIASED

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape
        indices = trace_back(history, jnp.arange(num, dtype=history.ancestors.dtype))
        log_weights = jnp.broadcast_to(history.log_weights[-1], (steps, num))
        return Draws(take_particles(history, indices), log_weights, indices, True, None, always(steps))
