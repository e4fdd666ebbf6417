"""What `infer` asks of an inference method."""

from __future__ import annotations

import abc
import numbers
import os
from typing import TYPE_CHECKING, Any

from probinf.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    import jax

    from probinf.inference.posterior import Posterior
    from probinf.runs import Checkpoint


class AbstractMethod(abc.ABC):
    """An inference method: settings, checked when it is built, and a run."""

    @abc.abstractmethod
    def run(
        self,
        program: Any,
        key: jax.Array,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Draw from the posterior of `program`.

        Args:
            program: a bound model, data given.
            key: one typed key.
            progress: show a bar.
            checkpoint: where to keep the state of the run.
        """


def check_count(argument: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer setting, or an error that names the argument.

    Raises:
        ArgumentTypeError: not an integer (a float with an integer value included).
        ArgumentError: below `minimum` or above `maximum`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{argument}: expected an integer, found {value!r} of type {type(value).__name__}.")
    value = int(value)
    if value < minimum or (maximum is not None and value > maximum):
        bound = f"an integer >= {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
        raise ArgumentError(f"{argument}: expected {bound}, found {value}.")
    return value


def check_fraction(argument: str, value: Any) -> float:
    """A number strictly between 0 and 1, or an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{argument}: expected a number, found {value!r} of type {type(value).__name__}.")
    value = float(value)
    if not 0.0 < value < 1.0:
        raise ArgumentError(f"{argument}: expected a number strictly between 0 and 1, found {value}.")
    return value


def check_option(argument: str, value: Any, options: tuple[Any, ...]) -> Any:
    """One of a few values, or an error that lists them."""
    if not any(value is option or (isinstance(option, str) and value == option) for option in options):
        raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, options))}, found {value!r}.")
    return value
