"""The regularised particle filter: where particles are resampled, they are drawn from a kernel density of the cloud."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.errors import ArgumentError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, UpdateInfo
from probinf.streaming.system import System
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import effective_sample_size, scheme
from smc.gaussian_filter import difference, wrap_entries
from smc.kalman import square_root
from smc.kernel_smoothing import (
    Kernel,
    check_kernel,
    kernel_noise,
    kernel_variance,
    normals_needed,
    optimal_bandwidth,
    shrinkage,
)
from smc.particles import ParticleFilter, ParticleState


class RegularisedParticleFilter(AbstractFilterMethod):
    r"""Post-regularised particle filter (Musso, Oudjane & Le Gland 2001).

    Resampling repeats particles, and a motion with little noise leaves the repetitions nearly where they were. Here the
    resampled particles are drawn from the kernel density of the weighted cloud, with the cloud's covariance (whitening)
    and the bandwidth h that is optimal for a Gaussian cloud times `bandwidth`.

    With `shrink` particles are first pulled towards the cloud's mean by $\sqrt{1 - h^2 v}$, v the kernel's variance:
    mean and covariance are then kept in expectation at every regularisation, and for a Gaussian belief nothing is lost
    but by Monte Carlo. Without it, the filter of the paper, every regularisation widens the covariance by the factor
    $1 + h^2 v$; that suits beliefs of several modes, whose distance shrinking would shorten, with a `bandwidth` of
    about 1/2.

    Consistent: h goes to zero as N grows. The evidence is not unbiased.

    Args:
        num_particles: N.
        kernel: "epanechnikov" (the optimal one, of bounded support) or "gaussian".
        bandwidth: multiplies the optimal h; 0 is the bootstrap filter.
        shrink: keep mean and covariance.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        threshold: resample and regularise before a motion if the effective sample size is at most this fraction of N.
    """

    base: ParticleFilter
    kernel: Kernel = eqx.field(static=True)
    bandwidth: float = eqx.field(static=True)
    shrink: bool = eqx.field(static=True)

    def __init__(
        self,
        num_particles: int,
        *,
        kernel: Kernel = "epanechnikov",
        bandwidth: float = 1.0,
        shrink: bool = True,
        resample: str = "systematic",
        threshold: float = 0.5,
    ) -> None:
        check_kernel(kernel, "RegularisedParticleFilter")
        if not 0 <= float(bandwidth) < float("inf"):
            raise ArgumentError(f"bandwidth: expected a number of at least 0, found {bandwidth!r}.")
        self.base = ParticleFilter(num_particles, resample=resample, threshold=threshold)
        self.kernel, self.bandwidth, self.shrink = kernel, float(bandwidth), bool(shrink)

    def init(self, key: jax.Array, system: System) -> ParticleState:
        return self.base.init(key, system)

    def predict(self, state: ParticleState, system: System, dt: Array, control: Array | None) -> ParticleState:
        key, key_fresh = jax.random.split(state.key)
        state = eqx.tree_at(lambda s: s.key, state, key)
        few = effective_sample_size(state.log_weights) <= self.base.threshold * self.base.num_particles
        due = few & (self.base.threshold > 0) & (log_mean_exp(state.log_weights) > -jnp.inf)
        state = jax.lax.cond(due, lambda s: self.regularise(s, key_fresh), lambda s: s, state)
        mover = ParticleFilter(self.base.num_particles, resample=self.base.resample, threshold=0.0)
        return mover.predict(state, system, dt, control)

    def regularise(self, state: ParticleState, key: jax.Array) -> ParticleState:
        """Resample and draw each particle from its kernel: equal weights, the same structure."""
        key_ancestors, key_noise = jax.random.split(key)
        x = state.particles
        num, dim = x.shape
        h = self.bandwidth * optimal_bandwidth(self.kernel, dim, num)
        variance = kernel_variance(self.kernel, dim)
        share = min(h * h * variance, 1.0) if self.shrink else h * h * variance
        ancestors = scheme(self.base.resample)(state.log_weights, num).sample(key_ancestors)
        normals = jax.random.normal(key_noise, (num, normals_needed(self.kernel, dim)), x.dtype)
        noise = kernel_noise(self.kernel, normals, dim) * jnp.asarray((share / variance) ** 0.5, x.dtype)
        mean, root = self.base.mean(state), square_root(self.base.cov(state))
        gaps = difference(x[ancestors], mean[None], state.angles)
        if self.shrink:
            gaps = gaps * jnp.asarray(shrinkage(share), x.dtype)
        new = wrap_entries(mean[None] + gaps + noise @ root.T, state.angles)
        return eqx.tree_at(lambda s: (s.particles, s.log_weights), state, (new, jnp.zeros_like(state.log_weights)))

    def update(
        self, state: ParticleState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[ParticleState, UpdateInfo]:
        return self.base.update(state, system, sensor, value, observed, inputs)

    def mean(self, state: ParticleState) -> Array:
        return self.base.mean(state)

    def cov(self, state: ParticleState) -> Array:
        return self.base.cov(state)

    def sample(self, state: ParticleState, key: jax.Array, n: int) -> Array:
        return self.base.sample(state, key, n)

    def log_prob(self, state: ParticleState, x: Array) -> Array:
        return self.base.log_prob(state, x)

    def as_mixture(self, state: ParticleState, k: int) -> GaussianMixture:
        return self.base.as_mixture(state, k)

    def claim(self, system: System) -> str:
        return "consistent"

    def reason(self, system: System) -> str:
        return "particles are drawn from a kernel density whose bandwidth goes to zero as their number grows"

    def check(self, state: Any) -> Array:
        return self.base.check(state)
