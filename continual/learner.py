"""What every continual learner answers: the streaming protocol, with the index of a task or batch as time."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from continual.checks import checked_inputs
from continual.features import AbstractFeatures
from probinf.errors import ArgumentTypeError, DataError, InferenceError, UnknownNameError
from probinf.random import as_key

LABEL = "label"  # the one sensor of a learner


class UpdateInfo(NamedTuple):
    """What one update did.

    Attributes:
        num_examples: examples taken in by this update.
        num_steps: compiled pieces they were taken in by: batches, or steps of a gradient method.
        loss: mean training loss over the steps; NaN for learners without one.
    """

    num_examples: int
    num_steps: int
    loss: float = float("nan")


class AbstractPredictor(eqx.Module):
    """Inputs to class probabilities; made once from a belief, then used on any number of inputs."""

    @abc.abstractmethod
    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        """Probabilities of the classes, each row a distribution; classes never seen have probability 0."""


#: What a learner's `predictor` returns: an `AbstractPredictor`, or a plain function that does the same.
Predictor = Callable[[Any], np.ndarray]


class AbstractLearner(eqx.Module):
    """A learner of tasks that arrive one after the other.

    Fields are settings. A belief is data: `update` returns a new one and leaves the old as it was. `update` may be
    given a whole task or any part of it; where randomness is needed it rides in the belief.
    """

    @abc.abstractmethod
    def start(self, key: Any, t0: int = 0) -> Any:
        """The belief before any data. `key` is a seed or a key."""

    def predict(self, belief: Any, t: int, *, control: Any = None) -> Any:
        """The belief at task `t` before its data: what is learnt is taken to be constant, so it is the belief."""
        return belief

    @abc.abstractmethod
    def update(self, belief: Any, t: int, sensor: str, value: Any, *, inputs: Any = None) -> tuple[Any, UpdateInfo]:
        """Learn from the labels `value`, shape (examples,), of `inputs`, shape (examples, ...), of task `t`.

        Raises:
            DataError: no example, an unknown label, an input that is not finite, or a width that differs. The belief
                handed in is untouched.
        """

    @abc.abstractmethod
    def predictor(self, belief: Any) -> Predictor:
        """What the belief says of new inputs.

        Raises:
            InferenceError: nothing has been learnt yet.
        """

    def probabilities(self, belief: Any, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        """Class probabilities of inputs under the posterior predictive distribution."""
        return self.predictor(belief)(inputs)


def check_kind(argument: str, value: Any, kind: type, expected: str) -> None:
    """Refuse arguments in the wrong order, and a class in place of what it makes.

    Raises:
        ArgumentTypeError: it is not of that kind.
    """
    if not isinstance(value, kind):
        found = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise ArgumentTypeError(f"{argument}: expected {expected}, found {found}.")


def require_label(sensor: str) -> None:
    """Learners have one sensor.

    Raises:
        UnknownNameError: it is another.
    """
    if sensor != LABEL:
        raise UnknownNameError(sensor, (LABEL,), "sensor", "a continual learner")


def nothing_learnt() -> InferenceError:
    """The error of a predictor that is asked for before any data."""
    return InferenceError("predictor: nothing has been learnt yet. Call update first.")


class FeaturedBelief(eqx.Module):
    """Belief of a learner over its features; both are `None` in part until the first data come."""

    key: Array
    features: AbstractFeatures | None
    inner: Any
    shape: tuple[int, ...] = eqx.field(static=True, default=())


class FeaturedPredictor(AbstractPredictor):
    """Features first, then the predictor over them."""

    features: AbstractFeatures
    inner: Predictor

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        return self.inner(self.features(inputs))


class Featured(AbstractLearner):
    """A learner on fixed features of its inputs.

    The features are fitted to the inputs, never the labels, of the first update, and stay as they are: nothing of
    later tasks can leak into them.

    Args:
        features: how to make features, say `RandomPatches()`.
        learner: what learns from them.
    """

    features: AbstractFeatures
    learner: AbstractLearner

    def __check_init__(self) -> None:
        check_kind("features", self.features, AbstractFeatures, "features such as RandomPatches()")
        check_kind("learner", self.learner, AbstractLearner, "a learner such as BayesianLinearHead(10)")

    def start(self, key: Any, t0: int = 0) -> FeaturedBelief:
        key_features, key_learner = jax.random.split(as_key(key, argument="key"))
        return FeaturedBelief(key_features, None, self.learner.start(key_learner, t0))

    def update(
        self, belief: FeaturedBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[FeaturedBelief, UpdateInfo]:
        inputs = checked_inputs(inputs, f"task {t}")
        features, shape = belief.features, inputs.shape[1:]
        if features is None:
            features = self.features.fit(belief.key, inputs)
        elif shape != belief.shape:
            raise DataError(f"task {t}: inputs of shape {shape}, but the examples before had shape {belief.shape}.")
        inner, info = self.learner.update(belief.inner, t, sensor, value, inputs=features(inputs))
        return FeaturedBelief(belief.key, features, inner, shape), info

    def predictor(self, belief: FeaturedBelief) -> FeaturedPredictor:
        if belief.features is None:
            raise nothing_learnt()
        return FeaturedPredictor(belief.features, self.learner.predictor(belief.inner))
