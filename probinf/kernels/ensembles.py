"""An ensemble of one model, compiled once and advanced in pieces by the host."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.chains import counted
from probinf.kernels.chees import Ensemble, EnsembleDraws, Phase, advance_ensemble, start_ensemble
from probinf.kernels.nuts import LogDensity


class EnsemblePrograms:
    """The compiled programs of one model and number of chains. Data and seeds are arguments, not parts of them.

    Args:
        logdensity: function of (operands, x), x of shape (dim,), in nats.
        max_leapfrogs: the most leapfrog steps in one trajectory.
        capacity: the longest piece, in steps.
    """

    def __init__(self, logdensity: LogDensity, max_leapfrogs: int, capacity: int) -> None:
        self.capacity = capacity
        self._start = counted(functools.partial(start_ensemble, logdensity))
        self._advance = counted(functools.partial(advance_ensemble, logdensity, max_leapfrogs, capacity))

    def start(self, operands: Any, x: Float[Array, "chains dim"]) -> Ensemble:
        """An ensemble that has seen its first positions only."""
        return self._start(operands, x)

    def advance(
        self,
        operands: Any,
        state: Ensemble,
        key: Array,
        *,
        target_acceptance: float,
        first_step: int,
        num_steps: int,
        is_adapting: bool = False,
        is_collecting: bool = False,
        renews: bool = False,
    ) -> tuple[Ensemble, EnsembleDraws]:
        """Advance all chains by `num_steps` <= `capacity`; rows are host arrays of that length."""
        phase = Phase(np.asarray(is_adapting), np.asarray(is_collecting), np.asarray(renews))
        numbers = (np.asarray(target_acceptance, state.x.dtype), np.int32(first_step), np.int32(num_steps))
        state, rows = self._advance(operands, *numbers, phase, state, key)
        return state, jax.tree.map(lambda values: np.asarray(values)[:num_steps], rows)
