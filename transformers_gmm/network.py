"""A transformer that corrects an analytic answer: zero correction before training, the same interface after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig
from transformers_gmm.decoder import DecoderLayer, Perceptron
from transformers_gmm.examples import Problem

NARROWEST, WIDEST = 1e-3, 30.0  # width of a component, in units of the frame
FARTHEST = 30.0  # how far a mean can be moved at once, in its own step
_EMPTY = -1e4  # finite, where arithmetic with -inf would give NaN
LIGHTEST = -12.0  # log weight below which a component is as good as empty; the network can still call it back


class ResidualTransformer(nnx.Module):
    """Reads a problem's base mixture and data, and returns the base with learned corrections.

    A component (w, m, L) becomes (w exp(a), m + s b, L T), normalised over components, where a, b and the
    lower-triangular T are read off its token and s lies between the component's own width and the frame's. The last
    layer starts at zero, so an untrained network returns the base, and a base that is exact stays exact.

    Args:
        config: sizes.
        rngs: of the initial weights.
    """

    def __init__(self, config: NetworkConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        dim, width = config.dim, config.width
        self.embed = Perceptron(_count(dim) + config.token_features, width, width, rngs=rngs)
        self.sources = nnx.Dict(
            {name: Perceptron(size, width, width, rngs=rngs) for name, size in sorted(config.context.items())}
        )
        self.rank = nnx.Embed(config.num_components, width, rngs=rngs) if config.by_rank else None
        self.layers = nnx.List(
            [DecoderLayer(width, config.heads, config.feedforward, rngs=rngs) for _ in range(config.layers)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.unembed = Perceptron(width, _count(dim), rngs=rngs, starts_at_zero=True)

    def __call__(self, problem: Problem) -> Components:
        base = problem.base
        tokens = self.embed(jnp.concatenate([framed_features(problem), problem.tokens], axis=-1))
        if self.rank is not None:
            ranks = jnp.argsort(jnp.argsort(-base.log_weights, axis=-1), axis=-1)
            tokens = tokens + self.rank(ranks)
        names = sorted(problem.context)
        context = jnp.concatenate([self.sources[name](problem.context[name]) for name in names], axis=-2)
        mask = jnp.concatenate([problem.mask[name] for name in names], axis=-1)
        for layer in self.layers:
            tokens = layer(tokens, context, None, mask)
        return corrected(problem, self.unembed(self.norm(tokens)))


def framed_features(problem: Problem) -> Float[Array, "*batch comps features"]:
    """Log weight, mean and Cholesky factor of each base component in the frame: (..., K, 1 + D + D(D+1)/2)."""
    base, scale = problem.base, problem.scale[..., None, :]
    means = (base.means - problem.location[..., None, :]) / scale
    factors = base.scale_tril / scale[..., :, None]
    log_diagonal = jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1))
    row, column = np.tril_indices(base.dim, -1)
    weights = jnp.maximum(base.log_weights, LIGHTEST)[..., None] / 4
    return jnp.concatenate([weights, means, log_diagonal / 2, factors[..., row, column]], axis=-1)


def corrected(problem: Problem, correction: Float[Array, "*batch comps features"]) -> Components:
    """The base with corrections (..., K, 1 + D + D(D+1)/2) applied; zeros change nothing."""
    base, dim = problem.base, problem.base.dim
    kind = base.means.dtype
    correction = correction.astype(kind)
    weight, mean, diagonal, below = jnp.split(correction, (1, 1 + dim, 1 + 2 * dim), axis=-1)
    own = jnp.sqrt(jnp.sum(base.scale_tril**2, axis=-1))
    # Between the component's width and the frame's: a far mode is within reach, a narrow one is not overshot.
    step = jnp.sqrt(own * problem.scale[..., None, :])
    # Bounded: no step of training can make a factor vanish or overflow.
    change = lower_triangular(jnp.exp(6 * jnp.tanh(diagonal / 6)), below)
    factors = jnp.sum(base.scale_tril[..., :, :, None] * change[..., None, :, :], axis=-2)
    # Nothing in the loss holds a component without weight: it must not wander off until it overflows.
    width, frame = jnp.sqrt(jnp.sum(factors**2, axis=-1)), problem.scale[..., None, :]
    held = jnp.clip(width, jnp.minimum(NARROWEST * frame, own), jnp.maximum(WIDEST * frame, own)) / width
    return Components(
        jax.nn.log_softmax(_lifted(base.log_weights, weight[..., 0]), axis=-1),
        base.means + step * jnp.clip(mean, -FARTHEST, FARTHEST),
        factors * held[..., None],
    )


def lower_triangular(diagonal: Float[Array, "*batch dim"], below: Float[Array, "*batch rest"]) -> Array:
    """Matrices (..., D, D) from their diagonals (..., D) and what is below them (..., D(D-1)/2), row by row."""
    dim = diagonal.shape[-1]
    where = np.full((dim, dim), dim + below.shape[-1])
    where[np.diag_indices(dim)] = np.arange(dim)
    where[np.tril_indices(dim, -1)] = dim + np.arange(below.shape[-1])
    parts = jnp.concatenate([diagonal, below, jnp.zeros_like(diagonal[..., :1])], axis=-1)
    return parts[..., where]


def _lifted(log_weights: Array, change: Array) -> Array:
    """Log weights plus a change; one that is changed at all is first lifted to `LIGHTEST`, so it can be called back."""
    log_weights = jnp.maximum(log_weights, jnp.asarray(_EMPTY, log_weights.dtype))
    lift = jnp.maximum(jnp.asarray(LIGHTEST, log_weights.dtype) - log_weights, 0)
    is_changed = -jnp.expm1(-((100 * change) ** 2))
    return log_weights + change + lift * is_changed


def _count(dim: int) -> int:
    return 1 + dim + dim * (dim + 1) // 2
