r"""Meta-priors: distributions over priors, from which training draws a fresh prior for every problem.

Source: Whittle et al. (2026), arXiv 2502.02463, sections 4.1, 4.2.2, 4.3.1 and appendices F to I.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import digamma, gammaln, polygamma
from jaxtyping import Array, Float, PRNGKeyArray

from transformers_gmm.components import Components


class InverseGamma(eqx.Module):
    r"""A batch of priors $x \sim IG(\alpha, \beta)$ of a positive number, seen through $u = \log x$.

    Attributes:
        concentration: $\alpha > 0$, any shape.
        rate: $\beta > 0$, same shape.
    """

    concentration: Float[Array, "*batch"]
    rate: Float[Array, "*batch"]

    def log_density(self, u: Float[Array, "*points"]) -> Float[Array, "*points"]:
        r"""Log density of $u = \log x$, nats; the shape of `u` follows that of the priors (leading axes equal)."""
        alpha, beta = (_lifted(v, u) for v in (self.concentration, self.rate))
        excess = u - jnp.log(beta)
        return -alpha * excess - jnp.exp(-excess) - gammaln(alpha)

    def log_moments(self) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        r"""Mean and standard deviation of $\log x$."""
        return jnp.log(self.rate) - digamma(self.concentration), jnp.sqrt(polygamma(1, self.concentration))

    def sample_log(self, key: PRNGKeyArray) -> Float[Array, "*batch"]:
        r"""One draw of $\log x$ from each prior."""
        return jnp.log(self.rate) - jr.loggamma(key, self.concentration)


class Beta(eqx.Module):
    r"""A batch of priors $x \sim \text{Beta}(a, b)$ of a probability, seen through $u = \log x - \log(1 - x)$.

    Attributes:
        a, b: concentrations of one and of zero, both positive, of the same shape.
    """

    a: Float[Array, "*batch"]
    b: Float[Array, "*batch"]

    def log_density(self, u: Float[Array, "*points"]) -> Float[Array, "*points"]:
        r"""Log density of the logit `u`, nats; the shape of `u` follows that of the priors (leading axes equal)."""
        a, b = (_lifted(v, u) for v in (self.a, self.b))
        return a * jax.nn.log_sigmoid(u) + b * jax.nn.log_sigmoid(-u) + gammaln(a + b) - gammaln(a) - gammaln(b)

    def logit_moments(self) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """Mean and standard deviation of the logit."""
        return digamma(self.a) - digamma(self.b), jnp.sqrt(polygamma(1, self.a) + polygamma(1, self.b))

    def sample_logit(self, key: PRNGKeyArray) -> Float[Array, "*batch"]:
        """One draw of the logit from each prior."""
        key_a, key_b = jr.split(key)
        return jr.loggamma(key_a, self.a) - jr.loggamma(key_b, self.b)


def _lifted(parameter: Float[Array, "*batch"], u: Float[Array, "*points"]) -> Array:
    """The parameter with trailing axes of length one, to go with points of shape (*batch, ...)."""
    return parameter.reshape(parameter.shape + (1,) * (u.ndim - parameter.ndim))


class PositivePairs(eqx.Module):
    r"""Two positive numbers, each $IG(\text{concentration}, \text{rate})$, independent: parameters of a prior.

    `WIDE` is IG(4, 6) (mean 2, heavy upper tail), `NARROW` is IG(10000, 20000), in effect both numbers equal to 2.
    """

    concentration: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def sample(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Draw n pairs; the type is JAX's default float."""
        pair = self.rate * jnp.exp(-jr.loggamma(key, self.concentration, (2, n)))
        return pair[0], pair[1]


WIDE = PositivePairs(4.0, 6.0)
NARROW = PositivePairs(10_000.0, 20_000.0)


class GaussianMixtures(eqx.Module):
    r"""Random mixtures of K Gaussians in D dimensions.

    $w \sim \text{Dirichlet}(1/K, \dots)$, $\mu_k \sim N(0, I + 1 1^\top)$, $\Sigma_k = \Lambda_k^{-1}$ with
    $\Lambda_k \sim \text{Wishart}(D + 1, s I) + 10^{-4} I$: marginal variances are near $1 / (s \chi^2_2)$, with median
    standard deviation 0.42 at s = 4 and no finite mean.

    Attributes:
        num_components: K.
        dim: D.
        scale: s, the scale of the Wishart distribution.
    """

    num_components: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    scale: float = eqx.field(default=4.0, static=True)

    def sample(self, key: PRNGKeyArray, n: int) -> Components:
        """Draw n mixtures, log weights (n, K), means (n, K, D), factors (n, K, D, D)."""
        key_weights, key_means, key_shared, key_scale = jr.split(key, 4)
        k, d = self.num_components, self.dim
        log_weights = jax.nn.log_softmax(jr.loggamma(key_weights, 1.0 / k, (n, k)))
        means = jr.normal(key_means, (n, k, d)) + jr.normal(key_shared, (n, k, 1))
        precision = _wishart(key_scale, (n, k), d, self.scale) + 1e-4 * jnp.eye(d)[None, None]
        return Components(log_weights, means, inverse_factor(precision))


class DiagonalMixtures(eqx.Module):
    """Random mixtures of K Gaussians: means N(0, I), diagonal covariances of IG(1, 1), weights Dirichlet(1).

    Attributes:
        num_components: K.
        dim: D.
    """

    num_components: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def sample(self, key: PRNGKeyArray, n: int) -> Components:
        """Draw n mixtures, log weights (n, K), means (n, K, D), factors (n, K, D, D)."""
        key_weights, key_means, key_variances = jr.split(key, 3)
        k, d = self.num_components, self.dim
        log_weights = jax.nn.log_softmax(jnp.log(jr.exponential(key_weights, (n, k))))
        sds = jr.exponential(key_variances, (n, k, d)) ** -0.5
        return Components(log_weights, jr.normal(key_means, (n, k, d)), sds[..., None] * jnp.eye(d)[None, None])


def _wishart(key: PRNGKeyArray, batch: tuple[int, ...], d: int, scale: float) -> Float[Array, "*batch dim dim"]:
    """Draws of Wishart(d + 1, scale I) by Bartlett's decomposition."""
    key_normal, key_chi = jr.split(key)
    degrees = jnp.arange(d + 1, 1, -1, dtype=jnp.result_type(float))
    chi = jnp.sqrt(2.0 * jr.gamma(key_chi, jnp.broadcast_to(0.5 * degrees, (*batch, d))))
    factor = jnp.tril(jr.normal(key_normal, (*batch, d, d)), -1) + chi[..., None] * jnp.eye(d)[None, None]
    return scale * factor @ jnp.swapaxes(factor, -1, -2)


def inverse_factor(precision: Float[Array, "*batch dim dim"]) -> Float[Array, "*batch dim dim"]:
    r"""Lower Cholesky factor of $\Lambda^{-1}$ without forming the inverse.

    With $\Lambda = U U^\top$ for an upper triangular U (Cholesky of the matrix read backwards),
    $\Lambda^{-1} = U^{-\top} U^{-1}$, and $U^{-\top}$ is lower triangular. The transpose of an upper factor of the
    other order, $\Lambda = U^\top U$, would not do.
    """
    upper = jnp.flip(jnp.linalg.cholesky(jnp.flip(precision, (-2, -1))), (-2, -1))
    identity = jnp.broadcast_to(jnp.eye(precision.shape[-1], dtype=precision.dtype), precision.shape)
    return jax.scipy.linalg.solve_triangular(jnp.swapaxes(upper, -1, -2), identity, lower=True)
