"""Bayesian linear regression on a stream of real targets, in information form."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from scipy.linalg import solve_triangular

from continual.checks import checked_inputs, checked_targets, positive
from continual.heads.exact import HeadBelief, moments_of
from continual.heads.matrix_normal import MatrixNormalPosterior, posterior_of
from continual.heads.weights import WeightBelief
from continual.learner import UpdateInfo
from continual.moments import Moments, absorbed
from probinf.arguments import positive_integer
from probinf.errors import UnknownNameError
from probinf.random import as_key

_BATCH = 500


class StudentT(NamedTuple):
    """Predictive distribution of real targets: each row a multivariate Student t.

    Attributes:
        mean: (examples, outputs).
        scale: scale matrices, (examples, outputs, outputs); the covariance is dof/(dof - 2) times it.
        dof: degrees of freedom.
    """

    mean: np.ndarray
    scale: np.ndarray
    dof: float


class BayesianLinearRegression(eqx.Module):
    """Regression with several outputs and unknown noise covariance, exact after any batches in any order.

    Args:
        num_outputs: width of the targets; a vector of targets is one output.
        ridge: prior precision of the weights relative to the noise.
        noise: prior expectation of the noise variance.

    Example:
        >>> model = BayesianLinearRegression()
        >>> belief = model.start(0)
        >>> belief, info = model.update(belief, 0, "target", [1.0, 2.1, 2.9], inputs=[[1.0], [2.0], [3.0]])
        >>> model.forecast(belief, [[4.0]]).mean.shape
        (1, 1)

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, 3.3; Minka (2000), Bayesian linear regression.
    """

    num_outputs: int = eqx.field(static=True, default=1)
    ridge: float = 1.0
    noise: float = 1.0

    def __check_init__(self) -> None:
        positive_integer("num_outputs", self.num_outputs)
        positive("ridge", self.ridge)
        positive("noise", self.noise)

    def start(self, key: Any, t0: int = 0) -> HeadBelief:
        """The belief before any data."""
        as_key(key, argument="key")
        return HeadBelief(None)

    def predict(self, belief: HeadBelief, t: int, *, control: Any = None) -> HeadBelief:
        """The belief at task `t`: weights are constant, so it is the belief."""
        return belief

    def update(
        self, belief: HeadBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[HeadBelief, UpdateInfo]:
        """Learn from targets (examples, outputs) at inputs (examples, features).

        Raises:
            DataError: no example, numbers that are not finite, or a width that differs; the belief is untouched.
        """
        if sensor != "target":
            raise UnknownNameError(sensor, ("target",), "sensor", "a regression")
        moments = belief.moments
        z = checked_inputs(inputs, f"task {t}", None if moments is None else moments.num_features)
        y = checked_targets(value, f"task {t}", len(z), self.num_outputs)
        if moments is None:
            checked_inputs(z, f"task {t}", z.shape[1])
            moments = Moments.zeros(z.shape[1], self.num_outputs, np.float64 if z.dtype == np.float64 else np.float32)
        moments, steps = absorbed(moments, z, y.astype(moments.dtype), _BATCH)
        return HeadBelief(moments), UpdateInfo(len(z), steps)

    def posterior(self, belief: HeadBelief) -> MatrixNormalPosterior:
        """Posterior of weights and noise, with the log evidence of all targets so far."""
        return posterior_of(moments_of(belief), self.ridge, self.noise)

    def forecast(self, belief: HeadBelief, inputs: Any) -> StudentT:
        """Predictive distribution of the targets at new inputs."""
        found = self.posterior(belief)
        z = checked_inputs(inputs, "inputs", len(found.mean))
        spread = 1 + np.sum(solve_triangular(found.factor, z.T.astype(float), lower=True) ** 2, axis=0)
        dof = found.dof - self.num_outputs + 1
        return StudentT(z @ found.mean, spread[:, None, None] * found.scale[None] / dof, dof)

    def weights(self, belief: HeadBelief) -> WeightBelief:
        """Posterior of the weights as a belief over (features x outputs) numbers, row by row."""
        return WeightBelief.of(self.posterior(belief))
