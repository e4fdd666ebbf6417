"""The particle filter of a state-space system, run from its program."""

from __future__ import annotations

from typing import Any, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, UnknownNameError
from probinf.language.distributions import log_density, standard_promotion
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.representations.angular import wrap
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from probinf.transformations.algorithms import check_particles
from probinf.transformations.resampling import effective_sample_size, scheme
from probinf.transformations.stepping import advance_population
from smc.gaussian_approximation import moments
from smc.gaussian_filter import difference
from smc.paired_threefry import as_before, paired
from smc.resample_lanes import resample_if
from smc.small_normal import cholesky, solve_lower


class ParticleState(eqx.Module):
    """Weighted particles and the randomness that rides with them.

    Attributes:
        particles: (N, d).
        log_weights: (N,) nats; their weights have mean one, so that an update's mean weight is its predictive density.
        ess: effective sample size of these weights.
        key: for the next step.
        parents: (N, d), where the particles stood before the last motion (guided filters only).
        parent_log_weights: (N,), their weights.
        dt: length of the last motion, seconds; 0 when the particles have been weighted since.
        control: what the last motion took.
        angles: indices of the entries that are angles.
    """

    particles: Float[Array, "particles dim"]
    log_weights: Float[Array, " particles"]
    ess: Float[Array, ""]
    key: Array
    parents: Array | None
    dt: Array
    control: Array | None
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class ParticleFilter(AbstractFilterMethod):
    """Sequential Monte Carlo on the program "x moves, a sensor sees it" (Gordon, Salmond & Smith 1993).

    Before a motion the population resamples if its effective sample size is at most `threshold * num_particles`; the
    belief after an event is the weighted population, not the resampled one, whose moments are noisier.

    Args:
        num_particles: number of particles.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        threshold: 1 resamples before every motion, 0 never.
        proposal: "prior" moves blindly (bootstrap filter); "extended" draws each particle from its own extended Kalman
            update of the motion by the value (guided filter; Doucet, Godsill & Andrieu 2000) and weighs by the ratio of
            densities. Both are unbiased; the second needs fewer particles when a sensor is precise.
    """

    num_particles: int = eqx.field(static=True)
    resample: str = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    proposal: Literal["prior", "extended"] = eqx.field(static=True)

    def __init__(
        self,
        num_particles: int,
        *,
        resample: str = "systematic",
        threshold: float = 0.5,
        proposal: Literal["prior", "extended"] = "prior",
    ) -> None:
        check_particles(num_particles, threshold)
        scheme(resample)
        if proposal not in ("prior", "extended"):
            raise UnknownNameError(proposal, ("prior", "extended"), "proposal", "ParticleFilter")
        self.num_particles, self.resample = int(num_particles), resample
        self.threshold, self.proposal = float(threshold), proposal

    def init(self, key: jax.Array, system: System) -> ParticleState:
        key, key_prior = jax.random.split(key)
        particles = system.sample_prior(key_prior, self.num_particles)
        return ParticleState(
            particles,
            jnp.zeros(self.num_particles, system.dtype),
            jnp.asarray(self.num_particles, system.dtype),
            key,
            particles if self.proposal == "extended" else None,
            jnp.zeros((), system.dtype),
            None,
            system.angles,
        )

    def predict(self, state: ParticleState, system: System, dt: Array, control: Array | None) -> ParticleState:
        key, key_ancestors, key_move = jax.random.split(paired(state.key), 3)
        guided = self.proposal == "extended"

        def move(x: jax.Array) -> Any:
            (new,) = bind_sample(Site("x"), system.move_distribution(x, dt, control))
            new = system.wrap_angles(new)
            return (new, x) if guided else (new, None)

        particles, log_weights, ess = state.particles, state.log_weights, state.ess
        if self.threshold > 0:
            few = True if self.threshold >= 1 else ess <= self.threshold * self.num_particles
            due = few & (ess > 0)  # nothing to choose among where every weight is zero
            particles = resample_if(self.resample, due, key_ancestors, log_weights, particles)
            log_weights = jnp.where(due, 0, log_weights)
            ess = jnp.where(due, self.num_particles, ess).astype(ess.dtype)
        (particles, parents), log_weights, _ = advance_population(move, particles, log_weights, key_move)
        return ParticleState(
            particles,
            log_weights,
            ess,
            as_before(key, state.key),
            parents,
            dt.astype(system.dtype) if guided else state.dt,
            None,
            state.angles,
        )

    def update(
        self, state: ParticleState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[ParticleState, UpdateInfo]:
        def see(x: jax.Array) -> jax.Array:
            bind_factor(Site(sensor), system.sensor_log_prob(sensor, x, value, observed, inputs))
            return x

        key, new_key = paired(state.key), state.key
        if self.proposal == "extended":  # only a guided filter draws here
            key, key_rest = jax.random.split(key)
            new_key = as_before(key_rest, state.key)
        particles, log_weights, _ = advance_population(see, state.particles, state.log_weights, key)
        if self.proposal == "extended":
            guided, guided_log_weights = self._guide(state, system, sensor, value, observed, inputs, key)
            fresh = (state.dt > 0) & jnp.any(observed)
            particles = jnp.where(fresh, guided, particles)
            log_weights = jnp.where(fresh, guided_log_weights, log_weights)
        increment, ess = summed(log_weights)
        # A NaN is neither; an infinite weight would be one at the next event.
        fault = jnp.where(increment < jnp.inf, 0, int(Fault.NAN_WEIGHTS))
        fault = jnp.where(increment == -jnp.inf, int(Fault.COLLAPSE), fault)
        info = UpdateInfo.create(increment, observed, ess=ess, fault=fault.astype(jnp.int32))
        dt = jnp.zeros_like(state.dt)
        new = ParticleState(
            particles, log_weights - increment, ess, new_key, state.parents, dt, state.control, state.angles
        )
        return new, info

    def _guide(
        self,
        state: ParticleState,
        system: System,
        sensor: str,
        value: Array,
        observed: Array,
        inputs: Array | None,
        key: jax.Array,
    ) -> tuple[Array, Array]:
        """Draw each particle from N(x; its motion updated by the value), weigh by motion x sensor / proposal."""
        dt = jnp.where(state.dt > 0, state.dt, 1)
        flat, seen = value.reshape(-1), observed.reshape(-1)
        noise = jax.random.normal(key, state.particles.shape, state.particles.dtype)

        def one(parent: Array, log_weight: Array, z: Array) -> tuple[Array, Array]:
            motion = system.move_distribution(parent, dt, state.control)
            with standard_promotion():
                mean, cov = moments(motion, "nominal")
                predicted, noise_cov = moments(system.sensor_distribution(sensor, mean, inputs), "nominal")
                slope = jax.jacfwd(lambda x: moments(system.sensor_distribution(sensor, x, inputs), "nominal")[0])(mean)
                slope = jnp.where(seen[:, None], slope, 0)
                spread = slope @ cov @ slope.T + jnp.where(seen[:, None] & seen[None], noise_cov, 0)
                spread = spread + jnp.diag(jnp.where(seen, 0, 1).astype(cov.dtype))
                # Written out for few dimensions: LAPACK costs a microsecond for every particle.
                root = cholesky(spread)
                white_slope = solve_lower(root, slope @ cov)
                circular = np.asarray(system.sensor(sensor).circular(system.sensor_distribution(sensor, mean, inputs)))
                residual = jnp.where(seen, flat - predicted, 0)
                residual = jnp.where(circular, wrap(residual), residual)
                centre = mean + white_slope.T @ solve_lower(root, residual)
                tightened = cov - white_slope.T @ white_slope
                factor = cholesky((tightened + tightened.T) / 2)
                x = centre + factor @ z
                log_q = -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(jnp.diag(factor))) - 0.5 * z.size * jnp.log(2 * jnp.pi)
            log_p = log_density(motion, x) + system.sensor_log_prob(sensor, x, value, observed, inputs)
            return system.wrap_angles(x), log_weight + log_p - log_q

        return jax.vmap(one)(cast(Array, state.parents), state.log_weights, noise)

    def mean(self, state: ParticleState) -> Array:
        weights = jax.nn.softmax(state.log_weights)
        mean = weights @ state.particles
        if not state.angles:
            return mean
        index = np.asarray(state.angles)  # the mean direction, not the mean of numbers on either side of the cut
        turns = state.particles[:, index]
        return mean.at[index].set(jnp.arctan2(weights @ jnp.sin(turns), weights @ jnp.cos(turns)))

    def cov(self, state: ParticleState) -> Array:
        weights = jax.nn.softmax(state.log_weights)
        gaps = difference(state.particles, self.mean(state)[None], state.angles)
        return (weights[:, None] * gaps).T @ gaps

    def sample(self, state: ParticleState, key: jax.Array, n: int) -> Array:
        # By inversion: drawing each by Gumbel noise would take n times N random numbers.
        weights = jax.nn.softmax(state.log_weights)
        index = jax.random.choice(key, weights.size, (n,), p=weights)
        return state.particles[index]

    def log_prob(self, state: ParticleState, x: Array) -> Array:
        """Log density of a Gaussian kernel estimate (Silverman's bandwidth); particles themselves have no density."""
        dim = state.particles.shape[1]
        if x.shape[-1:] != (dim,):
            raise ArgumentError(f"x: expected shape (..., {dim}), found {x.shape}.")
        ess = effective_sample_size(state.log_weights)
        width = (4 / (ess * (dim + 2))) ** (1 / (dim + 4))
        factor = jnp.linalg.cholesky(self.cov(state)) * width
        log_weights = jax.nn.log_softmax(state.log_weights)

        def one(point: Array) -> Array:
            white = jax.scipy.linalg.solve_triangular(factor, (point[None] - state.particles).T, lower=True)
            kernel = -0.5 * jnp.sum(white**2, axis=0) - 0.5 * dim * jnp.log(2 * jnp.pi)
            return jax.scipy.special.logsumexp(log_weights + kernel) - jnp.sum(jnp.log(jnp.diag(factor)))

        return jax.vmap(one)(x.reshape(-1, dim)).reshape(x.shape[:-1])

    def as_mixture(self, state: ParticleState, k: int) -> GaussianMixture:
        return GaussianMixture.from_samples(state.particles, state.log_weights, k, jax.random.key(0))

    def claim(self, system: System) -> str:
        return "unbiased"

    def reason(self, system: System) -> str:
        return "evidence unbiased, filtering means consistent as the number of particles grows"

    def check(self, state: ParticleState) -> Array:
        sound = jnp.all(jnp.isfinite(state.particles))
        return jnp.where(sound, 0, int(Fault.PREDICTION)).astype(jnp.int32)


def summed(log_weights: Float[Array, " particles"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log of the mean weight and effective sample size, from one exponential of each; -inf and 0 if all are zero."""
    top = jnp.max(log_weights)
    safe = jnp.where(jnp.isfinite(top), top, 0)
    weights = jnp.exp(log_weights - safe)
    total, squares = jnp.sum(weights), jnp.sum(weights * weights)
    dead = total <= 0  # a NaN is not
    log_mean = jnp.where(dead, -jnp.inf, safe + jnp.log(jnp.where(dead, 1, total) / log_weights.shape[0]))
    return log_mean, jnp.where(dead, 0, total * total / jnp.where(dead, 1, squares))
