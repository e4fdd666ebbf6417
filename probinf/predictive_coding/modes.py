"""Modes of posteriors on unconstrained space, with Laplace's approximation of the evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.errors import InferenceError
from probinf.kernels.flat import FlatLayout
from probinf.language.program import Program
from probinf.random import as_key


@dataclasses.dataclass(frozen=True)
class Mode:
    """The mode of a posterior and the Gaussian there.

    Attributes:
        values: site to value at the mode.
        log_joint: log joint density there on unconstrained space, nats.
        log_evidence: Laplace's approximation of the log evidence, nats.
        covariance: of the unconstrained values, (d, d), inverse of the curvature.
    """

    values: dict[str, np.ndarray]
    log_joint: float
    log_evidence: float
    covariance: np.ndarray


def maximum_a_posteriori(program: Program, *, seed: int | jax.Array = 0, num_starts: int = 4) -> Mode:
    """The highest of the modes that quasi-Newton climbs from draws of the prior reach, on unconstrained space.

    Raises:
        InferenceError: no climb ended at a point of negative curvature.
    """
    from scipy.optimize import minimize

    target = program.unconstrained()
    layout = FlatLayout(target.position_shapes)
    operands = program.operands

    def loss(x: jax.Array) -> jax.Array:
        return -target.logdensity(operands, layout.unravel(x))

    value_and_grad, hessian = jax.jit(jax.value_and_grad(loss)), jax.jit(jax.hessian(loss))
    best: Any = None
    for key in jax.random.split(as_key(seed), positive_integer("num_starts", num_starts)):
        start = layout.ravel(target.prior_position(operands, key))

        def host(x: np.ndarray, dtype: Any = start.dtype) -> tuple[float, np.ndarray]:
            value, gradient = value_and_grad(jnp.asarray(x, dtype))
            if not np.isfinite(value):
                return 1e300, np.zeros_like(x)
            return float(value), np.asarray(gradient, np.float64)

        found = minimize(host, np.asarray(start, np.float64), jac=True, method="BFGS")
        if found.fun < 1e300 and (best is None or found.fun < best.fun):
            best = found
    if best is None:
        raise InferenceError("maximum_a_posteriori: the log density is not finite at any start drawn from the prior.")
    x = jnp.asarray(best.x, start.dtype)
    curvature = np.asarray(hessian(x), np.float64)
    values = np.linalg.eigvalsh(curvature)
    if not values.min() > 0.0:
        raise InferenceError(f"maximum_a_posteriori: the curvature has eigenvalue {values.min():.3g}: no proper mode.")
    log_evidence = -best.fun + 0.5 * len(values) * np.log(2 * np.pi) - 0.5 * np.log(values).sum()
    constrained = target.constrain(operands, layout.unravel(x))
    return Mode(
        {name: np.asarray(value) for name, value in constrained.items()},
        -float(best.fun),
        float(log_evidence),
        np.linalg.inv(curvature),
    )
