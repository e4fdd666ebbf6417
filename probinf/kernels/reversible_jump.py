"""Reversible jump (Green 1995): a move up in dimension and its reverse as one involutive pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ArgumentTypeError, ModelError
from probinf.kernels.involutive import Auxiliary, InvolutiveKernel, Position, involutive
from probinf.language.statements import sample, scope

_STAY, _UP, _DOWN = 0, 1, 2


def reversible_jump(
    forward: Callable[[Position, Auxiliary], tuple[Position, Auxiliary]],
    inverse: Callable[[Position, Auxiliary], tuple[Position, Auxiliary]],
    *,
    up: Callable[[Position], Any],
    down: Callable[[Position], Any] | None = None,
    probabilities: Callable[[Position], tuple[Any, Any]],
    log_jacobian: Callable[[Position, Auxiliary], Any] | None = None,
    dimension: Callable[[Position], Any] | None = None,
    name: str = "reversible_jump",
) -> InvolutiveKernel:
    r"""The pair of moves between x and x' = forward(x, u), chosen with the probabilities of Green's j(m -> m').

    $$r = \frac{\pi(x')\, j_\downarrow(x')\, q_\downarrow(v \mid x')}{\pi(x)\, j_\uparrow(x)\, q_\uparrow(u \mid x)}
    \left|\frac{\partial (x', v)}{\partial (x, u)}\right|,\qquad (x', v) = \mathrm{forward}(x, u)$$

    and its reciprocal downwards. Which component is split or killed is drawn by `up` and `down` too, so that its
    combinatorial factor is in q.

    Args:
        forward: (x, {site of `up`: value}) to (x', {site of `down`: value}).
        inverse: its inverse, (x', values of `down`) to (x, values of `up`). Coordinates of x that mean nothing are
            pinned to one constant in both.
        up: program of x that draws u.
        down: program of x' that draws v; None if nothing is drawn on the way down.
        probabilities: x to the probabilities of trying to go up and to go down; what is left of one is to stay. They
            are zero where the move does not exist.
        log_jacobian: log |d(x', v) / d(x, u)| as a function of (x, u), for speed; by default automatic.
        dimension: number of continuous coordinates of x that carry a density, for `check_involution`.
        name: readable.

    Raises:
        ArgumentTypeError: an argument is not a function.
        ModelError: `forward` or `inverse` returns other values than the sites of the program on the other side.
    """
    for argument, value in {"forward": forward, "inverse": inverse, "up": up, "probabilities": probabilities}.items():
        if not callable(value):
            raise ArgumentTypeError(f"{argument}: expected a function, found {type(value).__name__}.")

    def auxiliary(position: Position) -> None:
        rise, fall = (jnp.asarray(p, jnp.result_type(float)) for p in probabilities(position))
        stay = jnp.maximum(1.0 - rise - fall, 0.0)  # 1 - 0.9 - 0.1 may be below zero in floating point
        direction = sample("direction", dist.CategoricalProbs(jnp.stack([stay, rise, fall])))

        def draws(prefix: str, program: Callable[[Position], Any] | None) -> Callable[[Position], None]:
            def run(x: Position) -> None:
                if program is not None:
                    with scope(prefix):
                        program(x)

            return run

        jax.lax.switch(direction, [lambda _: None, draws("up", up), draws("down", down)], position)

    def part(values: Auxiliary, side: str) -> Auxiliary:
        return {n.removeprefix(f"{side}/"): v for n, v in values.items() if n.startswith(f"{side}/")}

    def after(position: Position, values: Auxiliary, side: str, found: Mapping[str, Any]) -> tuple[Position, Auxiliary]:
        expected = part(values, side)
        if set(found) != set(expected):
            function = "forward" if side == "down" else "inverse"
            raise ModelError(
                f"{name}: {function} returns values {sorted(found)}, expected those that `{side}` draws: "
                f"{sorted(expected)}."
            )
        new = {n: jnp.zeros_like(v) for n, v in values.items()}
        new |= {f"{side}/{n}": jnp.asarray(v, expected[n].dtype) for n, v in found.items()}
        new["direction"] = jnp.full_like(values["direction"], _DOWN if side == "down" else _UP)
        return position, new

    def involution(position: Position, values: Auxiliary) -> tuple[Position, Auxiliary]:
        def rise(x: Position, aux: Auxiliary) -> tuple[Position, Auxiliary]:
            new, v = forward(x, part(aux, "up"))
            return after(new, aux, "down", v)

        def fall(x: Position, aux: Auxiliary) -> tuple[Position, Auxiliary]:
            new, u = inverse(x, part(aux, "down"))
            return after(new, aux, "up", u)

        return jax.lax.switch(values["direction"], [lambda x, aux: (x, aux), rise, fall], position, values)

    def given(position: Position, values: Auxiliary) -> jax.Array:
        number, log_det = jnp.result_type(float), log_jacobian
        assert log_det is not None

        def rise(x: Position, aux: Auxiliary) -> jax.Array:
            return jnp.asarray(log_det(x, part(aux, "up")), number)

        def fall(x: Position, aux: Auxiliary) -> jax.Array:
            return -jnp.asarray(log_det(*inverse(x, part(aux, "down"))), number)

        stay = lambda x, aux: jnp.zeros((), number)  # noqa: E731
        return jax.lax.switch(values["direction"], [stay, rise, fall], position, values)

    return involutive(
        auxiliary,
        involution,
        log_jacobian=None if log_jacobian is None else given,
        dimension=dimension,
        name=name,
    )
