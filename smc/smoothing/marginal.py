"""Smoothing weights of the filter's particles, without drawing anything."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.claims import Claim
from smc.filtering import History
from smc.smoothing.backward_weights import over_blocks
from smc.smoothing.method import Draws, SmoothingMethod
from smc.state_space_model import StateSpaceModel


class MarginalSmoothing(SmoothingMethod):
    r"""Forward filtering, backward smoothing: every particle's weight given all observations. O(T N^2).

    $$W_{t|T}^n = W_t^n \sum_j W_{t+1|T}^j \frac{p(x_{t+1}^j \mid x_t^n)}{\sum_l W_t^l\, p(x_{t+1}^j \mid x_t^l)}.$$

    The average over all paths that `BackwardSampling` could draw: the same estimates without the noise of drawing M of
    them, for marginals only. Claim: unbiased (evidence estimate times marginal).

    References:
        Doucet, Godsill & Andrieu (2000), Statistics and Computing 10, equation 26.
    """

    claim: ClassVar[Claim] = Claim.UNBIASED

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape

        def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            after, smoothed = carry
            t, before, log_weights = row

            def share(weights: Array, _: Array, later: Array) -> tuple[Array, Array]:
                total = jnp.sum(weights, axis=1)
                used = later > 0
                parts = jnp.where(used, later / jnp.where(used, total, 1), 0)
                return (parts @ weights)[None, :num], jnp.where(used, jnp.isfinite(total) & (total > 0), True)

            shares, sound = over_blocks(model, t, before, log_weights, after, smoothed, share)
            weights = jnp.sum(shares, axis=0)
            weights = weights / jnp.sum(weights)
            return (before, weights), (weights, jnp.all(sound))

        rows = (jnp.arange(1, steps), history.particles[:-1], history.log_weights[:-1])
        last = jax.nn.softmax(history.log_weights[-1])
        _, (earlier, sound) = jax.lax.scan(step, (history.particles[-1], last), rows, reverse=True)
        log_weights = jnp.log(jnp.concatenate([earlier, last[None]]))
        indices = jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32), (steps, num))
        return Draws(history.particles, log_weights, indices, False, None, sound)
