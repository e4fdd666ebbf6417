"""`check_potential`: does a judge mean the same thing however it is asked?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from probinf.errors import ModelError
from smc.steering.potential import Potential


def check_potential(
    score: Callable[[list[Any]], Any],
    states: Sequence[Any],
    *,
    potential: Potential | None = None,
    successors: Callable[[Any], list[Any]] | None = None,
    next_scores: Callable[[Any], Any] | None = None,
    complete: Callable[[list[Any]], Any] | None = None,
    end_score: Callable[[Any], float] | None = None,
    tolerance: float = 1e-6,
) -> None:
    r"""Test a judge on examples before it steers anything.

    Always: one number for each state, no NaN, the same twice, the same alone as in a batch and in another order, and
    legal for the link. If given: weights of next tokens agree with the scores of prefixes, and the weight of ending
    agrees with the score of the complete answer,

    $$\text{next}(x)_k = \text{score}(x k) - \text{score}(x), \qquad
    \text{end}(x) = \text{complete}(x) - \text{score}(x).$$

    Args:
        score: list of states to (n,) scores, of prefixes; log weights where successors are checked.
        states: a few states as they occur in a run.
        potential: whose link the scores are for.
        successors: a state to its possible next states.
        next_scores: a state to the log weights of these, in order; needs `successors`.
        complete: list of states to (n,) log weights of the answers that end there.
        end_score: a state to the log weight of ending there; needs `complete`.
        tolerance: absolute and relative.

    Raises:
        ModelError: the first disagreement, with the state, what was found and what was expected.

    References:
        genlm-control, whose potentials are tested in the same three ways (Loula et al. 2025, arXiv 2504.13139).
    """
    states = list(states)
    if not states:
        raise ModelError("states: expected at least one state to test the judge on.")
    together = _scores("score", score, states)
    for i, value in enumerate(together):
        if np.isnan(value):
            raise ModelError(f"score: NaN for state {states[i]!r}.")
    if potential is not None:
        legal = np.asarray(potential.is_legal(jnp.asarray(together)))
        if not legal.all():
            i = int(np.argmin(legal))
            raise ModelError(
                f"score: {together[i]:g} for state {states[i]!r} is outside of what link {potential.link!r} takes."
            )
    _agree("asked twice", together, _scores("score", score, states), states, tolerance)
    alone = np.array([_scores("score", score, [state])[0] for state in states])
    _agree("asked alone instead of in a batch", together, alone, states, tolerance)
    _agree("asked in reverse order", together, _scores("score", score, states[::-1])[::-1], states, tolerance)
    if next_scores is not None and successors is not None:
        for state, value in zip(states, together, strict=True):
            children = successors(state)
            expected = _scores("score", score, children) - value
            found = np.asarray(next_scores(state), float)
            if found.shape != expected.shape:
                raise ModelError(f"next_scores: {found.shape} weights for the {len(children)} successors of {state!r}.")
            _agree(
                f"next_scores of {state!r} against the scores of its successors", expected, found, children, tolerance
            )
    if end_score is not None and complete is not None:
        expected = _scores("complete", complete, states) - together
        found = np.array([float(end_score(state)) for state in states])
        _agree("end_score against complete minus score", expected, found, states, tolerance)


def _scores(name: str, score: Callable[[list[Any]], Any], states: list[Any]) -> np.ndarray:
    found = np.asarray(score(states), float)
    if found.shape != (len(states),):
        raise ModelError(f"{name}: expected one number for each of {len(states)} states, found shape {found.shape}.")
    return found


def _agree(how: str, expected: np.ndarray, found: np.ndarray, states: list[Any], tolerance: float) -> None:
    close = np.isclose(found, expected, rtol=tolerance, atol=tolerance) | (np.isneginf(found) & np.isneginf(expected))
    if not close.all():
        i = int(np.argmin(close))
        raise ModelError(f"score: {how}, state {states[i]!r}: found {found[i]:.8g}, expected {expected[i]:.8g}.")
