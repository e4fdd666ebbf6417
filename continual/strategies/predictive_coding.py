"""A deep predictive-coding network as a learner: trained task by task by local rules, nothing else held."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.learner import AbstractPredictor, nothing_learnt
from continual.moments import in_batches
from continual.strategies.architecture import Dense
from continual.strategies.network import rows_of
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.errors import ArgumentError
from probinf.predictive_coding import deep


class EnergyPredictor(AbstractPredictor):
    """The forward pass: expected class probabilities, over the classes seen."""

    network: Any
    seen: Array
    width: int = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        rows = rows_of(inputs, self.width).astype(self.network.dtype)
        found = in_batches(lambda piece: self.network(jnp.asarray(piece)), rows, 1000)
        seen = np.where(np.asarray(self.seen)[None], np.maximum(found, np.finfo(found.dtype).tiny), 0)
        return seen / seen.sum(axis=1, keepdims=True)


class PredictiveCoding(AbstractSequential):
    """A network whose layers predict each other, cross-entropy at the last; weights follow from local errors.

    It has nothing against forgetting but its rule, which settles the activities before any weight moves.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: widths, learning rate, epochs and batch; dense layers.
        rule: how a batch is learnt: a rule of `probinf.predictive_coding.deep`.

    Raises:
        ArgumentError: the network is not dense, or `rule` is no rule.

    References:
        Whittington & Bogacz (2017), Neural Computation 29:1229; Song et al. (2024), Inferring neural activity before
        plasticity as a foundation for learning beyond backpropagation, Nature Neuroscience 27:348.
    """

    rule: deep.AbstractRule = deep.AfterInference()

    def __check_init__(self) -> None:
        if not isinstance(self.training.architecture, Dense):
            raise ArgumentError("training: predictive coding needs dense layers; leave network=None.")
        if not isinstance(self.rule, deep.AbstractRule):
            raise ArgumentError(f"rule: expected one such as deep.AfterInference(), found {self.rule!r}.")

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Any, None]:
        return deep.trainable(self._network(key, width))[0], None

    def learnt(
        self, key: Array, parameters: Any, past: None, x: np.ndarray, y: np.ndarray
    ) -> tuple[Any, None, int, float]:
        settings = self.training
        training = deep.Training(self.rule, settings.learning_rate, min(settings.batch, len(x)), settings.epochs)
        network = self._with(parameters, x.shape[1])
        labels = deep.one_hot(y, self.num_classes)
        found = deep.train(network, training, inputs=x, outputs=labels, seed=key)
        return deep.trainable(found.network)[0], None, len(found.energies), float(found.energies.mean())

    def predictor(self, belief: SequentialBelief) -> EnergyPredictor:
        if not belief.width:
            raise nothing_learnt()
        return EnergyPredictor(self._with(belief.parameters, belief.width), belief.seen, belief.width)

    def _network(self, key: Array, width: int) -> deep.DeepNetwork:
        sizes = (width, *self.training.hidden, self.num_classes)
        return deep.mlp(sizes, key=key, activation="relu", output_energy=deep.CrossEntropy())

    def _with(self, parameters: Any, width: int) -> deep.DeepNetwork:
        """Functions and shapes follow from the settings; the arrays are the belief's."""
        rest = deep.trainable(self._network(jax.random.key(0), width))[1]
        return eqx.combine(parameters, rest)
