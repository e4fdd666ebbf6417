"""Layers: functions of the activity above that predict the activity below, for one example."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import ArgumentTypeError, UnknownNameError

#: Activations by name; any function of an array serves as well.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
    "leaky_relu": jax.nn.leaky_relu,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


class Dense(eqx.Module):
    r"""$a\,\phi(W z + b)$, or $a\,W\phi(z) + b$ with the activation first; with `skip`, z is added.

    Args:
        weight: (out, in).
        bias: (out,), or None.
        activation: phi.
        activate_first: phi before the weights.
        scale: a, a constant.
        skip: add z; needs out = in.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None = None
    activation: Callable[[Any], Any] = eqx.field(static=True, default=ACTIVATIONS["identity"])
    activate_first: bool = eqx.field(static=True, default=False)
    scale: float = eqx.field(static=True, default=1.0)
    skip: bool = eqx.field(static=True, default=False)

    def __call__(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        # In this order a batch of examples gives rows at once, without a transposition.
        u = (self.activation(z) if self.activate_first else z) @ self.weight.T
        if self.activate_first:
            u = self.scale * u if self.bias is None else self.scale * u + self.bias
        else:
            u = self.scale * self.activation(u if self.bias is None else u + self.bias)
        return z + u if self.skip else u


class Residual(eqx.Module):
    """z + layer(z): a skip around any layer that keeps the shape."""

    layer: Callable[[Any], Any]

    def __call__(self, z: Array) -> Array:
        return z + self.layer(z)


class FlaxLayer(eqx.Module):
    """A Flax NNX module as a layer: its parameters are trained, whatever else it holds stays as it is.

    It must be a function of its parameters and the activity alone: no batch statistics that it updates, no dropout.

    Args:
        module: of Flax NNX.
    """

    definition: Any = eqx.field(static=True)
    parameters: Any
    rest: Any

    def __init__(self, module: Any) -> None:
        from flax import nnx

        self.definition, self.parameters, self.rest = nnx.split(module, nnx.Param, ...)

    @property
    def module(self) -> Any:
        """The module with its present parameters."""
        from flax import nnx

        return nnx.merge(self.definition, self.parameters, self.rest)

    def __call__(self, z: Array) -> Array:
        return self.module(z)


def as_layer(argument: str, value: Any) -> Callable[[Any], Any]:
    """A callable as it is, a Flax NNX module wrapped.

    Raises:
        ArgumentTypeError: it is not callable, or a class instead of an instance.
    """
    if isinstance(value, type) or not callable(value):
        raise ArgumentTypeError(
            f"{argument}: expected a function of one example's activity, an Equinox layer or a Flax NNX module, "
            f"found {value!r}."
        )
    nnx = sys.modules.get("flax.nnx")  # whoever hands over a Flax module has imported Flax
    return FlaxLayer(value) if nnx is not None and isinstance(value, nnx.Module) else value


def activation_named(value: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An activation by its name, or as it is.

    Raises:
        UnknownNameError: no activation has this name.
        ArgumentTypeError: it is neither a name nor callable.
    """
    if isinstance(value, str):
        if value not in ACTIVATIONS:
            raise UnknownNameError(value, ACTIVATIONS, "activation", "deep")
        return ACTIVATIONS[value]
    if not callable(value):
        raise ArgumentTypeError(f"activation: expected a name or a function of an array, found {value!r}.")
    return value
