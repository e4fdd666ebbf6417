"""Learning of layered HGF networks: weights from errors and precisions, beliefs by their mean change."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probinf.errors import ArgumentError
from probinf.predictive_coding.couplings import apply
from probinf.predictive_coding.deep.clamping import Clamp
from probinf.predictive_coding.deep.layered_hgf import LayerBelief, LayeredHGF, LayerPosterior, sweeps
from probinf.predictive_coding.deep.learning import AbstractRule, updated
from probinf.predictive_coding.deep.network import AbstractNetwork
from probinf.predictive_coding.prediction import PROBABILITY_CLIP


class ClosedFormLearning(AbstractRule):
    """Learning of a `LayeredHGF`: weights from the errors after the two sweeps, beliefs by their mean change.

    Args:
        precision_weighted: errors times posterior precisions, which for small errors is backpropagation; otherwise the
            errors alone.
    """

    precision_weighted: bool = eqx.field(static=True, default=True)

    def check(self, network: AbstractNetwork, data: Clamp) -> None:
        if not isinstance(network, LayeredHGF):
            raise ArgumentError(f"ClosedFormLearning: it trains a LayeredHGF, found {type(network).__name__}.")
        if data.inputs is None:
            raise ArgumentError("ClosedFormLearning: it needs inputs.")

    def step(
        self, network: Any, state: Any, optimiser: optax.GradientTransformation, clamp: Clamp
    ) -> tuple[Any, Any, Float[Array, ""]]:
        gradient, beliefs, energy = self.gradient(network, clamp)
        network, state = updated(network, state, optimiser, gradient)
        return eqx.tree_at(lambda n: n.beliefs, network, beliefs), state, energy

    def gradient(self, network: LayeredHGF, clamp: Clamp) -> tuple[Any, tuple[LayerBelief, ...], Float[Array, ""]]:
        """Gradient of weights and biases, beliefs after the batch, and the mean surprise of the outputs."""
        assert clamp.inputs is not None
        found = jax.vmap(lambda x, y: sweeps(network, x, y))(clamp.inputs, clamp.outputs)
        above, weights, biases = clamp.inputs, [], []
        for i, layer in enumerate(found):
            error = layer.precision * layer.value_error if self.precision_weighted else layer.value_error
            activity = above if i == 0 else apply(network.coupling, above)
            weights.append(-(error.T @ activity) / len(error))
            biases.append(None if network.biases[i] is None else -jnp.mean(error, axis=0))
            above = layer.mean
        leaf = found[-1]
        surprise = jnp.mean(jax.vmap(lambda layer: _surprise(network, layer))(leaf))
        beliefs = tuple(jax.tree.map(lambda b: jnp.mean(b, axis=0), layer.belief) for layer in found[:-1])
        parameters = eqx.filter(network, network.trained_spec())
        gradient = eqx.tree_at(lambda n: (n.weights, n.biases), parameters, (tuple(weights), tuple(biases)))
        return gradient, beliefs, surprise


def _surprise(network: LayeredHGF, leaf: LayerPosterior) -> Array:
    """Negative log likelihood of one example's outputs under the sweep down, nats."""
    y, expected = leaf.mean, leaf.expected_mean
    if network.leaf == "continuous":
        p = leaf.expected_precision
        return 0.5 * jnp.sum(p * (y - expected) ** 2 - jnp.log(p) + jnp.log(2.0 * jnp.pi))
    if network.leaf == "binary":
        return -jnp.sum(y * jnp.log(expected) + (1.0 - y) * jnp.log1p(-expected))
    return -jnp.sum(y * jnp.log(jnp.clip(expected, PROBABILITY_CLIP)))
