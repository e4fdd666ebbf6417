"""Linear-Gaussian observations: the posterior of every mixture is known exactly, in any dimension."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from smc.small_normal import cholesky
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.meta_priors import DiagonalMixtures, inverse_factor
from transformers_gmm.tasks.static import AbstractStaticTask, Draws

NUM_OUTPUTS = 4


class LinearGaussian(AbstractStaticTask):
    r"""$z = H x + N(0, I_4)$ with a fixed standard normal $H \in R^{4 \times D}$; priors are mixtures of K Gaussians.

    The base is the Kalman update of every component with weights by evidence, which is the posterior: a network that
    has not been trained is exact, and training can only find zero corrections.

    Attributes:
        matrix: H as nested tuples, four rows of D entries.

    References:
        Whittle et al. (2026), Distribution Transformers, appendices C.1 and C.4, which leave H and the noise open.
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    matrix: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(self, dim: int = 8, num_components: int = 8, seed: int = 0) -> None:
        self.name = f"linear_gaussian_{dim}"
        self.config = NetworkConfig(
            dim=dim, num_components=num_components, context={"value": NUM_OUTPUTS}, width=64, heads=8, layers=3,
            by_rank=False,
        )  # fmt: skip
        self.training = TrainingConfig(steps=20_000, batch=1024, learning_rate=1e-3, seed=1)
        matrix = np.random.default_rng(seed).standard_normal((NUM_OUTPUTS, dim))
        self.matrix = tuple(map(tuple, matrix.tolist()))

    def draw(self, key: jax.Array, n: int) -> Draws:
        key_prior, key_latent, key_noise = jr.split(key, 3)
        prior = DiagonalMixtures(self.config.num_components, self.config.dim).sample(key_prior, n)
        latents = prior.sample(key_latent, 1)[:, 0]
        noise = jr.normal(key_noise, (n, NUM_OUTPUTS), latents.dtype)
        return Draws(prior, latents, latents @ jnp.asarray(self.matrix, latents.dtype).T + noise)

    def exact(self, prior: Components, data: Float[Array, "batch outputs"]) -> Components:
        """The posterior: as many components as the prior has."""
        return kalman_update(prior, jnp.asarray(self.matrix, data.dtype), data)

    def problem(self, prior: Components, data: Float[Array, "batch outputs"]) -> Problem:
        base = self.exact(prior, data)
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.zeros((*base.log_weights.shape, 0), data.dtype),
            self.sources(data),
            {"value": jnp.ones((data.shape[0], 1), bool)},
        )

    def posterior_points(
        self, key: jax.Array, prior: Components, data: Float[Array, "batch outputs"]
    ) -> tuple[Array, Array]:
        """Exact draws, 16 for every problem."""
        points = self.exact(prior, data).sample(key, 16)
        return points, jnp.full(points.shape[:2], -math.log(16), points.dtype)

    def log_posterior(
        self, prior: Components, data: Float[Array, "batch outputs"], points: Float[Array, "batch points dim"]
    ) -> Array:
        return self.exact(prior, data).log_prob(points)

    def parameters(self, prior: Components) -> Components:
        return prior

    def sources(self, data: Float[Array, "batch outputs"]) -> dict[str, Array]:
        return {"value": data[:, None]}


def kalman_update(
    prior: Components, matrix: Float[Array, "outputs dim"], data: Float[Array, "batch outputs"]
) -> Components:
    r"""The posterior of a mixture given $z = H x + N(0, I)$, exactly, without a difference of covariances.

    With $A = H L$ for each factor L, the posterior covariance is $L (I + A^\top A)^{-1} L^\top$, so its factor is L
    times the factor of an inverse that is never far from singular; 32 bits are enough for any widths.

    Args:
        prior: mixtures (n, K, D).
        matrix: H, shape (m, D).
        data: z, shape (n, m).
    """
    seen = jnp.einsum("od,bkde->bkoe", matrix, prior.scale_tril)
    dim, outputs = seen.shape[-1], seen.shape[-2]
    shrink = inverse_factor(_plus_identity(jnp.einsum("bkod,bkoe->bkde", seen, seen), dim))
    factors = prior.scale_tril @ shrink
    gaps = data[:, None] - jnp.einsum("od,bkd->bko", matrix, prior.means)
    means = prior.means + jnp.einsum("bkde,bkfe,bkof,bko->bkd", factors, shrink, seen, gaps)
    innovation = cholesky(_plus_identity(jnp.einsum("bkoe,bkpe->bkop", seen, seen), outputs))
    white = jax.scipy.linalg.solve_triangular(innovation, gaps[..., None], lower=True)[..., 0]
    log_det = jnp.sum(jnp.log(jnp.diagonal(innovation, axis1=-2, axis2=-1)), axis=-1)
    log_weights = prior.log_weights - 0.5 * jnp.sum(white**2, axis=-1) - log_det
    return Components(jax.nn.log_softmax(log_weights, axis=-1), means, factors)


def _plus_identity(matrices: Float[Array, "batch comps size size"], size: int) -> Array:
    return matrices + jnp.eye(size, dtype=matrices.dtype)[None, None]
