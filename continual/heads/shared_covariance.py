"""Linear discriminant analysis as a posterior: Gaussian classes with one covariance."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import solve_triangular

from continual.checks import checked_inputs, positive
from continual.heads.exact import AbstractExactHead, HeadBelief, moments_of
from continual.learner import AbstractPredictor
from continual.moments import Moments, in_batches
from probinf.arguments import positive_integer


class SharedCovariancePredictor(AbstractPredictor):
    """Student-t densities of all classes times the predictive probabilities of the classes.

    Attributes:
        whiten: inverse Cholesky factor of the scale matrix Ψ, (features, features).
        centres: whitened means, (classes, features).
        widths: (κ + 1)/κ of each class.
        log_prior: log predictive probability of each class; -inf where it has no data.
        dof: degrees of freedom of the Student t.
    """

    whiten: Array
    centres: Array
    widths: Array
    log_prior: Array
    dof: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        z = checked_inputs(inputs, "inputs", self.whiten.shape[0]).astype(self.whiten.dtype)
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), z, 1000)


@eqx.filter_jit
def _probabilities(predictor: SharedCovariancePredictor, z: Array) -> Array:
    u, d = z @ predictor.whiten.T, z.shape[1]
    distances = jnp.sum((u[:, None] - predictor.centres[None]) ** 2, axis=2) / predictor.widths[None]
    log_density = -0.5 * (predictor.dof + d) * jnp.log1p(distances) - 0.5 * d * jnp.log(predictor.widths)[None]
    return jax.nn.softmax(log_density + predictor.log_prior[None], axis=1)


class SharedCovarianceGaussian(AbstractExactHead):
    r"""Gaussian classes with a common covariance.

    $\Sigma \sim IW(\Psi_0, d + 2)$ and $\mu_c \mid \Sigma \sim N(0, \Sigma/\kappa_0)$.

    Exact after any tasks in any order. The class probabilities have a uniform Dirichlet prior, the predictive
    density of a class is a Student t.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        ridge: $\Psi_0$ = ridge I.
        kappa: $\kappa_0$, examples that the prior of a mean is worth.

    References:
        Gelman et al. (2013), Bayesian Data Analysis, 3.6.
    """

    ridge: float = 1.0
    kappa: float = 0.01

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)
        positive("ridge", self.ridge)
        positive("kappa", self.kappa)

    def empty(self, num_features: int, dtype: Any) -> Moments:
        return Moments.zeros(num_features, self.num_classes, dtype)

    def predictor(self, belief: HeadBelief) -> SharedCovariancePredictor:
        moments = moments_of(belief)
        gram, sums, counts = moments.gram.exact(), moments.cross.exact(), np.diag(moments.targets.exact())
        dim, kappas = len(gram), self.kappa + counts
        means = sums / kappas
        scale = self.ridge * np.eye(dim) + gram - (means * kappas) @ means.T
        factor = np.linalg.cholesky((scale + scale.T) / 2)
        whiten = solve_triangular(factor, np.eye(dim), lower=True)
        with np.errstate(divide="ignore"):
            log_prior = np.where(counts > 0, np.log(counts + 1), -np.inf)
        # Σ | data ~ IW(scale, d + 2 + n); the predictive t has d + 2 + n - d + 1 degrees of freedom.
        return SharedCovariancePredictor(
            jnp.asarray(whiten, moments.dtype),
            jnp.asarray((whiten @ means).T, moments.dtype),
            jnp.asarray((kappas + 1) / kappas, moments.dtype),
            jnp.asarray(log_prior, moments.dtype),
            jnp.asarray(3.0 + counts.sum(), moments.dtype),
        )
