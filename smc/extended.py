"""The extended Kalman filter: motion and sensors are linearised by automatic differentiation."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from probinf.streaming.system import System
from smc.gaussian_approximation import check_noise, moments
from smc.gaussian_filter import AbstractGaussianFilter, check_gate, check_iterations
from smc.kalman import Affine


class EKF(AbstractGaussianFilter):
    r"""Extended Kalman filter with Joseph-form updates, optional gate and optional iteration.

    Around the current mean m, a distribution with mean function f(x) and covariance C(x) becomes
    $N(f(m) + F (x - m), C(m))$ with F the Jacobian of f at m: noise may depend on the state, it is taken at the mean.

    Attributes:
        gate: a value whose NIS exceeds this is refused: the belief stays as predicted and the info says so (None: no
            gate). For one coordinate 9 is three standard deviations, for n compare with chi-square quantiles.
        noise: how mixture and Student t noise is read; see `smc.gaussian_approximation.moments`. `"nominal"` suits a
            gate, `"moment"` takes outliers into the covariance.
        iterations: times the sensor is linearised, each time at the latest mean; 1 is the plain filter.

    References:
        Särkkä (2013), Bayesian Filtering and Smoothing, Algorithm 5.4; iteration: Bell & Cathey (1993), IEEE TAC 38(2).
    """

    gate: Array | None = eqx.field(converter=check_gate, default=None)
    noise: str = eqx.field(static=True, converter=check_noise, default="nominal")
    iterations: int = eqx.field(static=True, converter=check_iterations, default=1)

    def linearise_move(self, system: System, mean: Array, cov: Array, dt: Array, control: Array | None) -> Affine:
        def f(x):
            return moments(system.move_distribution(x, dt, control), self.noise)

        return _linearise(f, mean)

    def linearise_sensor(
        self, system: System, sensor: str, mean: Array, cov: Array, inputs: Array | None
    ) -> tuple[Affine, np.ndarray]:
        circular = []

        def h(x):
            distribution = system.sensor_distribution(sensor, x, inputs)
            circular.append(system.sensor(sensor).circular(distribution))
            return moments(distribution, self.noise)

        return _linearise(h, mean), np.asarray(circular[0])


def _linearise(function, point: Array) -> Affine:
    predicted, noise = function(point)
    matrix = jax.jacfwd(lambda x: function(x)[0])(point)
    return Affine(predicted, matrix, noise)
