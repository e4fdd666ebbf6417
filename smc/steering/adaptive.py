"""Best-of-N that decides from the scores so far whether another try is worth its price."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special, stats

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.random import as_key
from smc.steering.answers import state_at
from smc.steering.baselines import best_of_n
from smc.steering.box import BlackBox
from smc.steering.potential import CLIP, Potential


class Tries(NamedTuple):
    """What a sequence of tries found.

    Attributes:
        state: the best answer.
        score: its score.
        scores: scores of all tries in order.
        expected_gain: what one more try was expected to add to the score when it stopped.
        reason: "accepted", "not worth another try" or "max_samples".
        generator_calls: proposals.
        judge_calls: scores.
    """

    state: Any
    score: float
    scores: np.ndarray
    expected_gain: float
    reason: str
    generator_calls: int
    judge_calls: int


def expected_gain(values: np.ndarray) -> float:
    r"""E[(y - max)^+] of one more value y, under the normal model with the reference prior.

    The predictive law is $\bar y + s \sqrt{1 + 1/n}\, t_{n-1}$, and for a Student t with $\nu > 1$ degrees of freedom
    $E[(t - z)^+] = f(z) (\nu + z^2) / (\nu - 1) - z (1 - F(z))$.

    Args:
        values: (n,), n of at least 3.

    Raises:
        ArgumentError: fewer than 3 values.
    """
    n = len(values)
    if n < 3:
        raise ArgumentError(f"values: the spread of {n} values says nothing yet; expected at least 3.")
    scale = float(np.std(values, ddof=1) * np.sqrt(1 + 1 / n))
    if scale == 0:
        return 0.0
    z, freedom = (np.max(values) - np.mean(values)) / scale, n - 1
    law: Any = stats.t(freedom)
    return scale * float(law.pdf(z) * (freedom + z**2) / (freedom - 1) - z * law.sf(z))


def adaptive_best_of_n(
    box: BlackBox,
    seed: Any = 0,
    *,
    price: float,
    max_samples: int,
    max_steps: int,
    batch: int = 4,
    accept: float | None = None,
    scale: str = "score",
    aggregate: str = "model",
    executor: str = "traced",
) -> Tries:
    """Draw answers in batches until another one is not expected to raise the best score by its price.

    Args:
        box: generator and judge.
        seed: integer or key.
        price: of one more answer, in units of `scale`.
        max_samples: answers at most.
        max_steps: steps of an answer at most.
        batch: answers drawn together; at least 3 are drawn before the first decision.
        accept: a score that ends the search at once.
        scale: where scores are taken to be normal: "score", or "logit" for scores in [0, 1].
        aggregate: as in `Potential`.
        executor: "traced" or "host".

    Raises:
        ArgumentError: a negative price, an unknown scale, or fewer than 3 samples allowed.

    References:
        Weitzman (1979), Optimal search for the best alternative: stop once the best exceeds the reservation value.
    """
    for name, value in (("max_samples", max_samples), ("batch", batch)):
        positive_integer(name, value)
    if max_samples < 3:
        raise ArgumentError(f"max_samples: a decision takes at least 3 answers, found {max_samples}.")
    if not price >= 0:
        raise ArgumentError(f"price: expected a number of at least 0, found {price}.")
    if scale not in ("score", "logit"):
        raise ArgumentError(f"scale: expected 'score' or 'logit', found {scale!r}.")
    key, potential = as_key(seed), Potential("exp", "final", aggregate)
    scores, calls = np.zeros(0), np.zeros(2, int)
    best: Any = None
    gain, round_ = np.inf, 0
    while True:
        run = best_of_n(
            box,
            jax.random.fold_in(key, round_),
            num_samples=min(batch, max_samples - len(scores)),
            max_steps=max_steps,
            potential=potential,
            executor=executor,
        )
        new = np.asarray(run.log_weights)  # the link "exp" at rate 1: the score itself
        if best is None or new.max() > scores.max():
            best = state_at(run.states, int(new.argmax()))
        scores, round_ = np.concatenate([scores, new]), round_ + 1
        calls += [int(run.generator_calls), int(run.judge_calls)]
        if len(scores) >= 3:
            finite = scores[scores > -np.inf]
            values = special.logit(np.clip(finite, CLIP, 1 - CLIP)) if scale == "logit" else finite
            gain = expected_gain(values) if len(values) >= 3 else np.inf
        if accept is not None and scores.max() >= accept:
            reason = "accepted"
        elif gain < price:
            reason = "not worth another try"
        elif len(scores) >= max_samples:
            reason = "max_samples"
        else:
            continue
        return Tries(best, float(scores.max()), scores, gain, reason, int(calls[0]), int(calls[1]))
