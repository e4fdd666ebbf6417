"""Which arrays have values that can be looked at now: door checks are skipped while JAX is tracing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from probinf._jax import Tracer


def is_concrete(*trees: Any) -> bool:
    """Whether every array in the trees holds values (none is being traced)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def default_float() -> Any:
    """The floating dtype JAX uses unless told otherwise: float64 where 64 bits are enabled, else float32."""
    return jnp.zeros(()).dtype
