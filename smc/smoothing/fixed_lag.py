"""Smoothing with observations up to a fixed lag."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.arguments import positive_integer
from probinf.claims import Claim
from smc.filtering import History
from smc.smoothing.method import Draws, SmoothingMethod, always, take_particles
from smc.state_space_model import StateSpaceModel


class FixedLag(SmoothingMethod):
    """Each state given the observations until `lag` steps later (Kitagawa & Sato 2001; Olsson et al. 2008). O(T N lag).

    The family tree is followed back for `lag` steps only, before the paths have coalesced. Claim: approximate. The
    estimates converge to the moments given y_0, ..., y_{t+lag}, not given all observations; the difference is of the
    order of the chain's forgetting over `lag` steps and does not go away with more particles. The marginals are those
    of single times; they are not paths.

    Args:
        lag: number of later observations taken into account.
    """

    claim: ClassVar[Claim] = Claim.APPROXIMATE
    lag: int = eqx.field(static=True)

    def __init__(self, lag: int = 20) -> None:
        self.lag = positive_integer("lag", lag)

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape
        times = jnp.arange(steps)
        start = jnp.minimum(times + self.lag, steps - 1)
        index = jnp.broadcast_to(jnp.arange(num, dtype=history.ancestors.dtype), (steps, num))

        def back(index: Array, k: Array) -> tuple[Array, None]:
            """All times go one step back together, those that have arrived wait."""
            at = start - k
            parents = jax.vmap(lambda ancestors, i: ancestors[i])(history.ancestors[jnp.maximum(at, 0)], index)
            return jnp.where((at > times)[:, None], parents, index), None

        indices, _ = jax.lax.scan(back, index, jnp.arange(min(self.lag, steps - 1)))
        log_weights = history.log_weights[start]
        return Draws(take_particles(history, indices), log_weights, indices, False, None, always(steps))
