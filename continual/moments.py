"""Sums over examples from which every exact head computes its posterior: order and batches leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Total(eqx.Module):
    """A running sum and what rounding took from it, so that float32 sums of many batches keep float32's precision.

    References:
        Knuth, The Art of Computer Programming, vol. 2, 4.2.2, Theorem B (two-sum).
    """

    value: Array
    lost: Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: Any) -> Total:
        """An empty sum."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def add(self, new: Array) -> Total:
        """The sum with `new` in it."""
        value = self.value + new
        taken = value - self.value
        lost = (self.value - (value - taken)) + (new - taken)
        return Total(value, self.lost + lost)

    def exact(self) -> np.ndarray:
        """The sum in float64."""
        return np.asarray(self.value, np.float64) + np.asarray(self.lost, np.float64)


class Moments(eqx.Module):
    r"""Second moments of features z and targets y: $\sum zz^T$, $\sum zy^T$, $\sum yy^T$ and the number of examples.

    Attributes:
        gram: (features, features).
        cross: (features, targets).
        targets: (targets, targets).
        count: integer.
    """

    gram: Total
    cross: Total
    targets: Total
    count: Array

    @classmethod
    def zeros(cls, num_features: int, num_targets: int, dtype: Any) -> Moments:
        """Of no examples."""
        return cls(
            Total.zeros((num_features, num_features), dtype),
            Total.zeros((num_features, num_targets), dtype),
            Total.zeros((num_targets, num_targets), dtype),
            jnp.zeros((), jnp.int32),
        )

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return self.gram.value.shape[0]

    @property
    def dtype(self) -> Any:
        """Floats of the sums."""
        return self.gram.value.dtype

    def with_batch(self, z: Float[Array, "n d"], y: Float[Array, "n k"], count: Array) -> Moments:
        """Moments with a batch in them; rows of zeros are padding and change nothing."""
        return Moments(self.gram.add(z.T @ z), self.cross.add(z.T @ y), self.targets.add(y.T @ y), self.count + count)


@jax.jit
def absorb(moments: Any, z: Array, y: Array, count: Array) -> Any:
    """`moments.with_batch`, one compiled program for each shape of batch; integer y are labels, -1 is padding."""
    if jnp.issubdtype(y.dtype, jnp.integer):
        y = jax.nn.one_hot(y, moments.cross.value.shape[1], dtype=z.dtype)
    return moments.with_batch(z, y, count)


def absorbed(moments: Any, z: np.ndarray, y: np.ndarray, batch: int) -> tuple[Any, int]:
    """All examples in batches; also the number of batches."""
    steps = 0
    for (piece, target), count in padded_batches((z.astype(moments.dtype, copy=False), y), batch):
        moments = absorb(moments, jnp.asarray(piece), jnp.asarray(target), jnp.asarray(count, jnp.int32))
        steps += 1
    return moments, steps


def padded_batches(arrays: tuple[np.ndarray, ...], batch: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Batches of the same few sizes: `batch`, or a power of two below; floats are padded by 0, integers by -1."""
    total = len(arrays[0])
    for i in range(0, total, batch):
        count = min(batch, total - i)
        size = min(batch, 1 << (count - 1).bit_length())
        pieces = []
        for array in arrays:
            piece = array[i : i + count]
            filler = -1 if piece.dtype.kind in "iu" else 0
            if size > count:
                piece = np.concatenate([piece, np.full((size - count, *piece.shape[1:]), filler, piece.dtype)])
            pieces.append(piece)
        yield pieces, count


def in_batches(function: Callable[[np.ndarray], Array], inputs: np.ndarray, batch: int) -> np.ndarray:
    """A compiled function of rows, applied in padded batches."""
    return np.concatenate([np.asarray(function(p))[:n] for (p,), n in padded_batches((inputs,), batch)])
