"""Door checks of data and settings of deep networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probinf._jax import Tracer
from probinf.errors import ArgumentError, ArgumentTypeError, DataError


def as_rows(argument: str, value: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Examples (examples, *shape) of the given type.

    Raises:
        DataError: another shape, no examples, no numbers, or one that is not finite.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    expected = "(" + ", ".join(["examples", *map(str, shape)]) + ")"
    if array.ndim != len(shape) + 1 or tuple(array.shape[1:]) != shape or len(array) == 0:
        raise DataError(f"{argument}: expected shape {expected}, found {tuple(array.shape)}.")
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise DataError(f"{argument}: expected numbers, found {array.dtype}.")
    array = jnp.asarray(array, dtype)
    bad = jnp.sum(~jnp.isfinite(array))
    if not isinstance(bad, Tracer) and int(bad):  # inside somebody's compiled code the values are not known
        raise DataError(f"{argument}: expected finite numbers, found {int(bad)} that are NaN or infinite.")
    return array


def positive_number(argument: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        ArgumentTypeError: not a number.
        ArgumentError: not finite, or not above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ArgumentTypeError(f"{argument}: expected a number, found {value!r}.")
    if not 0.0 < float(value) < float("inf"):
        raise ArgumentError(f"{argument}: expected a finite number above 0, found {value}.")
    return float(value)
