"""Which activities are held fixed, the others' start, and their energy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, DataError
from probinf.predictive_coding.deep.checks import as_rows
from probinf.predictive_coding.deep.network import AbstractNetwork, DeepNetwork

#: Activities of the layers 0..L that may move; None where a layer is held as a whole.
Free = tuple[Array | None, ...]


class Clamp(NamedTuple):
    """What is held fixed, of one example or (with a leading axis) of many.

    Attributes:
        inputs: z_0, or None where it is free.
        outputs: z_L, or None where it is free.
        observed: which units of `outputs` are held, or None for all of them.
        first: the prediction of layer 1, which stays the same while inputs and weights do; None to compute it anew.
    """

    inputs: Array | None
    outputs: Array | None
    observed: Array | None = None
    first: Array | None = None


def clamped(network: AbstractNetwork, inputs: Any, outputs: Any, observed: Any = None) -> Clamp:
    """Checked data as a clamp.

    Raises:
        DataError: data of another shape, or not finite, or of different lengths.
        ArgumentError: nothing is clamped, or `observed` is given without outputs.
    """
    if inputs is None and outputs is None:
        raise ArgumentError("inputs, outputs: expected at least one of them, found None for both.")
    if observed is not None and outputs is None:
        raise ArgumentError("observed: it says which units of `outputs` are held, but there are no outputs.")
    if inputs is not None:
        inputs = as_rows("inputs", inputs, network.shapes[0], network.dtype)
    if observed is not None:
        observed = jnp.asarray(observed, bool)
        if observed.shape == network.shapes[-1]:
            observed = jnp.broadcast_to(observed[None], (len(outputs), *network.shapes[-1]))
        observed = as_rows("observed", observed, network.shapes[-1], bool)
        outputs = jnp.where(observed, jnp.asarray(outputs, network.dtype), jnp.zeros((), network.dtype))
    if outputs is not None:
        outputs = as_rows("outputs", outputs, network.shapes[-1], network.dtype)
    lengths = {
        n: len(v) for n, v in (("inputs", inputs), ("outputs", outputs), ("observed", observed)) if v is not None
    }
    if len(set(lengths.values())) > 1:
        raise DataError("expected as many of each, found " + ", ".join(f"{n} {v}" for n, v in lengths.items()) + ".")
    return Clamp(inputs, outputs, observed)


def with_first(network: DeepNetwork, clamp: Clamp) -> Clamp:
    """The clamp of one example with the first prediction, where that will not change."""
    return clamp if clamp.inputs is None else clamp._replace(first=network.layers[0](clamp.inputs))


def start(network: DeepNetwork, clamp: Clamp) -> Free:
    """Free activities of one example after a forward pass: all hidden errors are 0. Free inputs start at 0."""
    z: Array = jnp.zeros(network.shapes[0], network.dtype) if clamp.inputs is None else clamp.inputs
    free: list[Array | None] = [z if clamp.inputs is None else None]
    for i, (layer, energy) in enumerate(zip(network.layers, network.energies, strict=True)):
        prediction: Any = clamp.first if i == 0 and clamp.first is not None else layer(z)
        z = energy.mean(prediction)
        free.append(z)
    if clamp.outputs is not None:
        free[-1] = None if clamp.observed is None else jnp.where(clamp.observed, clamp.outputs, z)
    return tuple(free)


def activities(clamp: Clamp, free: Free) -> tuple[Array, ...]:
    """All activities of one example."""
    found: list[Any] = list(free)
    if found[0] is None:
        found[0] = clamp.inputs
    outputs: Any = clamp.outputs
    if found[-1] is None:
        found[-1] = outputs
    elif clamp.observed is not None:
        found[-1] = jnp.where(clamp.observed, outputs, found[-1])
    return tuple(found)


def layer_energies(network: DeepNetwork, clamp: Clamp, free: Free) -> Float[Array, " layers"]:
    """Energies of one example, of layer 0 (the prior, 0 where the inputs are clamped) to L, nats."""
    z = activities(clamp, free)
    zero = jnp.zeros((), network.dtype)
    found = [zero if clamp.inputs is not None else network.prior(z[0], jnp.zeros_like(z[0]))]
    for i, (layer, energy) in enumerate(zip(network.layers, network.energies, strict=True)):
        prediction = clamp.first if i == 0 and clamp.first is not None else layer(z[i])
        found.append(energy(z[i + 1], prediction))
    return jnp.stack(found)


def energies(network: DeepNetwork, clamp: Clamp, free: Free) -> Float[Array, " examples"]:
    """Energy of each example of a batch."""
    return jax.vmap(lambda c, f: jnp.sum(layer_energies(network, c, f)))(clamp, free)
