"""Run a system's functions on abstract values: shapes and kinds are known before anything is compiled."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpyro.distributions as dist

from probinf.errors import ModelError
from probinf.language.places import is_user_file


def positional_parameters(function: Callable) -> tuple[int, int]:
    """How many positional arguments a function needs, and how many it accepts (99 for `*args`)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins and some extension functions have no signature
        return 1, 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    required = sum(p.default is inspect.Parameter.empty for p in positional)
    starred = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return required, 99 if starred else len(positional)


def abstract_distribution(where: str, function: Callable, *arguments: Any) -> dist.Distribution:
    """The distribution that `function` returns, with abstract parameters: families and shapes can be read from it.

    Args:
        where: the words that name the function in messages, say "sensor 'range' of 'boat'".
        function: called once, on traced values.
        arguments: shapes and dtypes (`jax.ShapeDtypeStruct`), or `None`.

    Raises:
        ModelError: the function fails, returns something else, or returns a batch of distributions.
    """
    found = []

    def call(*xs: Any) -> int:
        found.append(function(*xs))
        return 0

    try:
        jax.eval_shape(call, *arguments)
    except Exception as error:
        shapes = ", ".join("None" if a is None else str(tuple(a.shape)) for a in arguments)
        lines = str(error).strip().splitlines() or [""]
        frames = reversed(traceback.extract_tb(error.__traceback__))
        at = next((f" ({os.path.basename(f.filename)}:{f.lineno})" for f in frames if is_user_file(f.filename)), "")
        raise ModelError(
            f"{where} failed in a dry run on arguments of shapes {shapes}{at}: {type(error).__name__}: {lines[0]}"
        ) from error
    distribution = found[0]
    if not isinstance(distribution, dist.Distribution):
        found_kind = "an array" if isinstance(distribution, jax.Array) else type(distribution).__name__
        raise ModelError(f"{where} returned {found_kind}, expected a NumPyro distribution.")
    if distribution.batch_shape != ():
        n = len(distribution.batch_shape)
        raise ModelError(
            f"{where} returned a batch of distributions: batch shape {distribution.batch_shape}, event shape "
            f"{distribution.event_shape}. For independent coordinates append .to_event({n})."
        )
    return distribution
