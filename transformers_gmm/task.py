"""What a network is trained for: a source of simulated problems and a loss."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Examples
from transformers_gmm.network import ResidualTransformer


class AbstractTask(eqx.Module):
    """A source of problems. Fields are settings; methods are pure and run inside compiled code.

    Attributes:
        name: of the task, and of the file with its trained weights.
        config: sizes of its network.
        training: how the network is trained.
    """

    name: eqx.AbstractVar[str]
    config: eqx.AbstractVar[NetworkConfig]
    training: eqx.AbstractVar[TrainingConfig]

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """An untrained network of this task's sizes."""
        return ResidualTransformer(self.config, rngs=rngs)

    @abc.abstractmethod
    def simulate(self, key: jax.Array, n: int) -> Any:
        """`n` fresh problems: prior, latents and data."""

    @property
    def updates(self) -> int:
        """Optimiser steps made with one simulated batch."""
        return 1

    def pieces(self, network: Any, examples: Any) -> Any:
        """The data of these optimiser steps along a leading axis; `network` is the one in training."""
        return jax.tree.map(lambda x: x[None], examples)

    def loss(self, network: Any, piece: Any) -> Float[Array, ""]:
        """Mean loss of one piece."""
        return negative_log_score(network(piece.problem), piece)


def negative_log_score(answer: Components, examples: Examples) -> Float[Array, ""]:
    """The mean of -log q at posterior points: the expected KL(posterior || q), up to a constant of the task.

    References:
        Whittle et al. (2026), Distribution Transformers, proposition 3.1.
    """
    each = jnp.sum(jnp.exp(examples.log_weights) * answer.log_prob(examples.points), axis=-1)
    return -jnp.mean(each)
