"""Batches on a CPU, in blocks that stay in the nearest cache for the whole series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

#: Bytes of one number of all entries of a block: a step holds some dozens of such arrays, a first cache 32 KiB or more.
_BLOCK = 512
#: Entries of a block are a multiple of this many, which vector registers hold without a rest.
_LANES = 16


def over_blocks(function: Callable[..., Any], size: int, arrays: tuple[Any, ...], own_axes: tuple[int, ...]) -> Any:
    """`function(*arrays)`, whose results are arrays (size,) of independent entries, one block of entries at a time.

    Args:
        function: of arrays with any number of entries.
        size: number of entries.
        arrays: trees; a last axis of that size, beyond an array's own axes, holds the entries.
        own_axes: number of them, for each tree.
    """
    count = -(-size * jax.tree.leaves(arrays)[0].dtype.itemsize // _BLOCK)
    if count == 1:
        return function(*arrays)
    width = -(-size // (count * _LANES)) * _LANES

    def block(index: jax.Array) -> Any:
        def entries(x: Any, axes: int) -> Any:
            is_shared = jnp.ndim(x) == axes or jnp.shape(x)[-1] != size
            # A slice that would go beyond the end begins earlier instead: the last block is a full one, too.
            return x if is_shared else jax.lax.dynamic_slice_in_dim(x, index * width, width, axis=-1)

        pairs = zip(arrays, own_axes, strict=True)
        return function(*(jax.tree.map(lambda x, axes=axes: entries(x, axes), tree) for tree, axes in pairs))

    def joined(blocks: jax.Array) -> jax.Array:
        return jnp.concatenate([blocks[:-1].reshape(-1), blocks[-1, count * width - size :]])

    return jax.tree.map(joined, jax.lax.map(block, jnp.arange(count)))
