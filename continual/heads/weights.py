"""The posterior of a linear model's weights as a belief: a matrix Student t over the flattened weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import multigammaln
from jaxtyping import Array, Float

from continual.heads.matrix_normal import MatrixNormalPosterior
from probinf.representations.belief import AbstractBelief
from probinf.representations.mixture import GaussianMixture


class WeightBelief(AbstractBelief):
    r"""Weights W, (features, outputs), with the noise covariance integrated out; x is W row by row.

    $p(W) \propto |\Psi + (W - M)^T\Lambda(W - M)|^{-(\nu + d)/2}$. `cov` has (features x outputs)² entries.

    Attributes:
        centre: M, (features, outputs).
        factor: lower Cholesky factor of Λ.
        scale: Ψ, (outputs, outputs).
        dof: ν.
        evidence: log evidence, nats.

    References:
        Gupta & Nagar (2000), Matrix Variate Distributions, chapter 4.
    """

    centre: Float[Array, "features outputs"]
    factor: Float[Array, "features features"]
    scale: Float[Array, "outputs outputs"]
    dof: Float[Array, ""]
    evidence: Float[Array, ""]

    @classmethod
    def of(cls, posterior: MatrixNormalPosterior) -> WeightBelief:
        """The belief of a posterior, in the floats that JAX is set to."""
        dtype = jnp.result_type(float)
        return cls(*(jnp.asarray(part, dtype) for part in posterior))

    @property
    def mean(self) -> Float[Array, " dim"]:
        return self.centre.ravel()

    @property
    def cov(self) -> Float[Array, "dim dim"]:
        inverse = solve_triangular(self.factor, jnp.eye(len(self.factor), dtype=self.factor.dtype), lower=True)
        return jnp.kron(inverse.T @ inverse, self.scale / (self.dof - self.centre.shape[1] - 1))

    @property
    def log_evidence(self) -> Float[Array, ""]:
        return self.evidence

    def sample(self, key: jax.Array, n: int) -> Float[Array, "n dim"]:
        return jax.vmap(self._draw)(jax.random.split(key, n))

    def _draw(self, key: jax.Array) -> Float[Array, " dim"]:
        key_chi, key_low, key_weights = jax.random.split(key, 3)
        size, dtype = self.centre.shape[1], self.centre.dtype
        # Σ⁻¹ = (CA)(CA)' with Ψ⁻¹ = CC', by Bartlett; then a row e = z (CA)⁻¹ has covariance Σ.
        chi = jnp.sqrt(2 * jax.random.gamma(key_chi, (self.dof - jnp.arange(size, dtype=dtype)) / 2, dtype=dtype))
        bartlett = jnp.tril(jax.random.normal(key_low, (size, size), dtype), -1) + jnp.diag(chi)
        root = jnp.linalg.cholesky(jnp.linalg.inv(self.scale)) @ bartlett
        z = jax.random.normal(key_weights, self.centre.shape, dtype)
        noise = jnp.linalg.solve(root.T, z.T).T
        return (self.centre + solve_triangular(self.factor, noise, lower=True, trans=1)).ravel()

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, " *batch"]:
        flat = x.reshape(-1, self.centre.size)
        return jax.vmap(self._log_prob)(flat).reshape(x.shape[:-1])

    def _log_prob(self, x: Float[Array, " dim"]) -> Float[Array, ""]:
        features, outputs = self.centre.shape
        error = self.factor.T @ (x.reshape(features, outputs) - self.centre)
        total = (self.dof + features) / 2
        return (
            multigammaln(total, outputs)
            - multigammaln(self.dof / 2, outputs)
            - 0.5 * features * outputs * float(np.log(np.pi))
            + outputs * jnp.sum(jnp.log(jnp.diag(self.factor)))
            + 0.5 * self.dof * jnp.linalg.slogdet(self.scale)[1]
            - total * jnp.linalg.slogdet(self.scale + error.T @ error)[1]
        )

    def as_mixture(self, k: int) -> GaussianMixture:
        """One Gaussian with the same mean and covariance."""
        return GaussianMixture.gaussian(self.mean, self.cov)
