"""What Gaussian filters share: the state, the update with gate and missing coordinates, the smoother."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.representations.angular import wrap
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture import GaussianMixture
from probinf.representations.mixture_fit import gaussian_log_density
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from smc.gaussian_approximation import prior_moments
from smc.kalman import Affine, gain, innovate, joseph, predict_cov
from smc.rts import rts_smooth


class GaussianState(eqx.Module):
    """A Gaussian belief.

    Attributes:
        mean: shape (d,), angles in (-pi, pi].
        cov: shape (d, d).
        angles: indices of the entries that are angles.
    """

    mean: Float[Array, " dim"]
    cov: Float[Array, "dim dim"]
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class AbstractGaussianFilter(AbstractFilterMethod):
    """A filter whose belief is one Gaussian; a method says how it makes a model affine around a Gaussian."""

    gate: eqx.AbstractVar[Array | None]
    iterations: eqx.AbstractVar[int]

    @abc.abstractmethod
    def linearise_move(self, system: System, mean: Array, cov: Array, dt: Array, control: Array | None) -> Affine:
        """The motion around N(mean, cov)."""

    @abc.abstractmethod
    def linearise_sensor(
        self, system: System, sensor: str, mean: Array, cov: Array, inputs: Array | None
    ) -> tuple[Affine, np.ndarray]:
        """The sensor around N(mean, cov), and which coordinates of its value are angles."""

    def init(self, key: jax.Array, system: System) -> GaussianState:
        mean, cov = (jnp.asarray(part, system.dtype) for part in prior_moments(system.prior))
        return GaussianState(system.wrap_angles(mean), cov, system.angles)

    def predict(self, state: GaussianState, system: System, dt: Array, control: Array | None) -> GaussianState:
        model = self.linearise_move(system, state.mean, state.cov, dt, control)
        return GaussianState(system.wrap_angles(model.predicted), predict_cov(state.cov, model), state.angles)

    def update(
        self, state: GaussianState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[GaussianState, UpdateInfo]:
        value, observed = value.reshape(-1), observed.reshape(-1)

        def innovation_at(point):
            """What the value says beyond the affine model made at `point`, as that model predicts it at the mean."""
            model, circular = self.linearise_sensor(system, sensor, point, state.cov, inputs)
            residual = _on_circle(value - model.predicted, circular)
            if point is not state.mean:
                residual = residual - model.matrix @ difference(state.mean, point, state.angles)
            return innovate(state.cov, model, residual, observed)

        def condition(innovation):
            k = gain(state.cov, innovation)
            return system.wrap_angles(state.mean + k @ innovation.residual), joseph(state.cov, k, innovation)

        first = innovation_at(state.mean)
        posterior = condition(first)
        for _ in range(1, self.iterations):
            posterior = condition(innovation_at(posterior[0]))
        gated = jnp.zeros((), bool) if self.gate is None else first.nis > self.gate
        # A gated value, or one that is missing altogether, leaves the belief as predicted, to the bit.
        keep = gated | ~jnp.any(observed)
        mean, cov = (jnp.where(keep, old, new) for old, new in zip((state.mean, state.cov), posterior, strict=True))
        sound = jnp.isfinite(first.log_density) & jnp.all(jnp.isfinite(mean)) & jnp.all(jnp.isfinite(cov))
        sound = sound & jnp.all(jnp.diagonal(cov) >= 0.0)
        info = UpdateInfo.create(
            first.log_density,
            observed,
            innovation=jnp.where(observed, first.residual, jnp.asarray(jnp.nan, mean.dtype)),
            nis=first.nis,
            gated=gated,
            fault=jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32),
        )
        return GaussianState(mean, cov, state.angles), info

    def mean(self, state: GaussianState) -> Array:
        return state.mean

    def cov(self, state: GaussianState) -> Array:
        return state.cov

    def sample(self, state: GaussianState, key: jax.Array, n: int) -> Array:
        noise = jax.random.normal(key, (n, state.mean.shape[0]), state.mean.dtype)
        draws = state.mean[None, :] + noise @ jnp.linalg.cholesky(state.cov).T
        return wrap_entries(draws, state.angles)

    def log_prob(self, state: GaussianState, x: Array) -> Array:
        dim = state.mean.shape[0]
        if x.shape[-1:] != (dim,):
            raise ArgumentError(f"x: expected shape (..., {dim}), found {x.shape}.")
        factor = jnp.linalg.cholesky(state.cov)

        def one(point):
            return gaussian_log_density(difference(point, state.mean, state.angles), jnp.zeros_like(point), factor)

        return jax.vmap(one)(x.reshape(-1, dim)).reshape(x.shape[:-1])

    def as_mixture(self, state: GaussianState, k: int) -> GaussianMixture:
        return GaussianMixture.gaussian(state.mean, state.cov)

    def claim(self, system: System) -> str:
        exact = system.linear_gaussian and self.gate is None and num_components_of(system.prior) == 1
        return "exact" if exact else "approximate"

    def reason(self, system: System) -> str:
        if not system.linear_gaussian:
            return "one Gaussian stands for every belief; the system is not declared linear_gaussian"
        if num_components_of(system.prior) > 1:
            return "one Gaussian stands for a prior of several components; smc.GaussianSum keeps them"
        return "linear Gaussian system" if self.gate is None else "values beyond the gate are left out"

    def notes(self, system: System) -> tuple[str, ...]:
        count = num_components_of(system.prior)
        if count == 1:
            return ()
        return (
            f"the prior, a mixture of {count} components, was replaced by one Gaussian of equal mean and covariance",
        )

    def check(self, state: GaussianState) -> Array:
        finite = jnp.all(jnp.isfinite(state.mean)) & jnp.all(jnp.isfinite(state.cov))
        sound = finite & jnp.all(jnp.diagonal(state.cov) >= 0.0)
        return jnp.where(sound, 0, int(Fault.PREDICTION)).astype(jnp.int32)

    def smooth(self, system: System, states: GaussianState, dts: Array, controls: Array | None) -> Any:
        return rts_smooth(self, system, states, dts, controls)


def difference(a: Array, b: Array, angles: tuple[int, ...]) -> Array:
    """Subtract b from a, states of shape (d,); angles on the circle."""
    return wrap_entries(a - b, angles)


def wrap_entries(x: Array, angles: tuple[int, ...]) -> Array:
    """States of shape (..., d) with these entries in (-pi, pi]."""
    if not angles:
        return x
    index = np.asarray(angles)
    return x.at[..., index].set(wrap(x[..., index]))


def check_gate(gate: Any) -> Array | None:
    """The gate as an array, or None; it must be positive."""
    if gate is None or not is_concrete(gate):
        return gate
    if isinstance(gate, bool | str):
        raise ArgumentTypeError(f"gate: expected a positive number or None, found {gate!r}.")
    if not float(gate) > 0.0:
        raise ArgumentError(f"gate: expected a positive threshold on the NIS, found {gate!r}.")
    return jnp.asarray(gate, float)


def check_iterations(iterations: Any) -> int:
    """Raise unless a positive integer."""
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ArgumentError(f"iterations: expected a positive integer, found {iterations!r}.")
    return iterations


def _on_circle(residual: Array, circular: np.ndarray) -> Array:
    return jnp.where(circular, wrap(residual), residual) if circular.any() else residual


def num_components_of(prior: Any) -> int:
    """Components of a system's prior: more than one for mixtures."""
    if isinstance(prior, dist.MixtureSameFamily | dist.MixtureGeneral):
        return prior.mixture_size
    return getattr(prior, "num_components", 1)
