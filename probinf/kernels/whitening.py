"""From a precision matrix to whitened coordinates: banded where the model's structure allows, full otherwise."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.banded import (
    BandedScale,
    BandPlan,
    banded_scale,
    matrix_from_products,
    plan_band,
    seeds,
    unapply_banded,
)
from probinf.kernels.laplace import CurvaturePrograms, scale_from_precision

FixedScale = BandedScale | Float[Array, "dim dim"]

_SMALL = 50  # below this dimension a full matrix is as fast and the structure not worth looking for


class Whitener:
    """Precisions and scales of one model, by its structure once that is known.

    Entries of the Hessian that automatic differentiation leaves at exactly zero are zero by structure. A structure that
    was seen at too few points costs efficiency, never correctness: the scale is only a choice of coordinates.
    """

    def __init__(self, programs: CurvaturePrograms) -> None:
        self._programs = programs
        self._plan: BandPlan | None = None
        self._is_learned = False

    def learn(self, operands: Any, points: Float[np.ndarray, "points dim"], dtype: Any) -> None:
        """Look at the full Hessian at some points, unless that was done before."""
        dim = points.shape[1]
        if not self._is_learned and dim >= _SMALL:
            precisions = np.stack([self.precision(operands, x, dtype) for x in points])
            self._plan = plan_band(np.any(precisions != 0.0, axis=0))
        self._is_learned = True

    def precision(self, operands: Any, x: Float[np.ndarray, " dim"], dtype: Any) -> Float[np.ndarray, "dim dim"]:
        """The negative Hessian at x, in double precision on the host."""
        tangents = np.eye(x.size) if self._plan is None else seeds(self._plan)
        found = self._programs.products(operands, jnp.asarray(x, dtype), jnp.asarray(tangents, dtype))
        found = np.asarray(found, np.float64)
        return found if self._plan is None else matrix_from_products(self._plan, found)

    def scale(self, precision: Float[np.ndarray, "dim dim"], dtype: Any) -> tuple[FixedScale, bool]:
        """The scale S with S Sᵀ = precision⁻¹, and whether the matrix had to be made positive definite first."""
        if self._plan is not None:
            return banded_scale(precision, self._plan, dtype)
        scale, is_repaired = scale_from_precision(precision)
        return jnp.asarray(scale, dtype), is_repaired


def unwhiten(scale: FixedScale, x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
    """The z with scale z = x, for rows x, on the host."""
    if isinstance(scale, BandedScale):
        return unapply_banded(scale, x)
    return np.linalg.solve(np.asarray(scale, np.float64), np.asarray(x, np.float64).T).T
