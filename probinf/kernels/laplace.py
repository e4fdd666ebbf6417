r"""Coordinates from the curvature of the log density: for posteriors of many, badly scaled dimensions.

With precision P = -∇² log p and P = C Cᵀ (Cholesky), x = mode + C⁻ᵀ z turns N(mode, P⁻¹) into a standard normal,
whatever its condition number. Sample covariances would need many more draws than dimensions for that; curvature none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from probinf.kernels.chains import counted
from probinf.kernels.nuts import LogDensity

_MAX_LBFGS_STEPS = 300
_MAX_NEWTON_STEPS = 30
_ROWS = 8  # of a Hessian at once: XLA on CPU slows down a hundredfold on wide batches of small matrices


class Mode(NamedTuple):
    """The result of a mode search: where, whether it converged, and the precision there (not repaired)."""

    x: Float[np.ndarray, " dim"]
    logdensity: float
    is_converged: bool
    precision: Float[np.ndarray, "dim dim"]


class CurvaturePrograms:
    """Compiled value and gradient, products with the negative Hessian, and L-BFGS of one log density."""

    def __init__(self, logdensity: LogDensity) -> None:
        self.value_and_grad = counted(jax.value_and_grad(logdensity, argnums=1))
        self.products = counted(_products(logdensity))
        self.climb = counted(_lbfgs(logdensity))


def _products(logdensity: LogDensity) -> Callable[..., Array]:
    def products(
        operands: Any, x: Float[Array, " dim"], tangents: Float[Array, "tangents dim"]
    ) -> Float[Array, "tangents dim"]:
        """The product of -∇² log p(x) with each row."""
        gradient = jax.grad(lambda x: -logdensity(operands, x))
        # In blocks: all rows at once would hold as many copies of the model's intermediate values.
        block = min(_ROWS, tangents.shape[0])
        return jax.lax.map(lambda t: jax.jvp(gradient, (x,), (t,))[1], tangents, batch_size=block)

    return products


def _lbfgs(logdensity: LogDensity) -> Callable[..., Array]:
    def climb(operands: Any, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        import optax

        def loss(x: Array) -> Array:
            value = -logdensity(operands, x)
            return jnp.where(jnp.isfinite(value), value, jnp.inf)

        optimizer = optax.lbfgs(memory_size=20)
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
            x, state, count, _ = carry
            value, gradient = value_and_grad(x, state=state)
            update, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
            gain = value - optax.tree.get(state, "value")
            is_done = (gain >= 0.0) & (gain < 1e-3)  # Newton steps take over from here
            new = x + jnp.asarray(update)
            new = jnp.where(jnp.all(jnp.isfinite(new)), new, x)
            return new, state, count + 1, is_done

        def more(carry: tuple[Array, Any, Array, Array]) -> Array:
            return (carry[2] < _MAX_LBFGS_STEPS) & ~carry[3]

        # optax mixes integer kinds, which the strict promotion setting refuses.
        with jax.numpy_dtype_promotion("standard"):
            start = (x, optimizer.init(x), jnp.zeros((), jnp.int32), jnp.asarray(False))
            return jax.lax.while_loop(more, step, start)[0]

    return climb


def find_mode(
    programs: CurvaturePrograms,
    precision_at: Callable[[np.ndarray], np.ndarray],
    operands: Any,
    start: Float[Array, " dim"],
) -> Mode:
    """Climb from `start` by L-BFGS, then by Newton steps with Levenberg-Marquardt damping.

    Converged means that the Newton decrement, twice the height still to gain if the density were Gaussian, is below
    1e-6 (1e-3 in single precision) with a positive definite precision.

    Args:
        programs: the compiled pieces.
        precision_at: the negative Hessian at a position, on the host.
        operands: data of the model.
        start: where to begin.
    """
    dtype = start.dtype

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = programs.value_and_grad(operands, jnp.asarray(x, dtype))
        return float(value), np.asarray(gradient, np.float64)

    x = np.asarray(programs.climb(operands, start), np.float64)
    value, gradient = evaluate(x)
    precision = precision_at(x)
    damping, is_converged = 0.0, False
    tolerance = 1e-6 if dtype == np.float64 else 1e-3
    for _ in range(_MAX_NEWTON_STEPS):
        if not np.isfinite(precision).all():
            break
        spread = damping * np.maximum(np.abs(np.diag(precision)), 1e-12)
        try:
            factor = scipy.linalg.cho_factor(precision + np.diag(spread), lower=True)
        except scipy.linalg.LinAlgError:
            damping = max(4.0 * damping, 1e-3)
            continue
        step = scipy.linalg.cho_solve(factor, gradient)
        if damping == 0.0 and gradient @ step < tolerance:
            is_converged = True
            break
        new_value, new_gradient = evaluate(x + step)
        if new_value >= value - 1e-12 * abs(value) and np.isfinite(new_gradient).all():
            x, value, gradient = x + step, new_value, new_gradient
            damping = 0.0 if damping < 1e-3 else damping / 10.0
            precision = precision_at(x)
        else:
            damping = max(4.0 * damping, 1e-3)
    return Mode(x, value, is_converged, precision)


def scale_from_precision(precision: Float[np.ndarray, "dim dim"]) -> tuple[Float[np.ndarray, "dim dim"], bool]:
    r"""The factor S with S Sᵀ = precision⁻¹, and whether the matrix had to be repaired.

    A positive definite matrix gives S = C⁻ᵀ. Otherwise each eigenvalue is replaced by its absolute value, at least
    1e-10 times the largest: a direction of negative curvature is as narrow as its curvature is strong.

    References:
        Betancourt (2013), A general metric for Riemannian manifold HMC (the absolute value).
    """
    precision = 0.5 * (precision + precision.T)
    try:
        upper = scipy.linalg.cholesky(precision)
        return scipy.linalg.solve_triangular(upper, np.eye(precision.shape[0])), False
    except scipy.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(precision)
        repaired = np.maximum(np.abs(values), 1e-10 * np.max(np.abs(values)))
        return vectors / np.sqrt(repaired)[None, :], True
