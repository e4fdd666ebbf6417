"""Finite targets for kernels that move a density: a jump between two models, lists of components, a guide."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.kernels.involutive import independence, involutive, metropolis_hastings
from probinf.kernels.kernel import Density, Kernel, cycle, mix
from probinf.kernels.reversible_jump import reversible_jump
from probinf.kernels.split_merge import split_merge
from probinf.language import statements as pi

Position = dict[str, Any]

# -- two models: (m, a, b), where b is there only if m = 1 -------------------------------------------------------------

SMALL = np.array([0.3, 1.1, 0.5])  # m = 0: masses of a
LARGE = np.array([[0.7, 0.2, 1.9], [0.4, 2.3, 0.1], [1.3, 0.6, 0.9]])  # m = 1: masses of (a, b)
GUIDE = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])  # proposals of b given a
TWO_MODELS_STATES = {
    "m": np.array([0] * 3 + [1] * 9),
    "a": np.array([0, 1, 2, *np.repeat([0, 1, 2], 3)]),
    "b": np.array([0, 0, 0, *np.tile([0, 1, 2], 3)]),
}


def _two_models(x: Position) -> jax.Array:
    small, large = jnp.log(jnp.asarray(SMALL)), jnp.log(jnp.asarray(LARGE))
    return jnp.where(x["m"] == 1, large[x["a"], x["b"]], small[x["a"]])


TWO_MODELS = Density(_two_models, "two_models")


def jump() -> Kernel:
    """Up: draw b given a and turn a by it. Down: turn it back and forget b."""

    def forward(x: Position, u: Position) -> tuple[Position, Position]:
        return {"m": jnp.ones_like(x["m"]), "a": (x["a"] + u["b"]) % 3, "b": u["b"]}, {}

    def inverse(x: Position, v: Position) -> tuple[Position, Position]:
        return {"m": jnp.zeros_like(x["m"]), "a": (x["a"] - x["b"]) % 3, "b": jnp.zeros_like(x["b"])}, {"b": x["b"]}

    return reversible_jump(
        forward,
        inverse,
        up=lambda x: pi.sample("b", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]])),
        probabilities=lambda x: (jnp.where(x["m"] == 0, 0.8, 0.0), jnp.where(x["m"] == 1, 0.4, 0.0)),
    )


def walk() -> Kernel:
    """Redraw a, and b if it is there: an involution that swaps old and new, with a branch in its draws."""

    def auxiliary(x: Position) -> None:
        pi.sample("a", dist.CategoricalProbs(jnp.array([0.2, 0.3, 0.5])))

        def there(x: Position) -> None:
            pi.sample("b", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]]))

        jax.lax.cond(x["m"] == 1, there, lambda x: None, x)

    return involutive(auxiliary, lambda x, v: ({**x, "a": v["a"], "b": v["b"]}, {"a": x["a"], "b": x["b"]}))


def near() -> Kernel:
    """A proposal of a that leans on where it is."""
    return metropolis_hastings(lambda x: pi.sample("a", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]])))


def guide() -> Kernel:
    """A proposal of a that does not."""
    return independence(lambda: pi.sample("a", dist.CategoricalProbs(jnp.array([0.2, 0.3, 0.5]))))


# -- lists of up to three components, each of one of three kinds -------------------------------------------------------

MOST, KINDS = 3, 3
_LISTS = np.array(
    [(k, *kinds, *[0] * (MOST - k)) for k in range(1, MOST + 1) for kinds in itertools.product(range(KINDS), repeat=k)]
)
LISTS_STATES = {"k": _LISTS[:, 0], "kind": _LISTS[:, 1:]}


def _lists(x: Position) -> jax.Array:
    alive = jnp.arange(MOST) < x["k"]
    slope = jnp.array([0.0, 0.3, -0.4])  # not symmetric in the order, so that a wrong place shows
    each = jnp.log(jnp.array([0.9, 1.7, 0.4]))[x["kind"]] + slope * x["kind"].astype(float)
    return jnp.sum(jnp.where(alive, each, 0.0)) - 0.2 * x["k"].astype(float) ** 2


LISTS = Density(_lists, "lists")


def halves() -> Kernel:
    """A component is the sum of its halves' kinds."""

    def split(one: Position, u: Position) -> tuple[Position, Position]:
        return {"kind": u["part"]}, {"kind": (one["kind"] - u["part"]) % KINDS}

    def merge(first: Position, second: Position) -> tuple[Position, Position]:
        return {"kind": (first["kind"] + second["kind"]) % KINDS}, {"part": first["kind"]}

    return split_merge(
        split,
        merge,
        auxiliary=lambda one: pi.sample("part", dist.CategoricalProbs(jnp.asarray(GUIDE)[one["kind"]])),
        components={"kind": 0},
    )


def chains() -> Iterator[tuple[str, Kernel, Density, Any]]:
    """Names, kernels, their targets and all states of these."""
    for kernel, name in (
        (jump(), "reversible_jump"),
        (walk(), "involutive"),
        (near(), "metropolis_hastings"),
        (guide(), "independence"),
        (mix(jump(), walk()), "mix(reversible_jump, involutive)"),
        (cycle(jump(), walk()), "cycle(reversible_jump, involutive)"),
    ):
        yield name, kernel, TWO_MODELS, TWO_MODELS_STATES
    yield "split_merge", halves(), LISTS, LISTS_STATES
