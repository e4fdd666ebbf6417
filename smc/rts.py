"""Rauch-Tung-Striebel smoothing for Gaussian filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probinf.representations.angular import wrap
from probinf.streaming.method import Fault
from probinf.streaming.system import System
from smc.kalman import rts_step

if TYPE_CHECKING:
    from smc.gaussian_filter import AbstractGaussianFilter, GaussianState


def rts_smooth(
    method: AbstractGaussianFilter, system: System, states: GaussianState, dts: Array, controls: Array | None
) -> tuple[Array, Array, Array]:
    """Smoothed means (n, d), covariances (n, d, d) and a fault flag, from filtered states stacked over n events.

    The motion between events is linearised as the filter did: at the filtered mean, with the filter's own rule. For an
    extended filter this is the extended, for an unscented one the unscented RTS smoother. Events of one time share one
    smoothed belief.

    References:
        Särkkä (2013), Bayesian Filtering and Smoothing, Algorithms 9.1 and 9.3.
    """

    def subtract(a: Array, b: Array) -> Array:
        gap = a - b
        if not system.angles:
            return gap
        index = np.asarray(system.angles)
        return gap.at[index].set(wrap(gap[index]))

    def back(later, event):
        mean, cov, dt, control = event

        def move(_):
            model = method.linearise_move(system, mean, cov, dt, control)
            smoothed, smoothed_cov = rts_step(mean, cov, model, later[0], later[1], subtract)
            return system.wrap_angles(smoothed), smoothed_cov

        smoothed = jax.lax.cond(dt > 0.0, move, lambda _: later, None)
        return smoothed, smoothed

    last = (states.mean[-1], states.cov[-1])
    earlier = (states.mean[:-1], states.cov[:-1], dts[1:], None if controls is None else controls[1:])
    _, (means, covs) = jax.lax.scan(back, last, earlier, reverse=True)
    means = jnp.concatenate([means, last[0][None]])
    covs = jnp.concatenate([covs, last[1][None]])
    sound = jnp.all(jnp.isfinite(means)) & jnp.all(jnp.isfinite(covs))
    return means, covs, jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32)
