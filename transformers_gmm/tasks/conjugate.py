"""The check with a known answer: the variance of one Gaussian observation under an inverse-gamma prior."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.meta_priors import WIDE, InverseGamma, PositivePairs
from transformers_gmm.tasks.static import AbstractStaticTask, Draws, LogDensity, line_fit, line_moments, line_points

_NUM_POINTS = 64


class Conjugate(AbstractStaticTask):
    r"""$\sigma^2 \sim IG(\alpha, \beta)$, one observation $z \sim N(0, \sigma^2)$; the latent is $u = \log \sigma^2$.

    The base is a rough fit of K components to prior times likelihood on a grid; the network brings it to the best one.
    The conjugate formula is in `exact`, which neither network nor training calls. The rate is a shift of u, so the
    network sees $\log \alpha$ and the observation's size on the prior's scale, $\log(1 + z^2 / \beta)$.

    Attributes:
        num_components: K.
        meta_prior: of $(\alpha, \beta)$.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.1 and appendix F.
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    meta_prior: PositivePairs = eqx.field(static=True)

    def __init__(self, num_components: int = 5, meta_prior: PositivePairs = WIDE) -> None:
        self.name = f"conjugate_{num_components}"
        self.config = NetworkConfig(
            dim=1, num_components=num_components, context={"observation": 2}, width=32, heads=4, layers=2,
            feedforward=128, by_rank=False,
        )  # fmt: skip
        self.training = TrainingConfig(steps=4_000, batch=256, learning_rate=3e-3, seed=1)
        self.meta_prior = meta_prior

    def draw(self, key: jax.Array, n: int) -> Draws:
        key_prior, key_latent, key_data = jr.split(key, 3)
        prior = InverseGamma(*self.meta_prior.sample(key_prior, n))
        latents = prior.sample_log(key_latent)
        observations = jnp.exp(0.5 * latents) * jr.normal(key_data, (n,), latents.dtype)
        return Draws(prior, latents[:, None], observations)

    def problem(self, prior: InverseGamma, data: Float[Array, " batch"]) -> Problem:
        location, scale = line_moments(_unnormalised(prior, data), *prior.log_moments())
        size = jnp.log1p(data**2 / prior.rate)
        context = jnp.stack([jnp.log(prior.concentration), size], axis=-1)[:, None]
        return Problem(
            line_fit(_unnormalised(prior, data), location, scale, self.config.num_components),
            location[:, None],
            scale[:, None],
            jnp.zeros((*data.shape, self.config.num_components, 0), data.dtype),
            {"observation": context},
            {"observation": jnp.ones((*data.shape, 1), bool)},
        )

    def posterior_points(
        self, key: jax.Array, prior: InverseGamma, data: Float[Array, " batch"]
    ) -> tuple[Array, Array]:
        log_density = _unnormalised(prior, data)
        return line_points(key, log_density, *line_moments(log_density, *prior.log_moments()), _NUM_POINTS)

    def exact(self, prior: InverseGamma, data: Float[Array, " batch"]) -> InverseGamma:
        r"""The posterior $IG(\alpha + 1/2, \beta + z^2 / 2)$."""
        return InverseGamma(prior.concentration + 0.5, prior.rate + 0.5 * data**2)

    def log_posterior(
        self, prior: InverseGamma, data: Float[Array, " batch"], points: Float[Array, "batch points one"]
    ) -> Array:
        return self.exact(prior, data).log_density(points[..., 0])

    def parameters(self, prior: InverseGamma) -> dict[str, Array]:
        return {"variance": jnp.log(jnp.stack([prior.concentration, prior.rate], axis=-1))}

    def sources(self, data: Float[Array, " batch"]) -> dict[str, Array]:
        return {"observation": data[:, None, None]}


def conjugate_2() -> Conjugate:
    """The check with two components and the wide meta-prior."""
    return Conjugate(2)


def conjugate_5() -> Conjugate:
    """The check with five components and the wide meta-prior."""
    return Conjugate(5)


def _unnormalised(prior: InverseGamma, data: Float[Array, " batch"]) -> LogDensity:
    z = data[:, None]
    return lambda u: prior.log_density(u) - 0.5 * (u + z**2 * jnp.exp(-u))
