"""Pytrees of arrays and keys as plain arrays with names, for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def packed(tree: Any, name: str) -> dict[str, np.ndarray]:
    """The leaves of a tree under numbered names; typed keys as their data, beside the name of their generator."""
    found = {}
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        if _is_key(leaf):
            found[f"{name}_{i}"] = np.asarray(jax.random.key_data(leaf))
            found[f"{name}_{i}_generator"] = np.asarray(str(jax.random.key_impl(leaf)))
        else:
            found[f"{name}_{i}"] = np.asarray(leaf)
    return found


def unpacked(template: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """The reverse of `packed`: a tree of the structure of `template`, whose leaves may be shapes.

    Raises:
        KeyError: a leaf is missing.
    """
    leaves = []
    for i in range(len(jax.tree.leaves(template))):
        stored = jnp.asarray(arrays[f"{name}_{i}"])
        generator = arrays.get(f"{name}_{i}_generator")
        leaves.append(stored if generator is None else jax.random.wrap_key_data(stored, impl=str(generator)))
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def shapes(arrays: Mapping[str, np.ndarray], name: str) -> list[tuple[int, ...]]:
    """The shapes of the leaves stored under a name, in order."""
    found = []
    while f"{name}_{len(found)}" in arrays:
        found.append(arrays[f"{name}_{len(found)}"].shape)
    return found


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
