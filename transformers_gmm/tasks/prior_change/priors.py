"""Test-time priors of the suite: diagonal Gaussians and two-component mixtures of them, cut to the box where one is."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from probinf.errors import ArgumentError
from transformers_gmm.components import Components

Family = Literal["mild", "strong", "mixture"]
FAMILIES: tuple[Family, ...] = get_args(Family)
#: Standard deviation of a test prior over that of the training prior.
RATIOS: dict[Family, float] = {"mild": 0.5, "strong": 0.2, "mixture": 0.2}
#: Share of training problems whose width lies anywhere in `BROAD`, so that no width is new at test time.
BROAD_SHARE, BROAD = 0.15, (0.15, 0.7)


class Prior(eqx.Module):
    """A batch of mixtures of two diagonal Gaussians, each truncated to a box and renormalised.

    Attributes:
        log_weights: normalised, shape (..., 2); `-inf` marks a component that is not there.
        means, scales: before truncation, shape (..., 2, D).
        low, high: the box, shape (D,); infinite where there is none.
    """

    log_weights: Float[Array, "*batch comps"]
    means: Float[Array, "*batch comps dim"]
    scales: Float[Array, "*batch comps dim"]
    low: Float[Array, " dim"]
    high: Float[Array, " dim"]

    def sample(self, key: jax.Array) -> Float[Array, "*batch dim"]:
        """One draw of each prior."""
        key_which, key_draw = jax.random.split(key)
        which = jax.random.categorical(key_which, self.log_weights)[..., None, None]
        mean, scale = (jnp.take_along_axis(x, which, axis=-2)[..., 0, :] for x in (self.means, self.scales))
        low, high = self._box(mean)
        draw = jax.random.truncated_normal(key_draw, (low - mean) / scale, (high - mean) / scale, dtype=mean.dtype)
        return jnp.clip(mean + scale * draw, low, high)

    def log_prob(self, theta: Float[Array, "*batch points dim"]) -> Float[Array, "*batch points"]:
        """Log density of points (..., M, D), shape (..., M); `-inf` outside the box."""
        low, high = self._box(theta)
        inside = jnp.all((theta >= low) & (theta <= high), axis=-1)
        low, high = self._box(self.means)
        mass = norm.cdf(high, self.means, self.scales) - norm.cdf(low, self.means, self.scales)
        each = norm.logpdf(theta[..., :, None, :], self.means[..., None, :, :], self.scales[..., None, :, :])
        each = jnp.sum(each - jnp.log(mass)[..., None, :, :], axis=-1)
        return jnp.where(inside, jax.nn.logsumexp(self.log_weights[..., None, :] + each, axis=-1), -jnp.inf)

    def components(self) -> Components:
        """The mixture before truncation."""
        return Components(self.log_weights, self.means, diagonal(self.scales))

    def _box(self, like: Array) -> tuple[Array, Array]:
        return jnp.broadcast_to(self.low, like.shape), jnp.broadcast_to(self.high, like.shape)


def diagonal(scales: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim dim"]:
    """Diagonal matrices."""
    eye = jnp.eye(scales.shape[-1], dtype=scales.dtype)
    return jnp.expand_dims(eye, tuple(range(scales.ndim - 1))) * scales[..., None]


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """Where test priors of a task may lie.

    Attributes:
        dim: D, number of parameters.
        scale: standard deviation of the training prior.
        low, high: range of the means: the box of a uniform training prior, else mean -+ 2 standard deviations.
        is_bounded: whether priors are truncated to that range.
    """

    dim: int
    scale: float
    low: float
    high: float
    is_bounded: bool

    @classmethod
    def uniform(cls, dim: int, low: float, high: float) -> PriorSettings:
        """Training prior U(low, high) in every parameter."""
        return cls(dim, (high - low) / np.sqrt(12).item(), low, high, is_bounded=True)

    @classmethod
    def normal(cls, dim: int, scale: float) -> PriorSettings:
        """Training prior N(0, scale²) in every parameter."""
        return cls(dim, scale, -2 * scale, 2 * scale, is_bounded=False)

    def build(self, log_weights: Array, means: Array, scales: Array) -> Prior:
        """A prior in this box."""
        low, high = (self.low, self.high) if self.is_bounded else (-jnp.inf, jnp.inf)
        low, high = (jnp.full(self.dim, x, means.dtype) for x in (low, high))
        return Prior(log_weights, means, scales, low, high)

    def draw(self, key: jax.Array, n: int) -> Prior:
        """`n` priors for training: the three families in equal parts, and some of any width between."""
        key_family, key_broad, key_ratio, key_mean, key_weight = jax.random.split(key, 5)
        family = jax.random.randint(key_family, (n,), 0, len(FAMILIES))
        ratio = jnp.asarray([RATIOS[name] for name in FAMILIES])[family]
        low, high = np.log(BROAD)
        other = jnp.exp(jax.random.uniform(key_ratio, (n,), minval=low, maxval=high))
        ratio = jnp.where(jax.random.uniform(key_broad, (n,)) < BROAD_SHARE, other, ratio)
        sigma = (ratio * self.scale)[:, None, None] * jnp.ones((n, 2, self.dim))
        # Three standard deviations from the edge, as at test time; the middle where the prior is wider than that.
        reach = jnp.maximum((self.high - self.low) / 2 - 3 * sigma, 0)
        middle = (self.high + self.low) / 2
        means = middle + reach * jax.random.uniform(key_mean, sigma.shape, minval=-1, maxval=1)
        weight = jax.random.uniform(key_weight, (n,), minval=0.2, maxval=0.8)
        weight = jnp.where(family == FAMILIES.index("mixture"), weight, 1)
        return self.build(jnp.log(jnp.stack([weight, 1 - weight], axis=-1)), means, sigma)


#: Order in which the published priors were drawn from one key: uniform training priors, then normal ones.
_ORDER = (("oup", "turin", "two_moons"), ("causal_inference", "gaussian_linear_10", "gaussian_linear_20"))


def published_priors(name: str, all_settings: dict[str, PriorSettings], family: Family) -> Prior:
    """The ten priors of a family on which PriorGuide was tested, drawn again from its seed; leading axis 10.

    Args:
        name: of the task.
        all_settings: of every task, by name, since one key runs through them all.
        family: "mild", "strong" or "mixture".

    Raises:
        ArgumentError: an unknown task or family.

    References:
        Yang et al. (2026), PriorGuide, ICLR; experiments/data/priors of github.com/acerbilab/prior-guide.
    """
    group = next((names for names in _ORDER if name in names), None)
    if group is None or family not in FAMILIES:
        raise ArgumentError(f"published_priors: expected a task of {_ORDER} and a family of {FAMILIES}, "
                            f"found {name!r} and {family!r}.")  # fmt: skip
    # JAX's old splitting of counters, under which the seed was published; float32 whatever the session's precision.
    with jax.threefry_partitionable(False):
        key = jax.random.key(0, impl="threefry2x32")
        for _ in range(10 * group.index(name)):
            key = jax.random.split(key, 4)[0]
        drawn = []
        for _ in range(10):
            key, *keys = jax.random.split(key, 4)
            drawn.append(_draw(dict(zip(FAMILIES, keys, strict=True))[family], all_settings[name], family))
    weights, means = (np.stack(parts) for parts in zip(*drawn, strict=True))
    scales = np.full_like(means, RATIOS[family] * all_settings[name].scale)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    kind = jnp.zeros(()).dtype
    return all_settings[name].build(*(jnp.asarray(x, kind) for x in (log_weights, means, scales)))


def _draw(key: jax.Array, settings: PriorSettings, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Weights (2,) and means (2, D) of one prior; a single component is followed by an empty copy."""
    sigma = RATIOS[family] * settings.scale
    low, high = np.float32(settings.low + 3 * sigma), np.float32(settings.high - 3 * sigma)
    keys = jax.random.split(key) if family == "mixture" else (key, key)
    means = [jax.random.uniform(k, (settings.dim,), jnp.float32, minval=low, maxval=high) for k in keys]
    weight = float(jax.random.uniform(key, (), jnp.float32, minval=0.2, maxval=0.8)) if family == "mixture" else 1.0
    return np.array([weight, 1 - weight]), np.stack([np.asarray(m) for m in means])
