"""Iterative refinement: an answer is revised until a verifier accepts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from probinf.arguments import positive_integer
from probinf.random import as_key
from smc.steering.batches import Batches
from smc.steering.box import BlackBox


class Refined(NamedTuple):
    """The best answer met.

    Attributes:
        state: the answer.
        score: the verifier's word on it.
        is_accepted: whether the score reaches `accept`.
        rounds: revisions made.
        scores: score of the first answer and of each revision.
        generator_calls: steps of the first answer, and revisions.
        judge_calls: answers verified.
    """

    state: Any
    score: float
    is_accepted: bool
    rounds: int
    scores: np.ndarray
    generator_calls: int
    judge_calls: int


def refine(
    box: BlackBox,
    revise: Callable[..., Any],
    seed: Any = 0,
    *,
    accept: float,
    max_rounds: int,
    max_steps: int,
    executor: str = "traced",
) -> Refined:
    """Generate one answer, then revise the latest one until the verifier accepts; the best one met is returned.

    Args:
        box: generator and verifier.
        revise: `revise(states, keys)` or `revise(states)`: complete answers to complete answers, as `box.propose`.
        seed: integer or key.
        accept: score that ends the search.
        max_rounds: revisions at most.
        max_steps: steps of the first answer at most.
        executor: "traced" or "host".

    Raises:
        ArgumentError, ArgumentTypeError: a count that is no positive integer.

    References:
        Madaan et al. (2023), Self-Refine.
    """
    positive_integer("max_rounds", max_rounds)
    positive_integer("max_steps", max_steps)
    calls, key = Batches(box, executor), as_key(seed)
    reviser = Batches(BlackBox(box.start, revise, box.score), executor)
    key_first, key_revise = jax.random.split(key)
    state = calls.start(1)
    for step in range(max_steps):
        state = calls.propose(state, jax.random.split(jax.random.fold_in(key_first, step), 1))
        if calls.finished(state)[0]:
            break
    scores = [float(calls.score(state)[0])]
    best, best_score, rounds = state[0], scores[0], 0
    while best_score < accept and rounds < max_rounds:
        state = reviser.propose(state, jax.random.split(jax.random.fold_in(key_revise, rounds), 1))
        scores.append(float(reviser.score(state)[0]))
        rounds += 1
        if scores[-1] > best_score:
            best, best_score = state[0], scores[-1]
    return Refined(
        best,
        best_score,
        best_score >= accept,
        rounds,
        np.array(scores),
        calls.generator_calls + reviser.generator_calls,
        calls.judge_calls + reviser.judge_calls,
    )
