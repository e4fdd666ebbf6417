"""One answer out of a weighted population."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probinf.errors import ArgumentError, UnknownNameError
from probinf.random import as_key

if TYPE_CHECKING:
    from smc.steering.run import SteeringRun

RULES = ("argmax", "sample", "vote", "majority", "score", "first")


def final_answer(
    run: SteeringRun, rule: str = "argmax", *, key: Any = None, by: Callable[..., Any] | None = None
) -> Any:
    """One state of a run.

    The weights hold every potential already, so no rule but "score" asks a judge again: a last potential that is used
    for the weights and then for the pick would count twice.

    Args:
        run: a run that is not batched.
        rule: "argmax" (largest weight), "sample" (in proportion to the weights; needs `key`), "vote" (`by(state)` says
            what an answer is; the answer with the largest total weight wins, and its heaviest state is returned),
            "score" (`by(states)` is a second judge, and its best wins), "first" (the heaviest of those that finished
            in the fewest steps).
        key: for "sample".
        by: for "vote", "majority" and "score".

    Raises:
        UnknownNameError: no such rule.
        ArgumentError: `key` or `by` is missing, or the judge's answer has another length.
    """
    return state_at(run.states, answer_index(run, rule, key=key, by=by))


def answer_index(run: SteeringRun, rule: str, *, key: Any = None, by: Callable[..., Any] | None = None) -> int:
    """The particle that `final_answer` returns."""
    if rule not in RULES:
        raise UnknownNameError(rule, RULES, "rule", "answer")
    log_weights = np.asarray(run.log_weights)
    num = len(log_weights)
    if rule == "sample":
        if key is None:
            raise ArgumentError("key: rule 'sample' draws an answer and needs a key or an integer seed.")
        return int(jax.random.categorical(as_key(key, argument="key"), run.log_weights))
    if rule in ("vote", "majority", "score") and by is None:
        raise ArgumentError(f"by: rule {rule!r} needs a function of the state{'s' if rule == 'score' else ''}.")
    weights = np.exp(log_weights - log_weights.max())
    if rule in ("vote", "majority"):
        assert by is not None
        labels = [_hashable(by(state_at(run.states, i))) for i in range(num)]
        return heaviest_vote(labels, weights if rule == "vote" else (weights > 0).astype(float), weights)
    if rule == "score":
        assert by is not None
        scores = np.asarray(by(run.states), float)
        if scores.shape != (num,):
            raise ArgumentError(f"by: expected one score for each of {num} states, found shape {scores.shape}.")
        return int(np.argmax(np.where(log_weights > -np.inf, scores, -np.inf)))
    if rule == "first":
        done = np.asarray(run.step_done)
        lineages = np.asarray(run.lineages())
        along = np.take_along_axis(done, lineages, axis=1)
        lengths = np.where(along.any(axis=0), along.argmax(axis=0), len(along))
        lengths = np.where(log_weights > -np.inf, lengths, len(along) + 1)
        log_weights = np.where(lengths == lengths.min(), log_weights, -np.inf)
    return int(np.argmax(log_weights))


def heaviest_vote(labels: list[Hashable], votes: np.ndarray, weights: np.ndarray) -> int:
    """Index of the heaviest member of the label with most votes; the label met first wins a tie."""
    totals: dict[Hashable, float] = {}
    for label, vote in zip(labels, votes, strict=True):
        totals[label] = totals.get(label, 0.0) + float(vote)
    best = max(totals, key=lambda label: totals[label])
    return int(np.argmax([w if label == best else -1.0 for label, w in zip(labels, weights, strict=True)]))


def select_best(scores: Float[Array, " answers"]) -> Int[Array, ""]:
    """Best-of-k: the index of the largest score."""
    return jnp.argmax(scores)


def select_softmax(key: Array, scores: Float[Array, " answers"], temperature: Float[Array, ""]) -> Int[Array, ""]:
    """An index drawn in proportion to exp(score / temperature)."""
    return jax.random.categorical(key, scores / temperature)


def state_at(states: Any, index: int) -> Any:
    """One state of a population."""
    return states[index] if isinstance(states, list) else jax.tree.map(lambda a: a[index], states)


def _hashable(label: Any) -> Hashable:
    return label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
