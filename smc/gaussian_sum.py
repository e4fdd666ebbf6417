"""The Gaussian-sum filter: a Kalman-type filter for every component of a mixture, weighted by what it predicted."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from smc.extended import EKF
from smc.gaussian_approximation import prior_moments
from smc.gaussian_filter import AbstractGaussianFilter, GaussianState, difference, wrap_entries


class GaussianSumState(eqx.Module):
    """A mixture of K Gaussian beliefs.

    Attributes:
        components: means (K, d) and covariances (K, d, d).
        log_weights: (K,), normalised, nats.
    """

    components: GaussianState
    log_weights: Float[Array, " comps"]


class GaussianSum(AbstractFilterMethod):
    """A bank of Gaussian filters, one for each component of the prior (Alspach & Sorenson 1972).

    Several hypotheses (an unknown starting place, a prior of several modes, a mixture from another belief) are
    followed side by side until the data decide. Exact for linear-Gaussian systems with a `GaussianMixture` prior;
    otherwise as good as its base filter within each component, whose covariance should then be small against the
    curvature of the model.

    Args:
        base: the filter of one component: `EKF()` or `UKF()`, without a gate.
    """

    base: AbstractGaussianFilter

    def __init__(self, base: Any = None) -> None:
        base = EKF() if base is None else base
        if not isinstance(base, AbstractGaussianFilter):
            raise ArgumentTypeError(f"base: expected EKF() or UKF(), found {type(base).__name__}.")
        if base.gate is not None:
            raise ArgumentError("base: a component cannot gate for the others; give the base filter no gate.")
        self.base = base

    def init(self, key: jax.Array, system: System) -> GaussianSumState:
        prior = system.prior
        if isinstance(prior, GaussianMixture):
            means, covs, weights = prior.means, prior.covariances, prior.weights
        else:
            mean, cov = prior_moments(prior)
            means, covs, weights = mean[None], cov[None], jnp.ones(1)
        means, covs, weights = (jnp.asarray(part, system.dtype) for part in (means, covs, weights))
        one = lambda mean, cov: GaussianState(system.wrap_angles(mean), cov, system.angles)  # noqa: E731
        return GaussianSumState(jax.vmap(one)(means, covs), jnp.log(weights))

    def predict(self, state: GaussianSumState, system: System, dt: Array, control: Array | None) -> GaussianSumState:
        moved = jax.vmap(lambda one: self.base.predict(one, system, dt, control))(state.components)
        return GaussianSumState(moved, state.log_weights)

    def update(
        self, state: GaussianSumState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[GaussianSumState, UpdateInfo]:
        updated, infos = jax.vmap(lambda one: self.base.update(one, system, sensor, value, observed, inputs))(
            state.components
        )
        return weigh_components(state.log_weights, updated, infos, observed)

    def mean(self, state: GaussianSumState) -> Array:
        means, angles = state.components.mean, state.components.angles
        weights = jnp.exp(state.log_weights)
        if not angles:
            return weights @ means
        centre = means[jnp.argmax(weights)]
        return wrap_entries(centre + weights @ difference(means, centre[None], angles), angles)

    def cov(self, state: GaussianSumState) -> Array:
        weights = jnp.exp(state.log_weights)
        gaps = difference(state.components.mean, self.mean(state)[None], state.components.angles)
        return jnp.tensordot(weights, state.components.cov, axes=1) + (weights[:, None] * gaps).T @ gaps

    def sample(self, state: GaussianSumState, key: jax.Array, n: int) -> Array:
        k_which, k_noise = jax.random.split(key)
        which = jax.random.categorical(k_which, state.log_weights, shape=(n,))
        means, factors = state.components.mean[which], jnp.linalg.cholesky(state.components.cov)[which]
        noise = jax.random.normal(k_noise, means.shape, means.dtype)
        return wrap_entries(means + jnp.einsum("nij,nj->ni", factors, noise), state.components.angles)

    def log_prob(self, state: GaussianSumState, x: Array) -> Array:
        logps = jax.vmap(lambda one: self.base.log_prob(one, x))(state.components)
        spread = state.log_weights.reshape((-1,) + (1,) * (logps.ndim - 1))
        return jax.scipy.special.logsumexp(spread + logps, axis=0)

    def as_mixture(self, state: GaussianSumState, k: int) -> GaussianMixture:
        whole = GaussianMixture(jnp.exp(state.log_weights), state.components.mean, state.components.cov)
        return whole.reduce(k)

    def claim(self, system: System) -> str:
        return "exact" if system.linear_gaussian else "approximate"

    def reason(self, system: System) -> str:
        if not system.linear_gaussian:
            return "a Gaussian stands for each component's belief; the system is not declared linear_gaussian"
        return "linear Gaussian system, Gaussian or mixture prior"

    def notes(self, system: System) -> tuple[str, ...]:
        if isinstance(system.prior, dist.MixtureSameFamily | dist.MixtureGeneral):
            return ("the prior was replaced by one Gaussian of equal mean and covariance; pass a GaussianMixture",)
        return ()

    def check(self, state: GaussianSumState) -> Array:
        return jnp.max(jax.vmap(self.base.check)(state.components))


def weigh_components(
    log_weights: Array, updated: GaussianState, infos: UpdateInfo, observed: Array
) -> tuple[GaussianSumState, UpdateInfo]:
    """Bayes' rule for K components that have each been updated by one value; innovation and NIS of the heaviest.

    A value that is missing altogether changes no weight, to the bit.
    """
    joint = log_weights + infos.predictive_log_density
    seen = jnp.any(observed)
    log_density = jnp.where(seen, jax.scipy.special.logsumexp(joint), 0)
    heaviest = jnp.argmax(joint)
    sound = jnp.isfinite(log_density)
    info = UpdateInfo.create(
        log_density,
        observed.reshape(-1),
        innovation=infos.innovation[heaviest],
        nis=infos.nis[heaviest],
        fault=jnp.where(sound, jnp.max(infos.fault), int(Fault.UPDATE)).astype(jnp.int32),
    )
    return GaussianSumState(updated, jnp.where(seen, joint - log_density, log_weights)), info
