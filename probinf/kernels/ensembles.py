"""An ensemble of one model, compiled once and advanced in pieces by the host."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.chains import counted
from probinf.kernels.chees import Ensemble, EnsembleDraws, Phase, advance_ensemble, start_ensemble
from probinf.kernels.native import as_native, may_be_native, primitives_of
from probinf.kernels.nuts import LogDensity

#: A batch turns products into matrix products, which libraries compute several times faster than native loops do.
_BETTER_IN_LIBRARIES = frozenset({"dot_general", "conv_general_dilated"})


class EnsemblePrograms:
    """The compiled programs of one model and number of chains. Data and seeds are arguments, not parts of them.

    Args:
        logdensity: function of (operands, x), x of shape (dim,), in nats.
        max_leapfrogs: the most leapfrog steps in one trajectory.
        capacity: the longest piece, in steps.
    """

    def __init__(self, logdensity: LogDensity, max_leapfrogs: int, capacity: int) -> None:
        self.capacity, self.is_native = capacity, False
        self._logdensity = logdensity
        self._start = counted(functools.partial(start_ensemble, logdensity))
        self._advance_any = functools.partial(advance_ensemble, logdensity, max_leapfrogs, capacity)
        self._advance: Any = None

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
        phase = Phase(*(np.asarray(flag) for flag in (is_adapting, is_collecting, renews)))
        numbers = (np.asarray(target_acceptance, state.x.dtype), np.int32(first_step), np.int32(num_steps))
        if self._advance is None:
            self._compile(operands, *numbers, phase, state, key)
        state, rows = self._advance(operands, *numbers, phase, state, key)
        return state, jax.tree.map(lambda values: np.asarray(values)[:num_steps], rows)

    def _compile(self, *args: Any) -> None:
        operands, state = args[0], args[-2]
        if self._wants_native(operands, state):
            try:
                self._advance = counted(as_native(self._advance_any)).lower(*args).compile()
                self.is_native = True
                return
            except (jax.errors.JaxRuntimeError, NotImplementedError):
                pass  # the marks are undocumented: whatever the compiler says, the ordinary way remains
        self._advance = counted(self._advance_any).lower(*args).compile()

    def _wants_native(self, operands: Any, state: Ensemble) -> bool:
        gradient = jax.vmap(jax.grad(self._logdensity, argnums=1), in_axes=(None, 0))
        x = jax.ShapeDtypeStruct(state.x.shape, jnp.result_type(state.x))
        if not may_be_native(gradient, operands, x):
            return False
        return not primitives_of(jax.make_jaxpr(gradient)(operands, x).jaxpr) & _BETTER_IN_LIBRARIES
