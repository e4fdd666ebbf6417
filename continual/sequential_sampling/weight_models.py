"""Models whose parameters are one vector of weights with a Gaussian prior: what is sampled, task after task."""

from __future__ import annotations

import abc
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import checked_inputs, checked_labels, checked_targets, positive
from continual.learner import LABEL
from probinf.arguments import positive_integer
from probinf.errors import UnknownNameError
from probinf.representations.mixture import GaussianMixture


class AbstractWeightModel(eqx.Module):
    """Targets given inputs and a weight vector, independent given the weights. Fields are settings."""

    num_inputs: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def sensor(self) -> str:
        """Name under which targets arrive."""

    @property
    @abc.abstractmethod
    def num_weights(self) -> int:
        """Entries of the weight vector."""

    @property
    @abc.abstractmethod
    def scale(self) -> float:
        """Standard deviation of each weight under the prior of the first task."""

    @abc.abstractmethod
    def checked(self, inputs: Any, targets: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (examples, features) and targets (examples,), once all door checks are passed.

        Raises:
            DataError: no example, an impossible target, an input that is not finite, or another width.
        """

    @abc.abstractmethod
    def functions(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples outputs"]:
        """What the weights say at inputs, free of directions that change no prediction: for R-hat."""

    @abc.abstractmethod
    def predictive(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples outputs"]:
        """Expected targets (class probabilities for labels) given the weights."""

    @abc.abstractmethod
    def log_likelihood(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"], targets: Array
    ) -> Float[Array, ""]:
        """Sum over examples, nats."""

    def prior(self, dtype: Any) -> GaussianMixture:
        """The prior of the first task."""
        spread = self.scale * jnp.eye(self.num_weights, dtype=dtype)[None]
        return GaussianMixture(jnp.ones(1, dtype), jnp.zeros((1, self.num_weights), dtype), scale_tril=spread)

    def require_sensor(self, sensor: str) -> None:
        """There is one sensor.

        Raises:
            UnknownNameError: it is another.
        """
        if sensor != self.sensor:
            raise UnknownNameError(sensor, (self.sensor,), "sensor", type(self).__name__)


class SoftmaxNetwork(AbstractWeightModel):
    """Dense layers with ReLU and a softmax over all classes, seen or not; all weights and biases are random.

    The likelihood does not change when a class is first seen, or sequential and joint posteriors would differ.

    Args:
        num_inputs: features of an input.
        num_classes: classes there will ever be.
        hidden: widths of the hidden layers.
        prior_scale: standard deviation of the prior; the default is a variance of 0.1.

    Example:
        >>> SoftmaxNetwork(2, 2).num_weights
        162
    """

    num_inputs: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    hidden: tuple[int, ...] = eqx.field(static=True, default=(10, 10))
    prior_scale: float = eqx.field(static=True, default=0.1**0.5)

    def __check_init__(self) -> None:
        positive_integer("num_inputs", self.num_inputs)
        positive_integer("num_classes", self.num_classes)
        positive("prior_scale", self.prior_scale)
        for width in self.hidden:
            positive_integer("hidden", width)

    @property
    def sensor(self) -> str:
        return LABEL

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each layer."""
        return tuple(itertools.pairwise((self.num_inputs, *self.hidden, self.num_classes)))

    @property
    def num_weights(self) -> int:
        return sum((a + 1) * b for a, b in self.shapes)

    @property
    def scale(self) -> float:
        return self.prior_scale

    def checked(self, inputs: Any, targets: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
        x = checked_inputs(inputs, where, self.num_inputs)
        return x, checked_labels(targets, where, len(x), self.num_classes)

    def layers(self, weights: Float[Array | np.ndarray, "*batch weights"]) -> list[Any]:
        """Each layer as a matrix (*batch, inputs + 1, outputs); the last row is the bias."""
        ends = np.cumsum([0, *((a + 1) * b for a, b in self.shapes)])
        return [
            weights[..., start:end].reshape(*weights.shape[:-1], a + 1, b)
            for (a, b), start, end in zip(self.shapes, ends[:-1], ends[1:], strict=True)
        ]

    def logits(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples classes"]:
        """Log probabilities of the classes up to a constant in each row."""
        return self._columns(weights, inputs).T

    def _columns(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "classes examples"]:
        """Logits, an example a column: layers are narrow, and long rows are what processors are fast at."""
        *inner, last = self.layers(weights)
        columns = inputs.T
        for layer in inner:
            columns = jax.nn.relu(layer[:-1].T @ columns + layer[-1][:, None])
        return last[:-1].T @ columns + last[-1][:, None]

    def functions(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples classes"]:
        """Logits minus their mean over classes."""
        found = self.logits(weights, inputs)
        return found - jnp.mean(found, axis=1, keepdims=True)

    def predictive(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples classes"]:
        return jax.nn.softmax(self.logits(weights, inputs), axis=1)

    def log_likelihood(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"], targets: Array
    ) -> Float[Array, ""]:
        log_probabilities = jax.nn.log_softmax(self._columns(weights, inputs), axis=0)
        return jnp.sum(jnp.take_along_axis(log_probabilities, targets[None], axis=0))


class LinearGaussian(AbstractWeightModel):
    """Linear regression with known noise: the model whose posterior is known, to check samplers by.

    Args:
        num_inputs: features of an input; append a constant 1 for an intercept.
        noise: standard deviation of a target given the weights.
        prior_scale: standard deviation of the prior of each weight.
    """

    num_inputs: int = eqx.field(static=True)
    noise: float = eqx.field(static=True, default=1.0)
    prior_scale: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        positive_integer("num_inputs", self.num_inputs)
        positive("noise", self.noise)
        positive("prior_scale", self.prior_scale)

    @property
    def sensor(self) -> str:
        return "target"

    @property
    def num_weights(self) -> int:
        return self.num_inputs

    @property
    def scale(self) -> float:
        return self.prior_scale

    def checked(self, inputs: Any, targets: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
        x = checked_inputs(inputs, where, self.num_inputs)
        return x, checked_targets(targets, where, len(x), 1)[:, 0]

    def functions(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples 1"]:
        """The regression line."""
        return (inputs @ weights)[:, None]

    def predictive(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"]
    ) -> Float[Array, "examples 1"]:
        return (inputs @ weights)[:, None]

    def log_likelihood(
        self, weights: Float[Array, " weights"], inputs: Float[Array, "examples features"], targets: Array
    ) -> Float[Array, ""]:
        errors = (targets - inputs @ weights) / self.noise
        constant = float(np.log(2 * np.pi) / 2 + np.log(self.noise))
        return -0.5 * jnp.sum(errors**2) - len(targets) * constant
