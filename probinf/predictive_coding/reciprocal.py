"""Reciprocals whose derivatives divide by nothing."""

from __future__ import annotations

from typing import Any

import jax


@jax.custom_jvp
def reciprocal(x: Any) -> Any:
    """1 / x. The ordinary rule for the derivative divides a second time, by x squared; this one squares the result.

    A filter step is a chain of divisions, and these are the dearest instructions of a gradient.
    """
    return 1.0 / x


@reciprocal.defjvp
def _jvp(primals: tuple, tangents: tuple) -> tuple:
    found = reciprocal(primals[0])
    return found, -(found**2) * tangents[0]
