"""Networks as functions of their parameters: what strategies need beyond outputs are squares of the Jacobian."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from probinf.arguments import positive_integer
from probinf.errors import ArgumentTypeError

Parameters = PyTree[Array]
Layers = list[tuple[Array, Array]]  # weights (inputs, outputs) and biases of each layer
Outputs = Float[Array, "n outputs"]
Cotangents = Float[Array, "directions n outputs"]  # directions in the space of outputs, some for each example


class AbstractNetwork(eqx.Module):
    """Settings of a network. Parameters are data that come from `initial`; calling it computes outputs.

    The methods with a body hold for any network, at the price of a Jacobian for each example.
    """

    @abc.abstractmethod
    def initial(self, key: Array, width: int, outputs: int, dtype: Any) -> Parameters:
        """Parameters for rows of `width` numbers."""

    @abc.abstractmethod
    def __call__(self, parameters: Parameters, x: Float[Array, "n width"]) -> Outputs:
        """Outputs of some rows."""

    def sampled(self, key: Array, mean: Parameters, std: Parameters, x: Float[Array, "n width"]) -> Outputs:
        """Outputs with parameters drawn from independent Gaussians, one draw for all rows."""
        leaves, structure = jax.tree.flatten(mean)
        keys = jax.random.split(key, len(leaves))
        noise = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
        drawn = jax.tree.map(lambda m, s, e: m + s * e, mean, std, jax.tree.unflatten(structure, noise))
        return self(drawn, x)

    def output_variance(self, parameters: Parameters, variance: Parameters, x: Float[Array, "n width"]) -> Outputs:
        r"""Diagonal of $J \Sigma J^T$ for each row: variance of outputs whose parameters vary independently."""

        def of_row(row: Array) -> Array:
            jacobian = jax.jacrev(lambda p: self(p, row[None])[0])(parameters)
            terms = jax.tree.map(lambda j, s: jnp.sum(j**2 * s[None], axis=tuple(range(1, j.ndim))), jacobian, variance)
            return sum(jax.tree.leaves(terms))  # pyright: ignore[reportReturnType]

        return jax.vmap(of_row)(x)

    def squared_gradients(
        self, parameters: Parameters, x: Float[Array, "n width"], cotangents: Cotangents
    ) -> Parameters:
        r"""Sum over rows and directions c of the squares of $J^T c$: the diagonal of a Gauss-Newton matrix."""

        def of_row(row: Array, directions: Array) -> Parameters:
            _, pull = jax.vjp(lambda p: self(p, row[None])[0], parameters)
            return jax.vmap(pull)(directions)[0]

        gradients = jax.vmap(of_row, in_axes=(0, 1))(x, cotangents)
        return jax.tree.map(lambda g: jnp.sum(g**2, axis=(0, 1)), gradients)


class Tap(NamedTuple):
    """One dense layer in the middle of its work: the gradient of an output direction is the product of the two.

    Attributes:
        inputs: with a 1 for the bias appended, (n, inputs + 1).
        gradients: of each direction by the layer's sums, (directions, n, outputs).
    """

    inputs: Array
    gradients: Array


class Dense(AbstractNetwork):
    """Dense layers with ReLU between them.

    Args:
        hidden: widths of the hidden layers; () is a linear map.
    """

    hidden: tuple[int, ...] = eqx.field(static=True, default=(256,))

    def __check_init__(self) -> None:
        if not isinstance(self.hidden, tuple):
            raise ArgumentTypeError(f"hidden: expected a tuple of widths, such as (256,), found {self.hidden!r}.")
        for width in self.hidden:
            positive_integer("hidden", width)

    def initial(self, key: Array, width: int, outputs: int, dtype: Any) -> Layers:
        """Weights by He's rule, zero biases."""
        widths = (width, *self.hidden, outputs)
        layers = []
        for one, a, b in zip(jax.random.split(key, len(widths) - 1), widths, widths[1:], strict=False):
            scale = jnp.asarray(np.sqrt(2 / a), dtype)
            layers.append((scale * jax.random.normal(one, (a, b), dtype), jnp.zeros(b, dtype)))
        return layers

    def __call__(self, parameters: Layers, x: Float[Array, "n width"]) -> Outputs:
        return self._forward(parameters, x)[1]

    def sampled(self, key: Array, mean: Layers, std: Layers, x: Float[Array, "n width"]) -> Outputs:
        """As above, but with a draw for each row, of the layers' sums instead of the weights: less noise, less work.

        References:
            Kingma, Salimans & Welling (2015), Variational dropout and the local reparameterization trick.
        """
        keys = jax.random.split(key, len(mean))
        for i, ((weights, biases), (weight_std, bias_std)) in enumerate(zip(mean, std, strict=True)):
            x = jax.nn.relu(x) if i else x
            variance = x**2 @ weight_std**2 + bias_std[None] ** 2
            noise = jax.random.normal(keys[i], variance.shape, variance.dtype)
            x = x @ weights + biases[None] + jnp.sqrt(variance) * noise
        return x

    def output_variance(self, parameters: Layers, variance: Layers, x: Float[Array, "n width"]) -> Outputs:
        taps = self.taps(parameters, x, unit_directions(len(x), parameters[-1][1]))
        return sum_of_variances(taps, [joined(layer) for layer in variance])

    def squared_gradients(self, parameters: Layers, x: Float[Array, "n width"], cotangents: Cotangents) -> Layers:
        found = []
        for tap in self.taps(parameters, x, cotangents):
            squares = (tap.inputs**2).T @ jnp.sum(tap.gradients**2, axis=0)
            found.append((squares[:-1], squares[-1]))
        return found

    def taps(self, parameters: Layers, x: Float[Array, "n width"], cotangents: Cotangents) -> list[Tap]:
        """Inputs and gradients of each layer, first to last."""
        inputs, _ = self._forward(parameters, x)
        gradients, found = cotangents, []
        for i in reversed(range(len(parameters))):
            ones = jnp.ones((len(x), 1), x.dtype)
            found.append(Tap(jnp.concatenate([inputs[i], ones], axis=1), gradients))
            if i:
                gradients = (gradients @ parameters[i][0].T) * (inputs[i] > 0).astype(x.dtype)[None]
        return found[::-1]

    def _forward(self, parameters: Layers, x: Array) -> tuple[list[Array], Array]:
        """Inputs of each layer, and the outputs of the last."""
        inputs = []
        for i, (weights, biases) in enumerate(parameters):
            x = jax.nn.relu(x) if i else x
            inputs.append(x)
            x = x @ weights + biases[None]
        return inputs, x


def joined(layer: tuple[Array, Array]) -> Float[Array, "inputs outputs"]:
    """Weights with the biases as a last row."""
    return jnp.concatenate([layer[0], layer[1][None]])


def unit_directions(num_rows: int, like: Array) -> Cotangents:
    """One direction for each output, the same for all rows; `like` has the outputs' number and type."""
    units = jnp.eye(like.shape[0], dtype=like.dtype)[:, None]
    return jnp.broadcast_to(units, (len(like), num_rows, len(like)))


def sum_of_variances(taps: list[Tap], variances: list[Array]) -> Outputs:
    """Variance along each direction, for independent weights of the variances given, biases last."""
    terms = [
        jnp.einsum("nj,cnj->nc", tap.inputs**2 @ variance, tap.gradients**2)
        for tap, variance in zip(taps, variances, strict=True)
    ]
    return sum(terms)  # pyright: ignore[reportReturnType]
