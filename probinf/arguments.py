"""Door checks of settings that several components share."""

from __future__ import annotations

from typing import Any

import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError


def positive_integer(argument: str, value: Any) -> int:
    """A setting that counts something, at least 1.

    Raises:
        ArgumentTypeError: not an integer.
        ArgumentError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{argument}: expected an integer, found {value!r}.")
    if value < 1:
        raise ArgumentError(f"{argument}: expected an integer of at least 1, found {value}.")
    return int(value)
