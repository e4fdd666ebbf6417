"""Kalman filtering and smoothing of linear-Gaussian series, step after step or in O(log T) parallel rounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from probinf.errors import ArgumentError, DataError
from probinf.representations.concrete import is_concrete
from smc.conditionally_linear import Gaussian, LinearGaussian
from smc.kalman import Affine, gain, innovate, joseph, predict_cov, rts_step, symmetric
from smc.small_normal import cho_solve, cholesky


class SmoothedPath(NamedTuple):
    """Exact moments of every state.

    Attributes:
        mean, cov: given all observations, (T, d) and (T, d, d).
        filtered_mean, filtered_cov: given y_0, ..., y_t, (T, d) and (T, d, d).
        log_evidence: log p(y_0, ..., y_{T-1}), nats.
    """

    mean: Array
    cov: Array
    filtered_mean: Array
    filtered_cov: Array
    log_evidence: Array


def kalman_smoother(
    initial: Gaussian,
    transition: LinearGaussian,
    observation: LinearGaussian,
    ys: Any,
    *,
    parallel: bool | None = None,
    missing: str = "error",
) -> SmoothedPath:
    r"""Exact filtering and smoothing of linear-Gaussian series.

    $$z_0 \sim \text{initial}, \qquad z_t = F z_{t-1} + b + N(0, Q), \qquad y_t = H z_t + c + N(0, R).$$

    Step after step it is a scan of T steps, O(T d^3). In parallel it is two associative scans: more work of the same
    order, in O(log T) rounds, for hardware with thousands of lanes.

    Args:
        initial: of z_0.
        transition: F, Q and b: one for all steps, or with a leading axis T - 1.
        observation: H, R and c: one for all steps, or with a leading axis T.
        ys: (T, p).
        parallel: by default on GPU and TPU only.
        missing: "nan" leaves NaN coordinates out exactly.

    Raises:
        ArgumentError: shapes that do not fit, or another `missing`.
        DataError: no observations, infinite ones, or NaN where that is not declared.

    References:
        Särkkä & García-Fernández (2021), Temporal Parallelization of Bayesian Smoothers.
    """
    ys = jnp.asarray(ys, jnp.result_type(float))
    observed = _checked(ys, missing)
    length, dim = ys.shape[0], jnp.shape(initial.mean)[0]
    moves = _stacked("transition", transition, length - 1, dim, dim)
    sights = _stacked("observation", observation, length, ys.shape[1], dim)
    first = Gaussian(jnp.asarray(initial.mean, ys.dtype), jnp.asarray(initial.cov, ys.dtype))
    wanted = jax.default_backend() != "cpu" if parallel is None else parallel
    run = _in_parallel if wanted else _step_by_step
    return run(first, moves, sights, jnp.where(observed, ys, 0.0), observed)


def _checked(ys: Array, missing: str) -> Bool[Array, "steps out"]:
    if missing not in ("error", "nan"):
        raise ArgumentError(f"missing: expected 'error' or 'nan', found {missing!r}.")
    if ys.ndim != 2 or not ys.shape[0]:
        raise DataError(f"ys: expected observations of shape (T, p) with T positive, found shape {ys.shape}.")
    if is_concrete(ys):
        values = np.asarray(ys)
        bad = np.isinf(values) if missing == "nan" else ~np.isfinite(values)
        if bad.any():
            t, i = (int(k) for k in np.argwhere(bad)[0])
            raise DataError(
                f"ys: {int(bad.sum())} values are not finite, the first ({values[t, i]}) at step {t}, coordinate {i}"
                + ("." if missing == "nan" else "; missing='nan' leaves NaN out.")
            )
    return ~jnp.isnan(ys)


def _stacked(name: str, law: LinearGaussian, length: int, out: int, dim: int) -> LinearGaussian:
    """The law of every step, with a leading axis."""
    offset = jnp.zeros(out) if law.offset is None else law.offset
    found = []
    for field, value, shape in (
        ("matrix", law.matrix, (out, dim)),
        ("noise", law.noise, (out, out)),
        ("offset", offset, (out,)),
    ):
        array = jnp.asarray(value, jnp.result_type(float))
        if array.shape not in (shape, (length, *shape)):
            raise ArgumentError(
                f"{name}: {field} of shape {shape} or {(length, *shape)} is expected, found {array.shape}."
            )
        found.append(jnp.broadcast_to(array, (length, *shape)))
    return LinearGaussian(*found)


@jax.jit
def _step_by_step(
    first: Gaussian, moves: LinearGaussian, sights: LinearGaussian, ys: Array, observed: Array
) -> SmoothedPath:
    def see(z: Gaussian, sight: LinearGaussian, y: Array, seen: Array) -> tuple[Gaussian, Array]:
        innovation = _innovation(z, sight, y, seen)
        k = gain(z.cov, innovation)
        return Gaussian(z.mean + k @ innovation.residual, joseph(z.cov, k, innovation)), innovation.log_density

    def step(z: Gaussian, row: tuple) -> tuple[Gaussian, tuple]:
        move, sight, y, seen = row
        z, increment = see(_moved(z, move), sight, y, seen)
        return z, (z, increment)

    start, increment = see(first, jax.tree.map(lambda x: x[0], sights), ys[0], observed[0])
    rest = jax.tree.map(lambda x: x[1:], (sights, ys, observed))
    _, (later, increments) = jax.lax.scan(step, start, (moves, *rest))
    filtered = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, later)

    def back(z: Gaussian, row: tuple) -> tuple[Gaussian, Gaussian]:
        here, move = row
        model = Affine(move.matrix @ here.mean + move.offset, move.matrix, move.noise)
        z = Gaussian(*rts_step(here.mean, here.cov, model, z.mean, z.cov, jnp.subtract))
        return z, z

    last = jax.tree.map(lambda x: x[-1], filtered)
    earlier = jax.tree.map(lambda x: x[:-1], filtered)
    _, smoothed = jax.lax.scan(back, last, (earlier, moves), reverse=True)
    smoothed = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), smoothed, last)
    total = increment + jnp.sum(increments)
    return SmoothedPath(smoothed.mean, smoothed.cov, filtered.mean, filtered.cov, total)


class _Filtering(NamedTuple):
    """p(z_k | z_{i-1}, y_i..y_k) = N(A z + b, C), and p(y_i..y_k | z_{i-1}) in information form (eta, J)."""

    A: Array
    b: Array
    C: Array
    eta: Array
    J: Array


@jax.jit
def _in_parallel(
    first: Gaussian, moves: LinearGaussian, sights: LinearGaussian, ys: Array, observed: Array
) -> SmoothedPath:
    dim = first.mean.shape[0]
    eye = jnp.eye(dim, dtype=ys.dtype)

    def element(move: LinearGaussian, sight: LinearGaussian, y: Array, seen: Array) -> _Filtering:
        before = Gaussian(move.offset, move.noise)  # given z_{k-1} = 0
        innovation = _innovation(before, sight, y, seen)
        k = gain(move.noise, innovation)
        sensed = cho_solve(innovation.factor, innovation.matrix @ move.matrix)
        return _Filtering(
            (eye - k @ innovation.matrix) @ move.matrix,
            move.offset + k @ innovation.residual,
            joseph(move.noise, k, innovation),
            sensed.T @ innovation.residual,
            symmetric((innovation.matrix @ move.matrix).T @ sensed),
        )

    def combine(i: _Filtering, j: _Filtering) -> _Filtering:
        # (I + C J)^-1 serves both: C and J are symmetric, so that of I + J C is its transpose.
        inverse = jnp.linalg.solve(eye + i.C @ j.J, eye)
        moved, back = j.A @ inverse, i.A.T @ inverse.T
        return _Filtering(
            moved @ i.A,
            moved @ (i.b + i.C @ j.eta) + j.b,
            symmetric(moved @ i.C @ j.A.T + j.C),
            back @ (j.eta - j.J @ i.b) + i.eta,
            symmetric(back @ j.J @ i.A + i.J),
        )

    # z_0 as a move from nowhere, so that all elements are made alike.
    nowhere = LinearGaussian(jnp.zeros((1, dim, dim), ys.dtype), first.cov[None], first.mean[None])
    all_moves = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), nowhere, moves)
    elements = jax.vmap(element)(all_moves, sights, ys, observed)
    scanned = jax.lax.associative_scan(jax.vmap(combine), elements)
    filtered = Gaussian(scanned.b, scanned.C)

    def increment(z: Gaussian, move: LinearGaussian, sight: LinearGaussian, y: Array, seen: Array) -> Array:
        return _innovation(_moved(z, move), sight, y, seen).log_density

    before = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]), filtered)
    log_evidence = jnp.sum(jax.vmap(increment)(before, all_moves, sights, ys, observed))

    def backward(z: Gaussian, move: LinearGaussian) -> tuple[Array, Array, Array]:
        predicted = _moved(z, move)
        back = cho_solve(cholesky(predicted.cov), move.matrix @ z.cov).T
        return back, z.mean - back @ predicted.mean, symmetric(z.cov - back @ move.matrix @ z.cov)

    def join(later: tuple, earlier: tuple) -> tuple[Array, Array, Array]:  # a reversed scan hands over the later first
        (e_j, g_j, l_j), (e_i, g_i, l_i) = later, earlier
        return e_i @ e_j, e_i @ g_j + g_i, symmetric(e_i @ l_j @ e_i.T + l_i)

    last = jax.tree.map(lambda x: x[-1:], filtered)
    parts = jax.vmap(backward)(jax.tree.map(lambda x: x[:-1], filtered), moves)
    ends = (jnp.zeros((1, dim, dim), ys.dtype), last.mean, last.cov)
    parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), parts, ends)
    _, mean, cov = jax.lax.associative_scan(jax.vmap(join), parts, reverse=True)
    return SmoothedPath(mean, cov, filtered.mean, filtered.cov, log_evidence)


def _moved(z: Gaussian, move: LinearGaussian) -> Gaussian:
    mean = move.matrix @ z.mean + move.offset
    return Gaussian(mean, predict_cov(z.cov, Affine(mean, move.matrix, move.noise)))


def _innovation(z: Gaussian, sight: LinearGaussian, y: Array, seen: Array) -> Any:
    predicted = sight.matrix @ z.mean + sight.offset
    return innovate(z.cov, Affine(predicted, sight.matrix, sight.noise), y - predicted, seen)
