"""Bayesian linear regression on one-hot labels, in information form."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import checked_inputs, positive
from continual.heads.exact import AbstractExactHead, HeadBelief, moments_of
from continual.heads.matrix_normal import MatrixNormalPosterior, posterior_of
from continual.heads.weights import WeightBelief
from continual.learner import AbstractPredictor
from continual.moments import Moments, in_batches
from probinf.arguments import positive_integer


class LinearPredictor(AbstractPredictor):
    """Student-t predictive density of the one-hot vectors, normalised over the classes seen.

    Attributes:
        mean: (features, classes), mean of the weights.
        root: inverse of the Cholesky factor of the weights' precision, (features, features).
        precision: inverse of the residuals' scale matrix, (classes, classes).
        dof: degrees of freedom of the predictive.
        temperature: divides the log probabilities.
        seen: classes with data.
    """

    mean: Array
    root: Array
    precision: Array
    dof: Array
    temperature: Array
    seen: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        z = checked_inputs(inputs, "inputs", self.mean.shape[0]).astype(self.mean.dtype)
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), z, 1000)


@eqx.filter_jit
def _probabilities(predictor: LinearPredictor, z: Array) -> Array:
    fitted = z @ predictor.mean
    spread = 1 + jnp.sum((z @ predictor.root.T) ** 2, axis=1)
    errors = jnp.eye(fitted.shape[1], dtype=z.dtype)[None] - fitted[:, None]  # (n, class, output)
    distances = jnp.einsum("nco,op,ncp->nc", errors, predictor.precision, errors) / spread[:, None]
    log_density = -0.5 * (predictor.dof + fitted.shape[1]) * jnp.log1p(distances)
    return jax.nn.softmax(jnp.where(predictor.seen[None], log_density / predictor.temperature, -jnp.inf), axis=1)


class BayesianLinearHead(AbstractExactHead):
    r"""Multi-output ridge regression on one-hot labels, exact after any tasks in any order.

    One Cholesky factor serves all classes; the residuals' covariance has an inverse-Wishart prior. A class has
    the probability of its one-hot vector under the posterior predictive Student t, relative to the other classes seen.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        ridge: prior precision of the weights, in units of one example with features of size one.
        noise: prior expectation of the residuals' variance.
        temperature: log probabilities are divided by it. 1 is the posterior predictive; residuals on one-hot labels are
            not Gaussian, which makes it overconfident, and a value chosen on validation data mends that. It changes
            no decision.

    Example:
        >>> head = BayesianLinearHead(num_classes=2)
        >>> belief = head.start(0)
        >>> belief, info = head.update(belief, 0, "label", [0, 1], inputs=[[1.0, 0.0], [0.0, 1.0]])
        >>> head.probabilities(belief, [[1.0, 0.0]]).argmax()
        0

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, 3.3; Minka (2000), Bayesian linear regression.
    """

    ridge: float = 1.0
    noise: float = 0.1
    temperature: float = 1.0

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)
        positive("ridge", self.ridge)
        positive("noise", self.noise)
        positive("temperature", self.temperature)

    def empty(self, num_features: int, dtype: Any) -> Moments:
        return Moments.zeros(num_features, self.num_classes, dtype)

    def posterior(self, belief: HeadBelief) -> MatrixNormalPosterior:
        """Posterior of the weights, and the log evidence of the labels as real numbers."""
        return posterior_of(moments_of(belief), self.ridge, self.noise)

    def weights(self, belief: HeadBelief) -> WeightBelief:
        """Posterior of the weights as a belief over (features x classes) numbers, row by row."""
        return WeightBelief.of(self.posterior(belief))

    def predictor(self, belief: HeadBelief) -> LinearPredictor:
        moments, found = moments_of(belief), self.posterior(belief)
        dtype = moments.dtype
        root = np.linalg.inv(found.factor)
        return LinearPredictor(
            jnp.asarray(found.mean, dtype),
            jnp.asarray(root, dtype),
            jnp.asarray(np.linalg.inv(found.scale), dtype),
            jnp.asarray(found.dof - self.num_classes + 1, dtype),
            jnp.asarray(self.temperature, dtype),
            jnp.asarray(np.diag(moments.targets.exact()) > 0),
        )
