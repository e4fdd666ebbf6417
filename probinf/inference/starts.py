"""Where chains start: legal positions, or an error that names the sites that forbid them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError, UnknownNameError
from probinf.kernels.chains import counted
from probinf.kernels.flat import FlatLayout

MAX_TRIES = 100
_RADIUS = 2.0  # Stan's: uniform on (-2, 2) in every unconstrained coordinate
_MAX_ROWS = 7


class StartPrograms:
    """The compiled pieces: value and gradient of many positions, and draws from the prior."""

    def __init__(self, target: Any, layout: FlatLayout) -> None:
        def logdensity(operands: Any, x: Array) -> Array:
            return target.logdensity(operands, layout.unravel(x))

        def is_legal(operands: Any, x: Array) -> Array:
            value, gradient = jax.value_and_grad(logdensity, argnums=1)(operands, x)
            return jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))

        self.are_legal = counted(jax.vmap(is_legal, in_axes=(None, 0)))
        self.prior = counted(
            jax.vmap(lambda operands, key: layout.ravel(target.prior_position(operands, key)), in_axes=(None, 0))
        )


def find_starts(
    programs: StartPrograms,
    target: Any,
    layout: FlatLayout,
    operands: Any,
    key: jax.Array,
    num_chains: int,
    init: str | Mapping[str, Any],
) -> Float[np.ndarray, "chains dim"]:
    """One legal position for each chain; each chain tries up to 100.

    Raises:
        InferenceError: a chain found none. The message lists the log density of the sites at its last try.
        ArgumentError: a given start is NaN or outside the support.
        UnknownNameError: a given start names no latent site.
    """
    if not isinstance(init, str):
        return given_starts(programs, target, layout, operands, num_chains, init)

    def draw(key: jax.Array) -> Float[Array, "chains dim"]:
        if init == "prior":
            return programs.prior(operands, jax.random.split(key, num_chains))
        return jax.random.uniform(key, (num_chains, layout.dim), layout.dtype, -_RADIUS, _RADIUS)

    return search(programs, target, layout, operands, key, draw, f"init={init!r}")


def search(
    programs: StartPrograms, target: Any, layout: FlatLayout, operands: Any, key: jax.Array, draw: Any, how: str
) -> Float[np.ndarray, "chains dim"]:
    """Call `draw(key)` for new positions, shape (chains, dim), until every chain has had a legal one."""
    starts, found = np.zeros((0, 0)), np.asarray(False)
    for attempt in range(MAX_TRIES):
        x = draw(jax.random.fold_in(key, attempt))
        starts = np.where(found[:, None], starts, x) if attempt else np.asarray(x)
        found = found | np.asarray(programs.are_legal(operands, x))
        if found.all():
            return starts
    chain = int(np.argmin(found))
    raise InferenceError(
        f"No legal start for chain {chain} of model {target.name!r} in {MAX_TRIES} tries ({how}).\n"
        + _table(target, layout, operands, starts[chain])
    )


def given_starts(
    programs: StartPrograms,
    target: Any,
    layout: FlatLayout,
    operands: Any,
    num_chains: int,
    values: Mapping[str, Any],
) -> Float[np.ndarray, "chains dim"]:
    """The unconstrained positions of values given by the user, checked before anything is compiled.

    A value has the shape of its site, or one more leading axis of length `num_chains`.
    """
    names, where = set(layout.shapes), f"model {target.name!r}"
    for name in values:
        if name not in names:
            raise UnknownNameError(name, names, "latent site", where)
    missing = sorted(names - set(values))
    if missing:
        raise ArgumentError(
            f"init: no value for {', '.join(map(repr, missing[:5]))} of {where}; every latent site needs one."
        )
    shapes = {n: tuple(leaf.shape) for n, leaf in jax.eval_shape(target.constrain, operands, _abstract(layout)).items()}
    rows = []
    arrays = {name: _as_array(name, value) for name, value in values.items()}
    for c in range(num_chains):
        assignment = {name: _row(name, array, shapes[name], num_chains, c) for name, array in arrays.items()}
        try:
            position = target.unconstrain(operands, {n: jnp.asarray(v) for n, v in assignment.items()})
        except (DataError, ValueError) as error:
            raise ArgumentError(f"init: {error}") from error
        for name, value in position.items():
            bad = ~np.isfinite(np.asarray(value))
            if bad.any():
                raise ArgumentError(
                    f"init: {name!r} = {_short(assignment[name])} is outside the support of its distribution."
                )
        rows.append(np.asarray(layout.ravel(position)))
    starts = np.stack(rows)
    legal = np.asarray(programs.are_legal(operands, jnp.asarray(starts)))
    if not legal.all():
        chain = int(np.argmin(legal))
        raise ArgumentError(
            f"init: the log density of model {target.name!r} or its gradient is not finite at the given start.\n"
            + _table(target, layout, operands, starts[chain])
        )
    return starts


def _abstract(layout: FlatLayout) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, layout.dtypes[name]) for name, shape in layout.shapes.items()}


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"init: {name!r} must be numeric, found {type(value).__name__}.") from error
    bad = ~np.isfinite(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ArgumentError(
            f"init: {name!r} has {int(bad.sum())} value(s) that are not finite, first {array[index]} at index {index}."
        )
    return array


def _row(name: str, array: np.ndarray, shape: tuple[int, ...], num_chains: int, chain: int) -> np.ndarray:
    if array.shape == shape:
        return array
    if array.shape == (num_chains, *shape):
        return np.asarray(array[chain])
    raise ArgumentError(
        f"init: {name!r} has shape {array.shape}, expected {shape}, or {(num_chains, *shape)} for one start per chain."
    )


def _short(value: np.ndarray) -> str:
    return np.array2string(value, threshold=6, precision=4)


def _table(target: Any, layout: FlatLayout, operands: Any, x: np.ndarray) -> str:
    """Sites with their log density at x: those that are not finite first."""
    scores = target.site_logdensities(operands, layout.unravel(jnp.asarray(x)))
    scores = {name: float(value) for name, value in scores.items()}
    bad = [name for name, value in scores.items() if not np.isfinite(value)]
    shown = (bad + [name for name in scores if name not in bad])[:_MAX_ROWS]
    width = max((len(name) for name in shown), default=0)
    mark = {False: "", True: "   <- not finite"}
    lines = [f"  {name:<{width}}  {scores[name]:>12.5g}{mark[name in bad]}" for name in shown]
    if len(scores) > len(shown):
        lines.append(f"  ... and {len(scores) - len(shown)} more")
    if bad:
        cause = f"Check the data and the parameters of {bad[0]!r}"
    else:
        cause = "Every site is finite there, so a gradient is not: look for sqrt or log at 0, or a hidden branch"
    return "\n".join(
        ["Log density by site at the last try:", *lines, f"{cause}; or give a start: NUTS(init={{'site': value}})."]
    )
