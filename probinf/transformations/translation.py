"""From one program to another: change of variables, and a kernel with a backward kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from probinf.errors import ModelError
from probinf.language.handlers import Condition, Score
from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Model, Program
from probinf.language.staging import Arguments, Staged, restage
from probinf.transformations.importance import Drawn

Values = dict[str, Any]


def _latent(staged: Staged, values: Values) -> Values:
    return {s.name: values[s.name] for s in staged.latent()}


def _density(staged: Staged, operands: Any, values: Values) -> jax.Array:
    return staged.run(operands, Score(), Score().start(), values)[1]


def _weigh(new: jax.Array, old: jax.Array) -> None:
    # A draw that the first program gives no weight keeps none: its own scores have seen to that.
    ratio = jnp.where(new == -jnp.inf, -jnp.inf, new - jnp.where(old == -jnp.inf, 0, old))
    bind_factor(Site(""), ratio)


@dataclasses.dataclass(frozen=True)
class _Translated:
    source: Staged
    target: Staged
    mapping: Callable[[Values], Values]

    def __call__(self, operands: Any) -> Values:
        own, theirs = operands
        values = _latent(self.source, self.source.run(own, Condition(record=True), (), {})[2])
        moved = self.mapping(values)
        expected = {s.name for s in self.target.latent()}
        if set(moved) != expected:
            raise ModelError(
                f"translate: the mapping returns values for {sorted(moved)}, expected the latent sites of "
                f"{self.target.name!r}: {sorted(expected)}."
            )
        log_ratio = _density(self.target, theirs, moved) + self._log_jacobian(values)
        _weigh(log_ratio, _density(self.source, own, values))
        return moved

    def _log_jacobian(self, values: Values) -> jax.Array:
        continuous = {n: v for n, v in values.items() if jnp.issubdtype(jnp.result_type(v), jnp.floating)}
        if not continuous:
            return jnp.zeros((), jnp.result_type(float))
        flat, unravel = ravel_pytree(continuous)

        def outputs(x: jax.Array) -> jax.Array:
            moved = self.mapping({**values, **unravel(x)})
            return ravel_pytree({n: v for n, v in moved.items() if jnp.issubdtype(jnp.result_type(v), jnp.floating)})[0]

        jacobian = jax.jacfwd(outputs)(flat)
        if jacobian.shape[0] != jacobian.shape[1]:
            raise ModelError(
                f"translate: {jacobian.shape[1]} continuous coordinates become {jacobian.shape[0]}. The dimensions "
                "must match; add auxiliary draws to the program that has fewer."
            )
        return jnp.linalg.slogdet(jacobian)[1]


def translate(source: Program, target: Program, mapping: Callable[[Values], Values]) -> Program:
    """The target's measure on its latent sites, from draws of another program. Claim: exact.

    The weight is the ratio of densities times |det D mapping|, by forward-mode differentiation of the continuous values
    (discrete ones fixed).

    Args:
        source: what is run; its own scores count as usual.
        target: what the result means.
        mapping: values of all latent sites of the source to those of the target; a bijection on the support.

    Raises:
        ModelError: sites that do not match, or continuous dimensions that differ.
    """
    function = _Translated(source.staged, target.staged, mapping)
    return Program(
        f"translate({source.name}, {target.name})",
        function,
        Arguments.split(((source.operands, target.operands),), {}),
    )


@dataclasses.dataclass(frozen=True)
class _Moved:
    source: Staged
    target: Staged
    forward: Model
    backward: Model

    def __call__(self, operands: Any) -> Values:
        own, theirs = operands
        old = _latent(self.source, self.source.run(own, Condition(record=True), (), {})[2])
        forth = restage(self.forward.__name__, lambda ops: self.forward.function(ops), old)
        records = forth.run(old, Drawn(), (), {})[2]
        new = _latent(self.target, records)
        log_forth = sum((records[f"log q({s.name})"] for s in forth.latent()), jnp.zeros((), jnp.result_type(float)))
        back = restage(self.backward.__name__, lambda ops: self.backward.function(ops), new)
        log_new = _density(self.target, theirs, new) + _density(back, new, _latent(back, old))
        _weigh(log_new, _density(self.source, own, old) + log_forth)
        return new


def reweight_move(source: Program, target: Program, forward: Model, backward: Model) -> Program:
    """The target's measure, by a kernel from the source and its backward kernel. Claim: exact where the ratio exists.

    x is drawn from the source and y from `forward(x)`; the weight is target(y) backward(y; x) over source(x)
    forward(x; y) (Del Moral, Doucet & Jasra 2006, equation 12). Any backward kernel is right; a good one has little
    variance.

    Args:
        source: what is run.
        target: what the result means; its latent sites are drawn by `forward`.
        forward: a model of the source's values (a dict) that draws the target's latent sites.
        backward: a model of the target's values (a dict) that draws the source's latent sites.
    """
    function = _Moved(source.staged, target.staged, forward, backward)
    return Program(
        f"reweight_move({source.name}, {target.name})",
        function,
        Arguments.split(((source.operands, target.operands),), {}),
    )
