"""The ensemble Kalman filter: a sample stands for the belief, and moves linearly towards each value."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.language.distributions import draw
from probinf.representations.angular import wrap
from probinf.representations.mixture import GaussianMixture
from probinf.representations.mixture_fit import gaussian_log_density
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from smc.gaussian_approximation import moments
from smc.gaussian_filter import difference, num_components_of, wrap_entries
from smc.kalman import symmetric


class EnsembleState(eqx.Module):
    """Equally weighted members and the randomness that rides with them.

    Attributes:
        members: (N, d).
        key: for the next step.
        angles: indices of the entries that are angles.
    """

    members: Float[Array, "members dim"]
    key: Array
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class EnsembleKalmanFilter(AbstractFilterMethod):
    r"""Stochastic ensemble Kalman filter (Evensen 1994; Burgers, van Leeuwen & Evensen 1998).

    Each member moves by the system's motion, predicts the value with noise of its own, and is shifted by
    $K (y - y_i)$, with the gain from the ensemble's covariances. It needs no derivative, costs O(N d) and works in
    many dimensions, where particle weights degenerate.

    Consistent for linear-Gaussian systems (Mandel, Cobb & Beezley 2011); for others the linear shift is an
    approximation that more members do not remove. Its evidence is that of a Gaussian prediction.

    Args:
        num_members: N, at least 2.
        inflation: spread of the members about their mean is multiplied by this before each update; slightly above 1
            makes up for the spread that small ensembles lose.
    """

    num_members: int = eqx.field(static=True)
    inflation: float = eqx.field(static=True)

    def __init__(self, num_members: int, *, inflation: float = 1.0) -> None:
        if isinstance(num_members, bool) or not isinstance(num_members, int | np.integer):
            raise ArgumentTypeError(f"num_members: expected an integer, found {num_members!r}.")
        if num_members < 2:
            raise ArgumentError(f"num_members: expected at least 2, found {num_members}.")
        if not float(inflation) >= 1.0:
            raise ArgumentError(f"inflation: expected a number of at least 1, found {inflation!r}.")
        self.num_members, self.inflation = int(num_members), float(inflation)

    def init(self, key: jax.Array, system: System) -> EnsembleState:
        key, key_prior = jax.random.split(key)
        return EnsembleState(system.wrap_angles(system.sample_prior(key_prior, self.num_members)), key, system.angles)

    def predict(self, state: EnsembleState, system: System, dt: Array, control: Array | None) -> EnsembleState:
        key, key_step = jax.random.split(state.key)

        def move(x: Array, key: Array) -> Array:
            return draw(system.move_distribution(x, dt, control), key)

        moved = jax.vmap(move)(state.members, jax.random.split(key_step, self.num_members))
        return EnsembleState(system.wrap_angles(moved.astype(state.members.dtype)), key, state.angles)

    def update(
        self, state: EnsembleState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[EnsembleState, UpdateInfo]:
        key, key_step = jax.random.split(state.key)
        members, flat, seen = state.members, value.reshape(-1), observed.reshape(-1)
        dtype = members.dtype
        centre = self.mean(state)
        gaps = difference(members, centre[None], state.angles) * self.inflation
        members = wrap_entries(centre[None] + gaps, state.angles)
        circular: list[Any] = []

        def see(x: Array, key: Array) -> tuple[Array, Array, Array]:
            law = system.sensor_distribution(sensor, x, inputs)
            circular.append(system.sensor(sensor).circular(law))
            predicted, noise = moments(law, "moment")
            return predicted, noise, draw(law, key).reshape(-1)

        predicted, noises, noisy = jax.vmap(see)(members, jax.random.split(key_step, self.num_members))
        round_ = np.asarray(circular[0])

        def apart(a: Array, b: Array) -> Array:
            return jnp.where(round_, wrap(a - b), a - b) if round_.any() else a - b

        # On the circle the mean is taken about the first member's prediction.
        middle = predicted[0] + jnp.mean(apart(predicted, predicted[:1]), axis=0)
        images = jnp.where(seen, apart(predicted, middle[None]), 0)
        count = jnp.asarray(self.num_members - 1, dtype)
        both = seen[:, None] & seen[None, :]
        spread = images.T @ images / count + jnp.mean(noises, axis=0)
        spread = jnp.where(both, symmetric(spread), jnp.eye(flat.size, dtype=dtype))
        factor = jnp.linalg.cholesky(spread)
        gain = jax.scipy.linalg.cho_solve((factor, True), images.T @ gaps / count).T
        shifts = jnp.where(seen, apart(flat[None], noisy), 0) @ gain.T
        moved = wrap_entries(members + shifts, state.angles)
        residual = jnp.where(seen, apart(flat, middle), 0)
        white = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
        nis = white @ white
        num_seen = jnp.sum(seen).astype(dtype)
        log_density = (
            -0.5 * nis - jnp.sum(jnp.log(jnp.diagonal(factor))) - 0.5 * num_seen * jnp.log(2 * jnp.pi).astype(dtype)
        )
        moved = jnp.where(jnp.any(seen), moved, state.members)
        sound = jnp.isfinite(log_density) & jnp.all(jnp.isfinite(moved))
        info = UpdateInfo.create(
            log_density,
            seen,
            innovation=jnp.where(seen, residual, jnp.asarray(jnp.nan, dtype)),
            nis=nis,
            fault=jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32),
        )
        return EnsembleState(moved.astype(dtype), key, state.angles), info

    def mean(self, state: EnsembleState) -> Array:
        first = state.members[:1]
        shift = jnp.mean(difference(state.members, first, state.angles), axis=0)
        return wrap_entries(first[0] + shift, state.angles)

    def cov(self, state: EnsembleState) -> Array:
        gaps = difference(state.members, self.mean(state)[None], state.angles)
        return gaps.T @ gaps / (self.num_members - 1)

    def sample(self, state: EnsembleState, key: jax.Array, n: int) -> Array:
        """Members, with replacement."""
        return state.members[jax.random.randint(key, (n,), 0, self.num_members)]

    def log_prob(self, state: EnsembleState, x: Array) -> Array:
        """Log density of the Gaussian with the ensemble's mean and covariance."""
        dim = state.members.shape[1]
        if x.shape[-1:] != (dim,):
            raise ArgumentError(f"x: expected shape (..., {dim}), found {x.shape}.")
        mean, factor = self.mean(state), jnp.linalg.cholesky(self.cov(state))

        def one(point: Array) -> Array:
            return gaussian_log_density(difference(point, mean, state.angles), jnp.zeros_like(point), factor)

        return jax.vmap(one)(x.reshape(-1, dim)).reshape(x.shape[:-1])

    def as_mixture(self, state: EnsembleState, k: int) -> GaussianMixture:
        return GaussianMixture.gaussian(self.mean(state), self.cov(state))

    def claim(self, system: System) -> str:
        return "consistent" if system.linear_gaussian and num_components_of(system.prior) == 1 else "approximate"

    def reason(self, system: System) -> str:
        if num_components_of(system.prior) > 1:
            return "members of several components are shifted as if they were one Gaussian"
        if system.linear_gaussian:
            return "linear Gaussian system: the Kalman filter's answer as the ensemble grows"
        return "members are shifted linearly; the system is not declared linear_gaussian"

    def check(self, state: EnsembleState) -> Array:
        return jnp.where(jnp.all(jnp.isfinite(state.members)), 0, int(Fault.PREDICTION)).astype(jnp.int32)
