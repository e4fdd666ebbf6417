"""The unscented Kalman filter: motion and sensors are made affine by matching moments at sigma points."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError
from probinf.representations.angular import wrap
from probinf.representations.concrete import is_concrete
from probinf.streaming.system import System
from smc.gaussian_approximation import check_noise, moments
from smc.gaussian_filter import AbstractGaussianFilter, check_gate
from smc.kalman import Affine, symmetric


class SigmaPoints(NamedTuple):
    """Deviations from the mean (2d + 1, d), and weights for means and for covariances (2d + 1,)."""

    deviations: Array
    mean_weights: Array
    cov_weights: Array


def sigma_points(
    cov: Float[Array, "dim dim"], alpha: Float[Array, ""], beta: Float[Array, ""], kappa: Float[Array, ""]
) -> SigmaPoints:
    r"""Scaled symmetric set: $0, \pm\sqrt{c}\,L_i$ with $c = \alpha^2(d + \kappa)$ and $P = L L'$.

    NaN throughout if the covariance is not positive definite.

    References:
        Julier (2002), The scaled unscented transformation; Wan & van der Merwe (2000), eq. 15.
    """
    dim = cov.shape[0]
    c = alpha**2 * (dim + kappa)
    arms = jnp.sqrt(c) * jnp.linalg.cholesky(cov).T  # rows are the columns of L
    deviations = jnp.concatenate([jnp.zeros((1, dim), cov.dtype), arms, -arms])
    side = jnp.broadcast_to(0.5 / c, (2 * dim,))
    centre = 1.0 - dim / c
    mean_weights = jnp.concatenate([centre[None], side])
    cov_weights = jnp.concatenate([(centre + 1.0 - alpha**2 + beta)[None], side])
    return SigmaPoints(deviations, mean_weights, cov_weights)


class UKF(AbstractGaussianFilter):
    """Unscented Kalman filter; angles are averaged on the circle, updates are in Joseph form.

    A function becomes the affine model with the same mean, covariance and cross-covariance under the sigma points
    (statistical linear regression), so update and smoother are the Kalman ones.

    Attributes:
        gate: see `EKF`.
        noise: see `EKF`. Noise that depends on the state is taken at the mean.
        alpha, beta, kappa: shape of the sigma points. The defaults put all weights at or above zero, so no covariance
            loses definiteness, and give the exact variance of a square in one dimension.

    References:
        Wan & van der Merwe (2000), The unscented Kalman filter for nonlinear estimation. Regression view:
        García-Fernández, Svensson, Morelande & Särkkä (2015), IEEE Transactions on Signal Processing 63(20).
    """

    gate: Array | None = eqx.field(converter=check_gate, default=None)
    noise: str = eqx.field(static=True, converter=check_noise, default="nominal")
    alpha: Array = eqx.field(converter=lambda x: jnp.asarray(x, float), default=1.0)
    beta: Array = eqx.field(converter=lambda x: jnp.asarray(x, float), default=2.0)
    kappa: Array = eqx.field(converter=lambda x: jnp.asarray(x, float), default=0.0)

    iterations: int = eqx.field(static=True, init=False, default=1)

    def __check_init__(self) -> None:
        if is_concrete(self.alpha) and not float(self.alpha) > 0.0:
            raise ArgumentError(f"alpha: expected a positive number, found {float(self.alpha)}.")

    def notes(self, system: System) -> tuple[str, ...]:
        spread = float(self.alpha) ** 2 * (system.dim + float(self.kappa))
        if spread <= 0.0:
            raise ArgumentError(
                f"kappa: expected above {-system.dim} for a state with {system.dim} entries, found {float(self.kappa)}."
            )
        return super().notes(system)

    def linearise_move(self, system: System, mean: Array, cov: Array, dt: Array, control: Array | None) -> Affine:
        circular = np.isin(np.arange(system.dim), system.angles)
        return self._regress(
            lambda x: moments(system.move_distribution(x, dt, control), self.noise), mean, cov, lambda: circular
        )

    def linearise_sensor(
        self, system: System, sensor: str, mean: Array, cov: Array, inputs: Array | None
    ) -> tuple[Affine, np.ndarray]:
        circular = []

        def h(x):
            distribution = system.sensor_distribution(sensor, x, inputs)
            circular.append(np.asarray(system.sensor(sensor).circular(distribution)))
            return moments(distribution, self.noise)

        return self._regress(h, mean, cov, lambda: circular[0]), circular[0]

    def _regress(self, function: Callable, mean: Array, cov: Array, circular: Callable[[], np.ndarray]) -> Affine:
        points = sigma_points(cov, *(a.astype(cov.dtype) for a in (self.alpha, self.beta, self.kappa)))
        _, noise = function(mean)
        images = jax.vmap(lambda deviation: function(mean + deviation)[0])(points.deviations)
        predicted, spread = _mean_and_spread(images, points.mean_weights, circular())
        weighted = points.cov_weights[:, None] * spread
        cross = points.deviations.T @ weighted  # (d, p)
        matrix = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(cov), True), cross).T
        # What the regression leaves unexplained counts as noise; exactly zero for affine functions but for rounding.
        residual = spread.T @ weighted - matrix @ cross
        return Affine(predicted, matrix, symmetric(residual) + noise)


def _mean_and_spread(images: Array, weights: Array, circular: np.ndarray) -> tuple[Array, Array]:
    """Weighted mean of the images (2d + 1, p), and their deviations from it; circular coordinates on the circle."""
    mean = weights @ images
    if circular.any():
        direction = jnp.arctan2(weights @ jnp.sin(images), weights @ jnp.cos(images))
        mean = jnp.where(circular, direction, mean)
    spread = images - mean[None, :]
    if circular.any():
        spread = jnp.where(circular[None, :], wrap(spread), spread)
    return mean, spread
