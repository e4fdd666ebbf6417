"""Images moved at random while a network trains: a small memory is then not learnt by heart."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError


class Shifts(eqx.Module):
    """Each image of a batch moved by up to so many pixels to any side, zeros where nothing was.

    Args:
        shape: of one image, (height, width) or (height, width, channels).
        pixels: the farthest.

    Raises:
        ArgumentError: another number of sizes, or one that is no positive integer.

    Example:
        >>> moved = Shifts((2, 2))(jax.random.key(0), jnp.ones((5, 4)))
        >>> moved.shape
        (5, 4)
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    pixels: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        if len(self.shape) not in (2, 3):
            raise ArgumentError(f"shape: expected (height, width) or (height, width, channels), found {self.shape}.")
        for size in self.shape:
            positive_integer("shape", size)
        positive_integer("pixels", self.pixels)

    def __call__(self, key: Array, rows: Float[Array, "n size"]) -> Float[Array, "n size"]:
        """The images, flattened as they came.

        Raises:
            ArgumentError: rows of another size than images of this shape have.
        """
        if rows.shape[1] != math.prod(self.shape):
            raise ArgumentError(
                f"shape: images of shape {self.shape} have {math.prod(self.shape)} numbers, the inputs have "
                f"{rows.shape[1]}."
            )
        images = rows.reshape(len(rows), *self.shape)
        margin = (self.pixels, self.pixels)
        padded = jnp.pad(images, ((0, 0), margin, margin, *[(0, 0)] * (len(self.shape) - 2)))
        corners = jax.random.randint(key, (len(rows), 2), 0, 2 * self.pixels + 1)

        def cut(image: Array, corner: Array) -> Array:
            start = (corner[0], corner[1], *[0] * (len(self.shape) - 2))
            return jax.lax.dynamic_slice(image, start, self.shape)

        return jax.vmap(cut)(padded, corners).reshape(rows.shape)
