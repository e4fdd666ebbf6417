"""Edges between nodes, and the functions through which a value parent acts on its child."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from probinf.errors import ArgumentTypeError, UnknownNameError

#: Coupling functions by name; any other function of a scalar array that JAX can differentiate twice serves as well.
FUNCTIONS: dict[str, Callable | None] = {
    "identity": None,
    "exp": jnp.exp,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "square": jnp.square,
    "tanh": jnp.tanh,
}

VALUE, VOLATILITY, COMPONENT = "value", "volatility", "component"


class Edge(eqx.Module):
    """One coupling of a parent to a child.

    Attributes:
        kind: `"value"`, `"volatility"`, or `"component"` (an input that receives one number of a composite input).
        parent, child: names of nodes.
        strength: alpha of a value coupling, kappa of a volatility coupling.
        function: g of a value coupling; None for the identity.
    """

    kind: str = eqx.field(static=True)
    parent: str = eqx.field(static=True)
    child: str = eqx.field(static=True)
    strength: Any = 1.0
    function: Callable | None = eqx.field(static=True, default=None)

    @property
    def name(self) -> str:
        """How the edge's strength is addressed: `"parent->child.kind"`."""
        return f"{self.parent}->{self.child}.{self.kind}"


def coupling_function(function: str | Callable | None) -> Callable | None:
    """The function g of a value coupling, from its name or as given; None stands for the identity."""
    if function is None or callable(function):
        return function
    if not isinstance(function, str):
        raise ArgumentTypeError(f"function: expected a name or a function, found {type(function).__name__}.")
    if function not in FUNCTIONS:
        raise UnknownNameError(function, FUNCTIONS, "coupling function", "value couplings")
    return FUNCTIONS[function]


def apply(function: Callable | None, x: Any) -> Any:
    """g(x)."""
    return x if function is None else function(x)


def slope(function: Callable | None, x: Any) -> Any:
    """g'(x), elementwise; the number 1 for the identity."""
    if function is None:
        return 1.0
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def curvature(function: Callable | None, x: Any) -> Any:
    """g''(x), elementwise; the number 0 for the identity."""
    if function is None:
        return 0.0
    return jax.jvp(lambda z: slope(function, z), (x,), (jnp.ones_like(x),))[1]
