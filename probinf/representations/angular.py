"""Angles: wrapping, and the wrapped normal distribution on the circle."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions.util import promote_shapes, validate_sample

_IMAGES = 4  # images of the line on either side; the first one left out is 9 pi away, at least 9 scales
_HARMONICS = 3  # with scale >= pi the next Fourier coefficient is exp(-8 pi^2) ~ 5e-35


def wrap(angle: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
    """The angle in (-pi, pi] that differs from `angle` (radians) by whole turns."""
    return math.pi - jnp.mod(math.pi - angle, 2.0 * math.pi)


class Angular(dist.Distribution):
    r"""Wrapped normal: a normal variable, N(loc, scale^2), taken modulo a whole turn.

    $$p(x) = \sum_{j} N(x + 2\pi j;\ \text{loc}, \text{scale}^2)
           = \frac{1}{2\pi}\Big(1 + 2\sum_{n \ge 1} e^{-n^2 \text{scale}^2 / 2} \cos n(x - \text{loc})\Big).$$

    The first series is used for scales below pi, the second above; both are then exact to rounding.

    Args:
        loc: mean direction in radians, any real number.
        scale: standard deviation of the unwrapped normal, radians, positive.

    References:
        Mardia & Jupp (2000), Directional Statistics, section 3.5.7.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": dist.constraints.real, "scale": dist.constraints.positive}
    support: Any = dist.constraints.circular
    reparametrized_params: ClassVar[list[str]] = ["loc", "scale"]

    def __init__(self, loc: Any, scale: Any, *, validate_args: bool | None = None) -> None:
        self.loc: Any
        self.scale: Any
        self.loc, self.scale = promote_shapes(loc, scale)
        batch_shape = jax.lax.broadcast_shapes(jnp.shape(loc), jnp.shape(scale))
        super().__init__(batch_shape=batch_shape, validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Angles in (-pi, pi], radians."""
        shape = (*sample_shape, *self.batch_shape)
        loc, scale = jnp.broadcast_to(self.loc, shape), jnp.broadcast_to(self.scale, shape)
        return wrap(loc + scale * jax.random.normal(key, shape, loc.dtype))

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Log density per radian; periodic in `value`."""
        shape = jax.lax.broadcast_shapes(jnp.shape(value), self.batch_shape)
        loc, scale = jnp.broadcast_to(self.loc, shape), jnp.broadcast_to(self.scale, shape)
        deviation = wrap(jnp.broadcast_to(value, shape) - loc)
        # Each branch is given a scale it is accurate for, so that the gradient of the other stays finite.
        narrow, wide = jnp.minimum(scale, math.pi), jnp.maximum(scale, math.pi)
        images = [-0.5 * ((deviation + 2.0 * math.pi * j) / narrow) ** 2 for j in range(-_IMAGES, _IMAGES + 1)]
        log_images = jax.nn.logsumexp(jnp.stack(images), axis=0) - jnp.log(narrow) - 0.5 * math.log(2.0 * math.pi)
        harmonics = [jnp.exp(-0.5 * (n * wide) ** 2) * jnp.cos(n * deviation) for n in range(1, _HARMONICS + 1)]
        log_series = jnp.log1p(2.0 * sum(harmonics[1:], harmonics[0])) - math.log(2.0 * math.pi)
        return jnp.where(scale < math.pi, log_images, log_series)

    @property
    def mean(self) -> jax.Array:
        """Mean direction in (-pi, pi]."""
        return jnp.broadcast_to(wrap(jnp.asarray(self.loc)), self.batch_shape)

    @property
    def variance(self) -> jax.Array:
        """Variance of the unwrapped normal, radians squared (what a Gaussian filter needs)."""
        return jnp.broadcast_to(jnp.asarray(self.scale) ** 2, self.batch_shape)
