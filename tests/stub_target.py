"""A target written by hand: what `Program.unconstrained()` returns, without the language."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class StubTarget:
    """Densities by site on unconstrained space, and maps from it.

    Attributes:
        terms: function of (operands, position) giving name -> scalar log density, log Jacobians included.
        forward: site -> map to the constrained value; identity where absent.
        backward: site -> the inverse map.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    terms: Callable[[Any, dict], dict]
    operands: Any = ()
    forward: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    backward: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    coords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    discrete_sites: tuple[str, ...] = ()

    def unconstrained(self) -> StubTarget:
        return self

    @property
    def signature(self) -> Any:
        return (self.name, self.terms)

    @property
    def position_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        dtype = jnp.zeros(()).dtype
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in self.shapes.items()}

    def logdensity(self, operands: Any, position: dict) -> jax.Array:
        return sum(self.terms(operands, position).values())

    def site_logdensities(self, operands: Any, position: dict) -> dict:
        return self.terms(operands, position)

    def constrain(self, operands: Any, position: dict) -> dict:
        del operands
        return {name: self.forward.get(name, lambda v: v)(value) for name, value in position.items()}

    def unconstrain(self, operands: Any, values: dict) -> dict:
        del operands
        return {name: self.backward.get(name, lambda v: v)(value) for name, value in values.items()}

    def prior_position(self, operands: Any, key: jax.Array) -> dict:
        del operands
        keys = jax.random.split(key, len(self.shapes))
        return {n: 0.1 * jax.random.normal(k, s) for k, (n, s) in zip(keys, self.shapes.items(), strict=True)}
