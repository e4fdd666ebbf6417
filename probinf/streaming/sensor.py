"""A named sensor: the distribution of its value given the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpyro.distributions as dist

from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.streaming.dry_run import positional_parameters
from probinf.streaming.masking import circular_coordinates


class Sensor:
    """How a sensor's value is distributed given the state, and what may be missing.

    Attributes:
        function: `(x)` or `(x, inputs)` to a NumPyro distribution with batch shape ().
        missing: `"nan"` if NaN marks coordinates that were not observed; otherwise NaN is an error.
        angles: flat indices of value coordinates that are angles in radians. Distributions on the circle (`Angular`,
            `VonMises`) need no declaration.
        inputs: shape of the inputs, if it should be checked before the first event.
        takes_inputs, needs_inputs: whether the function accepts, or insists on, inputs.
        whole: whether a value can only be missing as a whole (found in the dry run).
    """

    def __init__(
        self,
        function: Callable[..., dist.Distribution],
        *,
        missing: str | None = None,
        angles: Sequence[int] = (),
        inputs: tuple[int, ...] | None = None,
    ) -> None:
        if not callable(function):
            raise ArgumentTypeError(
                f"Sensor: expected a function from the state to a distribution, found {type(function).__name__}."
            )
        if missing not in (None, "nan"):
            raise ArgumentError(f"Sensor: missing must be None or 'nan', found {missing!r}.")
        needed, accepted = positional_parameters(function)
        if needed > 2 or accepted < 1:
            raise ArgumentError(f"Sensor: the function must take (x) or (x, inputs); it needs {needed} arguments.")
        self.function = function
        self.missing = missing
        self.angles = tuple(int(a) for a in angles)
        self.inputs = None if inputs is None else tuple(inputs)
        self.takes_inputs, self.needs_inputs = accepted >= 2, needed >= 2
        self.whole = False
        if self.inputs is not None and not self.takes_inputs:
            raise ArgumentError("Sensor: inputs are declared, but the function takes only the state.")

    def distribution(self, x: Any, inputs: Any = None) -> dist.Distribution:
        """The distribution of the value at one state (d,)."""
        return self.function(x) if inputs is None else self.function(x, inputs)

    def circular(self, distribution: dist.Distribution) -> tuple[bool, ...]:
        """Which flat coordinates of a value are angles."""
        size = math.prod(distribution.event_shape)
        if circular_coordinates(distribution):
            return (True,) * size
        return tuple(i in self.angles for i in range(size))

    def check_angles(self, where: str, distribution: dist.Distribution) -> None:
        """Raise if a declared angle is not a coordinate of the value."""
        size = math.prod(distribution.event_shape)
        bad = [a for a in self.angles if not 0 <= a < size]
        if bad:
            raise ModelError(f"{where}: angles {bad} are not coordinates of a value with {size} entries.")
