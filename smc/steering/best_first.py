"""Best-first search on prefix scores, with an optimistic bound for what is still to come (A*)."""

from __future__ import annotations

import heapq
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.random import as_key
from smc.steering.batches import Batches
from smc.steering.box import BlackBox
from smc.steering.core import Budget
from smc.steering.potential import Potential


class Found(NamedTuple):
    """The answer of a search.

    Attributes:
        state: the best finished state met, or the best unfinished one where none was.
        score: its aggregated score.
        is_finished: whether it is finished (or `max_steps` long).
        expansions: prefixes that were extended.
        generator_calls: proposals.
        judge_calls: scores.
    """

    state: Any
    score: float
    is_finished: bool
    expansions: int
    generator_calls: int
    judge_calls: int


def best_first_search(
    box: BlackBox,
    seed: Any = 0,
    *,
    width: int,
    max_steps: int,
    aggregate: str = "model",
    optimism: float = 0.0,
    budget: Budget | None = None,
    executor: str = "traced",
) -> Found:
    """Extend the most promising open prefix by `width` children until the most promising one is finished.

    A prefix of s steps has the priority R + optimism * (max_steps - s). If no step can add more than `optimism` to the
    score the priority is an upper bound and the search is A*: the first finished prefix that is taken from the queue is
    the best of all that could follow from the children drawn. Claim: approximate, it optimises.

    Args:
        box: generator and judge.
        seed: integer or key.
        width: children of each prefix.
        max_steps: a prefix of that length is finished.
        aggregate: as in `Potential`: how the judge's words make the score R of a prefix.
        optimism: what a step may add at most, in units of the score.
        budget: the search ends before the expansion that would go over, with the best prefix so far.
        executor: "traced" or "host".

    Raises:
        ArgumentError: the budget does not suffice for one expansion.
    """
    potential = Potential("exp", "final", aggregate)
    positive_integer("width", width)
    positive_integer("max_steps", max_steps)
    limit = _limit(budget or Budget())
    if limit < width:
        raise ArgumentError(f"budget: {limit} calls do not suffice for one expansion of width {width}.")
    key, calls = as_key(seed), Batches(box, executor)
    neutral = float(potential.start(1).prefix[0])
    ties = itertools.count()
    queue: list[tuple[float, int, int, float, Any]] = [(0.0, next(ties), 0, neutral, calls.start(1)[0])]
    best: tuple[bool, float, Any] = (False, -np.inf, queue[0][-1])
    expansions = 0
    while queue and calls.generator_calls + width <= limit:
        _, _, length, score, state = heapq.heappop(queue)
        if length == max_steps or (length and calls.finished([state])[0]):
            best = (True, score, state)
            break
        children = calls.propose([state] * width, jax.random.split(jax.random.fold_in(key, expansions), width))
        expansions += 1
        for child, said in zip(children, calls.score(children), strict=True):
            total = {"prod": score * said, "min": min(score, said), "sum": score + said}.get(aggregate, said)
            entry = (-(total + optimism * (max_steps - length - 1)), next(ties), length + 1, float(total), child)
            heapq.heappush(queue, entry)
            is_finished = bool(length + 1 == max_steps or calls.finished([child])[0])
            if (is_finished, total) > best[:2]:
                best = (is_finished, float(total), child)
    return Found(best[2], best[1], best[0], expansions, calls.generator_calls, calls.judge_calls)


def _limit(budget: Budget) -> float:
    limits = [limit for limit in (budget.generator, budget.judge) if limit is not None]
    return float(min(limits, default=np.inf))
