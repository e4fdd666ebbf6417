"""Optax transformations on activities and weights."""

from __future__ import annotations

from typing import Any

import optax

from probinf.errors import ArgumentTypeError
from probinf.predictive_coding.deep.checks import positive_number


def as_optimiser(argument: str, value: Any) -> optax.GradientTransformation:
    """A step size as gradient descent, an Optax transformation as it is.

    Raises:
        ArgumentTypeError: it is neither.
        ArgumentError: a step size that is not positive.
    """
    if isinstance(value, optax.GradientTransformation):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{argument}: expected a step size or an Optax transformation, found {value!r}.")
    return optax.sgd(positive_number(argument, value))


def moved(optimiser: optax.GradientTransformation, values: Any, gradient: Any, state: Any) -> tuple[Any, Any]:
    """Values after one step of an optimiser, and its state."""
    updates, state = optimiser.update(gradient, state, values)
    return optax.apply_updates(values, updates), state
