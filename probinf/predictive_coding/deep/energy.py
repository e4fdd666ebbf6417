"""Energies of a layer: negative log density of its activity given its prediction, constants left out."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import ArgumentTypeError


class AbstractEnergy(eqx.Module):
    """What it costs, in nats, that the activity of one example differs from its prediction.

    Attributes:
        learn: whether numbers of the energy (a log precision) are trained along with the layers.
    """

    learn: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        """The energy of one example."""

    def mean(self, prediction: Array) -> Array:
        """The activity that is expected given the prediction: what a forward pass puts there."""
        return prediction


class Gaussian(AbstractEnergy):
    r"""$\tfrac12 e^\top \Pi e - \tfrac12 \log|\Pi|$ with $e = z - u$ and diagonal precision $\Pi$.

    Args:
        log_precision: one number, or one for each unit (an array that broadcasts against the layer).
        learn: train the log precision too.

    Example:
        >>> float(Gaussian()(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
        2.5
    """

    log_precision: Array
    learn: bool = eqx.field(static=True)

    def __init__(self, log_precision: Any = 0.0, *, learn: bool = False) -> None:
        self.log_precision = jnp.asarray(log_precision, jnp.result_type(float))
        self.learn = learn

    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        log_precision = self.log_precision.astype(prediction.dtype)
        shared = prediction.size // log_precision.size  # units that share one number
        # Exponentials before broadcasting: one, not one for every unit.
        precision = jnp.broadcast_to(jnp.exp(log_precision), prediction.shape)
        return 0.5 * (jnp.sum(precision * (activity - prediction) ** 2) - shared * jnp.sum(log_precision))


class CrossEntropy(AbstractEnergy):
    """-sum z log softmax(u): the activity is a distribution over classes, the prediction its logits."""

    learn: bool = eqx.field(static=True, default=False)

    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        return -jnp.sum(activity * jax.nn.log_softmax(prediction))

    def mean(self, prediction: Array) -> Array:
        return jax.nn.softmax(prediction)


class Bernoulli(AbstractEnergy):
    """Negative log likelihood of values in [0, 1] whose logits are the prediction."""

    learn: bool = eqx.field(static=True, default=False)

    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        return jnp.sum(jax.nn.softplus(prediction) - activity * prediction)

    def mean(self, prediction: Array) -> Array:
        return jax.nn.sigmoid(prediction)


class NoEnergy(AbstractEnergy):
    """0: a layer that nothing holds to its prediction."""

    learn: bool = eqx.field(static=True, default=False)

    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        return jnp.zeros((), prediction.dtype)


class FunctionEnergy(AbstractEnergy):
    """Any negative log density of an activity given its prediction.

    Args:
        function: (activity, prediction) of one example to a scalar; its arrays, if it has any, are trained.
    """

    function: Callable[[Any, Any], Any]
    learn: bool = eqx.field(static=True)

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function, self.learn = function, True

    def __call__(self, activity: Array, prediction: Array) -> Float[Array, ""]:
        return self.function(activity, prediction)


def as_energy(argument: str, value: Any) -> AbstractEnergy:
    """An energy as it is, another callable as a `FunctionEnergy`.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if isinstance(value, AbstractEnergy):
        return value
    if isinstance(value, type) or not callable(value):
        raise ArgumentTypeError(f"{argument}: expected an energy such as deep.Gaussian(), found {value!r}.")
    return FunctionEnergy(value)
