"""Turn what users hand in as columns into float arrays, or say what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from probinf.errors import ArgumentTypeError, DataError


def as_floats(name: str, value: Any) -> np.ndarray:
    """A float64 array; `ArgumentTypeError` for strings, objects, ragged lists, complex numbers and dates."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ArgumentTypeError(f"{name}: rows have different lengths ({error}).") from error
    if array.dtype == object and array.size:
        try:  # a column of Python numbers, as some frames hold
            if any(isinstance(item, str | bytes) for item in array.reshape(-1)):
                raise ValueError
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise ArgumentTypeError(f"{name}: expected real numbers, found dtype object.") from None
    if array.dtype.kind not in "fiub":
        raise ArgumentTypeError(f"{name}: expected real numbers, found dtype {array.dtype}.")
    return array.astype(np.float64)


def check_finite(name: str, array: np.ndarray, *, allow_nan: bool = False) -> None:
    """`DataError` naming the first bad index and how many there are."""
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if np.any(bad):
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = index[0] if len(index) == 1 else index
        at = f", the first at index {where}" if index else ""
        raise DataError(
            f"{name}: {int(bad.sum())} of {array.size} values are not finite{at} ({array[index]}); "
            + ("infinite values are never accepted as missing." if allow_nan else "expected finite numbers.")
        )
