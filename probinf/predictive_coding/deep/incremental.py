"""Incremental predictive coding: activities and weights move together."""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.predictive_coding.deep.clamping import Clamp, Free, energies
from probinf.predictive_coding.deep.learning import AbstractRule, require_deep
from probinf.predictive_coding.deep.network import AbstractNetwork, DeepNetwork, trainable
from probinf.predictive_coding.deep.optimisers import as_optimiser, moved
from probinf.predictive_coding.deep.relaxation import prepared


class Incremental(AbstractRule):
    """Each of `num_steps` steps on a batch moves the activities and the weights, from one backward pass.

    The weights' optimiser takes `num_steps` steps for every batch: schedules count those.

    Args:
        num_steps: T.
        optimiser: of the activities: a step size, or an Optax transformation.

    References:
        Salvatori et al. (2024), A stable, fast, and fully automatic learning algorithm for predictive coding networks,
        ICLR.
    """

    num_steps: int = eqx.field(static=True, default=8)
    optimiser: Any = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        positive_integer("num_steps", self.num_steps)
        as_optimiser("optimiser", self.optimiser)

    def check(self, network: AbstractNetwork, data: Clamp) -> None:
        require_deep(network, "Incremental")

    def step(
        self, network: Any, state: Any, optimiser: optax.GradientTransformation, clamp: Clamp
    ) -> tuple[Any, Any, Float[Array, ""]]:
        count = jax.tree.leaves(clamp)[0].shape[0]
        mover = as_optimiser("optimiser", self.optimiser)
        parameters, rest = trainable(network)

        def summed(parameters: DeepNetwork, free: Free) -> Array:
            return jnp.sum(energies(eqx.combine(parameters, rest), clamp, free))

        def one(carry: Any, _: None) -> tuple[Any, Array]:
            parameters, state, free, movement = carry
            energy, (for_weights, for_activities) = jax.value_and_grad(summed, argnums=(0, 1))(parameters, free)
            for_weights = jax.tree.map(lambda g: g / count, for_weights)
            parameters, state = moved(optimiser, parameters, for_weights, state)
            free, movement = moved(mover, free, for_activities, movement)
            return (parameters, state, free, movement), energy / count

        _, free = prepared(network, clamp)
        carry = (parameters, state, free, mover.init(cast(Any, free)))
        (parameters, state, _, _), trace = jax.lax.scan(one, carry, length=self.num_steps)
        return eqx.combine(parameters, rest), state, trace[-1]
