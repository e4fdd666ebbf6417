"""Networks of layers: each predicts the activity of the next, and an energy says what a deviation costs."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.predictive_coding.deep.checks import as_rows
from probinf.predictive_coding.deep.energy import AbstractEnergy, Gaussian, as_energy
from probinf.predictive_coding.deep.layers import Dense, FlaxLayer, activation_named, as_layer
from probinf.random import as_key

Network = TypeVar("Network", bound="AbstractNetwork")


class AbstractNetwork(eqx.Module):
    """What can be trained: layers from inputs to outputs.

    Attributes:
        shapes: of one example's activity in each layer, the inputs first.
    """

    shapes: eqx.AbstractVar[tuple[tuple[int, ...], ...]]

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Of the activities."""

    @abc.abstractmethod
    def trained_spec(self) -> Any:
        """A tree of booleans like the network: which arrays are trained."""

    @abc.abstractmethod
    def __call__(self, inputs: Any) -> Float[Array, "examples ..."]:
        """Expected outputs (examples, ...) given inputs (examples, *shapes[0])."""


class DeepNetwork(AbstractNetwork):
    r"""Layers $u_\ell = f_\ell(z_{\ell-1})$ with energies $E_\ell(z_\ell, u_\ell)$, $\ell = 1, \dots, L$.

    With input and output clamped it is a discriminative network; with the output alone clamped, a generative model
    whose causes $z_0$ have the prior `prior` around 0.

    Args:
        layers: functions of one example's activity: Equinox layers, Flax NNX modules, `Dense`, any callable. Arrays in
            them are trained.
        input_shape: shape of z_0 for one example; an integer n means (n,).
        output_energy: of the last layer; `Gaussian()` by default.
        energies: of all layers, in place of `output_energy`; unit-precision `Gaussian()` by default.
        prior: energy of z_0 where it is free, its prediction being 0.

    Raises:
        ArgumentError: no layers, an impossible shape, a layer that does not accept what the one above gives, or as many
            energies as there are not layers.
        ArgumentTypeError: a layer or an energy is not callable.

    Example:
        >>> key_1, key_2 = jax.random.split(jax.random.key(0))
        >>> layers = [eqx.nn.Linear(4, 8, key=key_1), jnp.tanh, eqx.nn.Linear(8, 3, key=key_2)]
        >>> DeepNetwork([lambda z: jnp.tanh(layers[0](z)), layers[2]], 4).shapes
        ((4,), (8,), (3,))
    """

    layers: tuple[Callable[[Any], Any], ...]
    energies: tuple[AbstractEnergy, ...]
    prior: AbstractEnergy
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        layers: Sequence[Any],
        input_shape: int | Sequence[int],
        *,
        output_energy: Any = None,
        energies: Sequence[Any] | None = None,
        prior: Any = None,
    ) -> None:
        if not isinstance(layers, Sequence) or not layers:
            raise ArgumentError(f"layers: expected a sequence of at least one layer, found {layers!r}.")
        self.layers = tuple(as_layer(f"layers[{i}]", layer) for i, layer in enumerate(layers))
        if energies is not None and output_energy is not None:
            raise ArgumentError("energies: expected either `energies` or `output_energy`, found both.")
        if energies is None:
            energies = [*(Gaussian() for _ in layers[1:]), Gaussian() if output_energy is None else output_energy]
        if len(energies) != len(layers):
            raise ArgumentError(f"energies: expected one for each of {len(layers)} layers, found {len(energies)}.")
        self.energies = tuple(as_energy(f"energies[{i}]", energy) for i, energy in enumerate(energies))
        self.prior = as_energy("prior", Gaussian() if prior is None else prior)
        sizes = (input_shape,) if isinstance(input_shape, int | np.integer) else tuple(input_shape)
        first = tuple(positive_integer("input_shape", size) for size in sizes)
        self.shapes = _shapes(self.layers, self.energies, first, self.dtype)
        _require_scalar("prior", self.prior, jax.ShapeDtypeStruct(first, self.dtype))

    @property
    def dtype(self) -> Any:
        """Of the activities: that of the layers' arrays, or JAX's default where they have none."""
        kinds = [leaf.dtype for leaf in jax.tree.leaves(self.layers) if eqx.is_inexact_array(leaf)]
        return jnp.result_type(*kinds) if kinds else jnp.result_type(float)

    def trained_spec(self) -> Any:
        def spec(part: Any) -> Any:
            if isinstance(part, AbstractEnergy) and not part.learn:
                return False
            if isinstance(part, FlaxLayer):
                wanted = jax.tree.map(eqx.is_inexact_array, part)
                return eqx.tree_at(lambda layer: layer.rest, wanted, replace=False)
            return jax.tree.map(eqx.is_inexact_array, part)

        return jax.tree.map(spec, self, is_leaf=lambda part: isinstance(part, AbstractEnergy | FlaxLayer))

    def __call__(self, inputs: Any) -> Float[Array, "examples ..."]:
        """The forward pass: expected outputs (examples, ...) given inputs (examples, *input_shape).

        Raises:
            DataError: the inputs have another shape, or are not finite.
        """
        return _forward(self, as_rows("inputs", inputs, self.shapes[0], self.dtype))


