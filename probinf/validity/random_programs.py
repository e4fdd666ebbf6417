"""Random finite programs: nested tuples read as programs, and a generator of such tuples.

Grammar (`at` picks an earlier value):

    block := statement*
    statement := draw at low high | factor at low high | observe at low high | branch at block block
               | loop length reverse block | while at block | call wrapper block
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.language import statements as pi
from probinf.language.program import Program, model

PROBABILITIES = (0.2, 0.5, 0.75, 1.0)
LOG_FACTORS = (0.0, 0.4, -0.9, -float("inf"))


@model
def generated(tree: tuple):
    """A program written as nested tuples; see the module for the grammar.

    Every statement may look at the values defined before it in its own block or around it; every value is 0 or 1, or
    a small count. Sites are numbered in the order of staging.
    """
    numbers = iter(range(1000))
    return tuple(_block(tree, [jnp.asarray(0)], numbers)[1:])


def _pick(values: list, at: int) -> jax.Array:
    return values[at % len(values)]


def _block(block: tuple, outer: list, numbers: Any) -> list:
    values = list(outer)
    for kind, *rest in block:
        values.extend(_STATEMENTS[kind](values, numbers, *rest))
    return values


def _draw(values, numbers, at, low, high):
    p = jnp.where(_pick(values, at) % 2 == 1, PROBABILITIES[high], PROBABILITIES[low])
    return [pi.sample(f"x{next(numbers)}", dist.Bernoulli(p)).astype(int)]


def _factor(values, numbers, at, low, high):
    pi.factor(f"f{next(numbers)}", jnp.where(_pick(values, at) % 2 == 1, LOG_FACTORS[high], LOG_FACTORS[low]))
    return []


def _observe(values, numbers, at, low, high):
    p = jnp.where(_pick(values, at) % 2 == 1, PROBABILITIES[high], PROBABILITIES[low])
    pi.sample(f"y{next(numbers)}", dist.Bernoulli(p), obs=1)
    return []


def _branch(values, numbers, at, yes, no):
    def run(block):
        return lambda: _block(block, values, numbers)[-1]

    return [jax.lax.cond(_pick(values, at) % 2 == 1, run(yes), run(no))]


def _loop(values, numbers, length, reverse, block):
    def step(carry, t):
        inner = _block(block, [*values, carry, t % 2], numbers)[-1]
        return inner, inner

    last, path = jax.lax.scan(step, values[-1], jnp.arange(length), reverse=reverse)
    return [jnp.sum(path * 3 ** jnp.arange(length)), last]


def _while(values, numbers, at, block):
    def body(carry):
        n, last = carry
        return n + 1, _block(block, [*values, last], numbers)[-1]

    start = _pick(values, at)
    n, last = jax.lax.while_loop(lambda c: (c[0] < 1) | ((c[0] < 2) & (c[1] == 1)), body, (jnp.asarray(0), start))
    return [n, last]


def _call(values, numbers, wrapper, block):
    wrap = {"jit": jax.jit, "checkpoint": jax.checkpoint}[wrapper]
    return [wrap(lambda: _block(block, values, numbers)[-1])()]


_STATEMENTS = {
    "draw": _draw,
    "factor": _factor,
    "observe": _observe,
    "branch": _branch,
    "loop": _loop,
    "while": _while,
    "call": _call,
}


class Budget:
    """How many draws and scores a program may still execute, all branches and iterations counted."""

    def __init__(self, draws: int, scores: int) -> None:
        self.draws, self.scores = draws, scores


def random_tree(rng: np.random.Generator, draws: int = 3, scores: int = 4) -> tuple:
    """A random program as a tree: a first draw, then up to two levels of loops, branches and calls."""
    budget = Budget(draws - 1, scores)
    return (("draw", 0, 0, int(rng.integers(len(PROBABILITIES)))), *_random_block(rng, budget, 2, 1, 2))


def random_program(seed: int, *, num_particles: int = 2) -> Program:
    """The random program of a seed; a smaller one for three particles, whose ancestors have 27 times the worlds."""
    draws, scores = (3, 4) if num_particles < 3 else (2, 2)
    return generated(random_tree(np.random.default_rng(seed), draws, scores))


def _random_block(rng: np.random.Generator, budget: Budget, depth: int, times: int, at_least: int) -> tuple:
    found = []
    for _ in range(int(rng.integers(at_least, 4))):
        kinds = ["draw"] * (budget.draws >= times) + ["factor", "observe"] * (budget.scores >= times)
        if depth > 0:
            kinds += ["branch", "call"] + ["loop", "while"] * (2 * times <= budget.draws)
        if kinds:
            found.append(_random_statement(rng, str(rng.choice(kinds)), budget, depth, times))
    return tuple(found)


def _random_statement(rng: np.random.Generator, kind: str, budget: Budget, depth: int, times: int) -> tuple:
    at = int(rng.integers(5))
    if kind == "draw":
        budget.draws -= times
        return kind, at, int(rng.integers(len(PROBABILITIES))), int(rng.integers(len(PROBABILITIES)))
    if kind in ("factor", "observe"):
        budget.scores -= times
        table = LOG_FACTORS if kind == "factor" else PROBABILITIES
        return kind, at, int(rng.integers(len(table))), int(rng.integers(len(table)))
    if kind == "branch":
        return (
            kind,
            at,
            _random_block(rng, budget, depth - 1, times, 0),
            _random_block(rng, budget, depth - 1, times, 0),
        )
    if kind == "loop":
        length = int(rng.integers(1, 3))
        return kind, length, bool(rng.integers(2)), _random_block(rng, budget, depth - 1, times * length, 1)
    if kind == "while":
        return kind, at, _random_block(rng, budget, depth - 1, times * 2, 1)
    return kind, str(rng.choice(["jit", "checkpoint"])), _random_block(rng, budget, depth - 1, times, 1)
