"""Gaussian classes, each with a mean and a covariance of its own."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import solve_triangular
from scipy.special import gammaln

from continual.checks import checked_inputs, positive
from continual.heads.exact import AbstractExactHead, HeadBelief, moments_of
from continual.learner import AbstractPredictor
from continual.moments import Total, in_batches
from probinf.arguments import positive_integer


class ClassMoments(eqx.Module):
    """Second moments (classes, features, features), sums (features, classes) and counts of each class."""

    gram: Total
    cross: Total
    counts: Array

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return self.cross.value.shape[0]

    @property
    def dtype(self) -> Any:
        """Floats of the sums."""
        return self.cross.value.dtype

    def with_batch(self, z: Float[Array, "n d"], y: Float[Array, "n k"], count: Array) -> ClassMoments:
        """Moments with a batch in them; rows of zeros are padding and change nothing."""
        grams = jax.lax.map(lambda one: (z * one[:, None]).T @ z, y.T)  # one class at a time: (n, d, k) is too large
        counts = self.counts + jnp.sum(y, axis=0).astype(jnp.int32)
        return ClassMoments(self.gram.add(grams), self.cross.add(z.T @ y), counts)


class NormalInverseWishartPredictor(AbstractPredictor):
    """Student-t density of each class times its predictive probability.

    Attributes:
        whiten: inverse Cholesky factors of the scale matrices, (classes, features, features).
        centres: whitened means, (classes, features).
        widths: (κ + 1)/κ of each class.
        log_constant: what of log p(class) p(z | class) does not depend on z; -inf where the class has no data.
        dof: degrees of freedom of each class.
    """

    whiten: Array
    centres: Array
    widths: Array
    log_constant: Array
    dof: Array

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        z = checked_inputs(inputs, "inputs", self.whiten.shape[1]).astype(self.whiten.dtype)
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), z, 1000)


@eqx.filter_jit
def _probabilities(predictor: NormalInverseWishartPredictor, z: Array) -> Array:
    def distance(whiten: Array, centre: Array) -> Array:
        return jnp.sum((z @ whiten.T - centre[None]) ** 2, axis=1)

    distances = jax.lax.map(lambda one: distance(*one), (predictor.whiten, predictor.centres)).T
    powers = -0.5 * (predictor.dof + z.shape[1])
    return jax.nn.softmax(
        predictor.log_constant[None] + powers[None] * jnp.log1p(distances / predictor.widths[None]), axis=1
    )


class NormalInverseWishart(AbstractExactHead):
    r"""Gaussian classes with means and covariances of their own: quadratic discriminants.

    Each class has a normal-inverse-Wishart prior.

    Exact after any tasks in any order. Memory is classes x features², so it is meant for up to a few hundred features.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        ridge: $\Psi_0$ = ridge I, with d + 2 degrees of freedom.
        kappa: $\kappa_0$, examples that the prior of a mean is worth.

    References:
        Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 9.
    """

    ridge: float = 1.0
    kappa: float = 0.01

    def __check_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)
        positive("ridge", self.ridge)
        positive("kappa", self.kappa)

    def empty(self, num_features: int, dtype: Any) -> ClassMoments:
        return ClassMoments(
            Total.zeros((self.num_classes, num_features, num_features), dtype),
            Total.zeros((num_features, self.num_classes), dtype),
            jnp.zeros(self.num_classes, jnp.int32),
        )

    def predictor(self, belief: HeadBelief) -> NormalInverseWishartPredictor:
        moments = moments_of(belief)
        grams, sums, counts = moments.gram.exact(), moments.cross.exact().T, np.asarray(moments.counts)
        dim, kappas = sums.shape[1], self.kappa + counts
        means = sums / kappas[:, None]
        scales = self.ridge * np.eye(dim) + grams - kappas[:, None, None] * means[:, :, None] * means[:, None]
        factors = np.linalg.cholesky((scales + np.swapaxes(scales, 1, 2)) / 2)
        whiten = np.stack([solve_triangular(factor, np.eye(dim), lower=True) for factor in factors])
        dof, widths = 3.0 + counts, (kappas + 1) / kappas
        log_det = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1) + dim * np.log(widths)
        constant = np.log(counts + 1.0) + gammaln((dof + dim) / 2) - gammaln(dof / 2) - 0.5 * log_det
        return NormalInverseWishartPredictor(
            jnp.asarray(whiten, moments.dtype),
            jnp.asarray(np.einsum("cij,cj->ci", whiten, means), moments.dtype),
            jnp.asarray(widths, moments.dtype),
            jnp.asarray(np.where(counts > 0, constant, -np.inf), moments.dtype),
            jnp.asarray(dof, moments.dtype),
        )