def _shapes(
    layers: tuple[Any, ...], energies: tuple[AbstractEnergy, ...], first: tuple[int, ...], dtype: Any
) -> tuple[tuple[int, ...], ...]:
    """Shapes of all activities, layer by layer, so that a misfit names its layer."""
    here, shapes = jax.ShapeDtypeStruct(first, dtype), [first]
    for i, (layer, energy) in enumerate(zip(layers, energies, strict=True)):
        try:
            there = jax.eval_shape(layer, here)
        except (TypeError, ValueError) as error:
            above = "input_shape says" if i == 0 else f"layers[{i - 1}] gives"
            raise ArgumentError(
                f"layers[{i}]: cannot be applied to an activity of shape {here.shape}, which {above}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if not isinstance(there, jax.ShapeDtypeStruct):
            raise ArgumentError(f"layers[{i}]: expected an array for one example, found {type(there).__name__}.")
        _require_scalar(f"energies[{i}]", energy, there)
        here = there
        shapes.append(there.shape)
    return tuple(shapes)


def _require_scalar(argument: str, energy: AbstractEnergy, prediction: jax.ShapeDtypeStruct) -> None:
    try:
        cost = jax.eval_shape(lambda u: energy(energy.mean(u), u), prediction)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{argument}: cannot be applied to an activity of shape {prediction.shape}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(cost, jax.ShapeDtypeStruct) or cost.shape != ():
        raise ArgumentError(f"{argument}: expected a scalar for one example, found {getattr(cost, 'shape', cost)}.")


def forward(network: DeepNetwork, z: Array) -> tuple[Array, ...]:
    """Activities of all layers of one example, each where the one above expects it."""
    activities = [z]
    for layer, energy in zip(network.layers, network.energies, strict=True):
        activities.append(energy.mean(layer(activities[-1])))
    return tuple(activities)


@eqx.filter_jit
def _forward(network: DeepNetwork, inputs: Array) -> Array:
    return jax.vmap(lambda z: forward(network, z)[-1])(inputs)


def trainable(network: AbstractNetwork) -> tuple[Any, Any]:
    """The network's trained arrays, and all the rest: two halves for `equinox.combine`."""
    return eqx.partition(network, network.trained_spec())


def mlp(
    sizes: Sequence[int],
    *,
    key: Any,
    activation: str | Callable[[Any], Any] = "gelu",
    output_energy: Any = None,
    prior: Any = None,
) -> DeepNetwork:
    """Dense layers with the activation inside, the last one affine: z = phi(W z + b).

    Args:
        sizes: units of each layer, input first: (784, 128, 128, 128, 10).
        key: a seed or key.
        activation: of all but the last layer: `"gelu"`, `"identity"`, `"leaky_relu"`, `"relu"`, `"sigmoid"`, `"tanh"`
            or a function.
        output_energy: of the last layer.
        prior: of the first activity where it is free.

    Returns:
        Weights and biases uniform within 1/sqrt(inputs of the layer).
    """
    sizes = checked_sizes(sizes)
    phi, layers = activation_named(activation), []
    for i, one in enumerate(jax.random.split(as_key(key, argument="key"), len(sizes) - 1)):
        key_weight, key_bias = jax.random.split(one)
        bound = sizes[i] ** -0.5
        weight = jax.random.uniform(key_weight, (sizes[i + 1], sizes[i]), minval=-bound, maxval=bound)
        bias = jax.random.uniform(key_bias, (sizes[i + 1],), minval=-bound, maxval=bound)
        inner = i < len(sizes) - 2
        layers.append(Dense(weight, bias, phi if inner else activation_named("identity")))
    return DeepNetwork(layers, sizes[0], output_energy=output_energy, prior=prior)


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Numbers of units, two at least.

    Raises:
        ArgumentError: fewer than two, or one is below 1.
    """
    found = tuple(positive_integer("sizes", size) for size in sizes)
    if len(found) < 2:
        raise ArgumentError(f"sizes: expected input and output at least, found {found}.")
    return found
