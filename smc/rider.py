"""Something computed beside a filter, one step at a time, from what the filter has at hand."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
from jaxtyping import Array, Int

if TYPE_CHECKING:
    from smc.filtering import WeightedRows


class Rider(eqx.Module):
    """Rides along a filter pass: it sees every step and changes none.

    So what it finds belongs to the very particles that the filter alone would have with the same key, and its memory
    need not grow with the number of steps. It draws with a key of its own, or not at all.
    """

    @abc.abstractmethod
    def start(self, model: Any, first: WeightedRows) -> tuple[Any, Any]:
        """State after t = 0, a pytree of arrays, and what is found at t = 0."""

    @abc.abstractmethod
    def step(
        self, model: Any, t: Any, state: Any, before: WeightedRows, ancestors: Int[Array, " num"], after: WeightedRows
    ) -> tuple[Any, Any]:
        """State after t, and what is found at t.

        Args:
            model: the filter's model.
            t: time of `after`, at least 1.
            state: the state after t - 1.
            before: the population at t - 1 with its filtering weights, before any resampling.
            ancestors: for each particle of `after` the one of `before` that it came from.
            after: the population at t with its filtering weights.
        """
