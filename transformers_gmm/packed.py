"""A network whose small weights are one array: a compiled call takes a microsecond for each array that it is given."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.examples import Problem

_LARGE = 2**14  # entries from which on to copy an array out of another costs more than to pass it


class PackedNetwork(eqx.Module):
    """Answers as the network it is made of; pass it to compiled functions as an argument.

    Args:
        network: a module whose weights are floats of one kind.
    """

    small: Float[Array, " n"]
    large: tuple[Array, ...]
    layout: _Layout = eqx.field(static=True)

    def __init__(self, network: nnx.Module) -> None:
        definition, state = nnx.split(network)
        leaves, structure = jax.tree.flatten(state)
        self.layout = _Layout(definition, structure, tuple(jnp.shape(leaf) for leaf in leaves))
        small = [jnp.ravel(leaf) for leaf in leaves if leaf.size < _LARGE]
        self.small = jnp.concatenate(small) if small else jnp.zeros(0)
        self.large = tuple(leaf for leaf in leaves if leaf.size >= _LARGE)

    def __call__(self, problem: Problem) -> Components:
        return self.layout.network(self.small, self.large)(problem)


def packed(network: Any) -> Any:
    """A network as an argument of what `eqx.filter_jit` compiles; other callables are what they are."""
    return PackedNetwork(network) if isinstance(network, nnx.Module) else network


class _Layout:
    """What a network is but for its weights. Compiled functions hash and compare it at every call: made cheap."""

    def __init__(self, definition: Any, structure: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._parts = (definition, structure, shapes)
        self._hash = hash(self._parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Layout) and self._parts == other._parts)

    def network(self, small: Array, large: tuple[Array, ...]) -> Any:
        definition, structure, shapes = self._parts
        leaves, start, rest = [], 0, iter(large)
        for shape in shapes:
            size = math.prod(shape)
            if size >= _LARGE:
                leaves.append(next(rest))
            else:
                leaves.append(small[start : start + size].reshape(shape))
                start += size
        return nnx.merge(definition, jax.tree.unflatten(structure, leaves))
