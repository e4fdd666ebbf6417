"""Centred nudging: learning from the difference of two weakly clamped equilibria."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probinf.errors import ArgumentError
from probinf.predictive_coding.deep.checks import positive_number
from probinf.predictive_coding.deep.clamping import Clamp
from probinf.predictive_coding.deep.learning import (
    AbstractRule,
    energy_gradient,
    require_deep,
    require_relaxation,
    updated,
)
from probinf.predictive_coding.deep.network import AbstractNetwork, DeepNetwork, forward
from probinf.predictive_coding.deep.relaxation import AbstractRelaxation, FixedSteps, prepared


class CentredNudging(AbstractRule):
    r"""Outputs are held at $\hat y \pm \beta (y - \hat y)$, $\hat y$ the forward pass, and the two gradients compared.

    The gradient is $(\nabla_\theta F_{+\beta} - \nabla_\theta F_{-\beta}) / 2\beta$: even orders of beta cancel. Needs
    clamped inputs.

    Args:
        strength: beta.
        relaxation: how activities are inferred.

    References:
        Pinchetti et al. (2025), Benchmarking predictive coding networks, ICLR, arXiv 2407.01163.
    """

    strength: float = eqx.field(static=True, default=0.1)
    relaxation: AbstractRelaxation = FixedSteps()

    def __check_init__(self) -> None:
        positive_number("strength", self.strength)
        require_relaxation(self.relaxation)

    def check(self, network: AbstractNetwork, data: Clamp) -> None:
        require_deep(network, "CentredNudging")
        self.relaxation.check(network)  # pyright: ignore[reportArgumentType]
        if data.inputs is None:
            raise ArgumentError("CentredNudging: it needs inputs; causes are learnt by AfterInference or Incremental.")

    def step(
        self, network: Any, state: Any, optimiser: optax.GradientTransformation, clamp: Clamp
    ) -> tuple[Any, Any, Float[Array, ""]]:
        energy, gradient = self.gradient(network, clamp)
        network, state = updated(network, state, optimiser, gradient)
        return network, state, energy

    def gradient(self, network: DeepNetwork, clamp: Clamp) -> tuple[Float[Array, ""], DeepNetwork]:
        """Energy, of the two batches on average and over beta squared, and the centred gradient."""
        assert clamp.inputs is not None
        assert clamp.outputs is not None
        expected = jax.vmap(lambda x: forward(network, x)[-1])(clamp.inputs)
        shift = self.strength * (clamp.outputs - expected)
        both = Clamp(
            jnp.concatenate([clamp.inputs, clamp.inputs]), jnp.concatenate([expected + shift, expected - shift])
        )
        fixed, free = prepared(network, both)
        free, _ = self.relaxation.run(network, fixed, free)  # the two batches side by side
        count = len(clamp.inputs)
        halves = []
        for part in (slice(0, count), slice(count, 2 * count)):
            here = Clamp(clamp.inputs, both.outputs[part])  # pyright: ignore[reportOptionalSubscript]
            halves.append(energy_gradient(network, here, jax.tree.map(lambda z, part=part: z[part], free)))
        (energy_up, up), (energy_down, down) = halves
        scale = 0.5 / self.strength
        gradient = jax.tree.map(lambda a, b: scale * (a - b), up, down)
        return (energy_up + energy_down) * (0.5 / self.strength**2), gradient
