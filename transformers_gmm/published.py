"""The network as published: absolute outputs, prior and posterior read by one unembedding."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig
from transformers_gmm.decoder import DecoderLayer, Perceptron
from transformers_gmm.network import lower_triangular

_JITTER = 1e-6  # added to the diagonal of a factor
_LOWEST, _HIGHEST = -11.0, 14.0  # log of that diagonal
_LIGHTEST = math.log(1e-6)


class DistributionTransformer(nnx.Module):
    """Maps a prior and data to Gaussian mixtures that stand for the prior and for the posterior.

    A mixture prior gives one token for each component, by weights that all share, so that the answer is equivariant in
    the components and K is free. Any other prior is embedded by its parameters, and K networks make K tokens of it.

    Args:
        config: sizes; with `prior_parameters` for priors that are no mixtures.
        rngs: of the initial weights.

    References:
        Whittle et al. (2026), Distribution Transformers, section 3 and appendix D.
    """

    def __init__(self, config: NetworkConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width, half = config.width, config.width // 2
        size = 1 + config.dim + config.dim * (config.dim + 1) // 2
        if config.prior_parameters:
            share = width // len(config.prior_parameters)
            self.priors = nnx.Dict(
                {name: Perceptron(n, half, share, rngs=rngs) for name, n in sorted(config.prior_parameters.items())}
            )
            self.tokens = nnx.List([Perceptron(width, width, width, rngs=rngs) for _ in range(config.num_components)])
        else:
            self.embed = Perceptron(size, half, width, rngs=rngs)
        self.sources = nnx.Dict(
            {name: Perceptron(n, half, width, rngs=rngs) for name, n in sorted(config.context.items())}
        )
        self.layers = nnx.List(
            [
                DecoderLayer(width, config.heads, config.feedforward, rngs=rngs, norm="after")
                for _ in range(config.layers)
            ]
        )
        self.unembed = Perceptron(width, half, size, rngs=rngs)

    def __call__(
        self, prior: Components | dict[str, Array], context: dict[str, Array], mask: dict[str, Array] | None = None
    ) -> tuple[Components, Components]:
        """Mixtures for the prior and for the posterior.

        Args:
            prior: components (..., K), or latent -> parameters (..., P), positive ones as logs.
            context: source -> tokens (..., S, W).
            mask: source -> whether a token is there, (..., S); all are if left out.
        """
        tokens, token_mask = self._prior_tokens(prior)
        names = sorted(context)
        data = jnp.concatenate([self.sources[name](context[name]) for name in names], axis=-2)
        data_mask = None if mask is None else jnp.concatenate([mask[name] for name in names], axis=-1)
        answer = tokens
        for layer in self.layers:
            answer = layer(answer, data, token_mask, data_mask)
        return self._mixture(tokens, token_mask), self._mixture(answer, token_mask)

    def _prior_tokens(self, prior: Components | dict[str, Array]) -> tuple[Array, Array | None]:
        if isinstance(prior, Components):
            return self.embed(features(prior)), prior.log_weights > -jnp.inf
        whole = jnp.concatenate([self.priors[name](prior[name]) for name in sorted(prior)], axis=-1)
        return jnp.stack([token(whole) for token in self.tokens], axis=-2), None

    def _mixture(self, tokens: Array, mask: Array | None) -> Components:
        dim = self.config.dim
        read = self.unembed(tokens)
        read = read.astype(jnp.promote_types(read.dtype, jnp.float32))  # densities need more digits than products
        weight, mean, diagonal, below = jnp.split(read, (1, 1 + dim, 1 + 2 * dim), axis=-1)
        factors = lower_triangular(jnp.exp(jnp.clip(diagonal, _LOWEST, _HIGHEST)) + _JITTER, below)
        logits = weight[..., 0] if mask is None else jnp.where(mask, weight[..., 0], -jnp.inf)
        return Components(jax.nn.log_softmax(logits, axis=-1), mean, factors)


def features(prior: Components) -> Float[Array, "*batch comps features"]:
    """Log weight, mean, log diagonal and strictly lower part of each component, (..., K, 1 + D + D(D+1)/2)."""
    row, column = np.tril_indices(prior.dim, -1)
    log_diagonal = jnp.log(jnp.diagonal(prior.scale_tril, axis1=-2, axis2=-1))
    weights = jnp.maximum(prior.log_weights, jnp.asarray(_LIGHTEST, prior.means.dtype))[..., None]
    return jnp.concatenate([weights, prior.means, log_diagonal, prior.scale_tril[..., row, column]], axis=-1)


def published_loss(network: Any, prior: Any, context: dict[str, Array], latents: Float[Array, "batch dim"]) -> Array:
    """The published loss: -log q(x | prior) - log q(x | data, prior), averaged over draws (B, D).

    References:
        Whittle et al. (2026), algorithm 1.
    """
    before, after = network(prior, context)
    points = latents[:, None, :].astype(after.means.dtype)
    return -jnp.mean(before.log_prob(points) + after.log_prob(points))
