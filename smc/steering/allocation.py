r"""How many tries each prompt gets out of one budget, given what is known of its chance of success."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from scipy import special

from probinf.errors import ArgumentError


def expected_coverage(
    successes: Any, failures: Any, tries: Any, *, prior: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    r"""Chance that at least one of further tries succeeds.

    $$1 - E[(1 - p)^n] = 1 - B(a, b + n) / B(a, b), \qquad p \sim \mathrm{Beta}(a, b).$$

    Args:
        successes: (...) pilot tries that succeeded.
        failures: (...) pilot tries that failed.
        tries: (...) further tries n.
        prior: the two parameters of the beta prior of p.
    """
    a, b = np.asarray(successes, float) + prior[0], np.asarray(failures, float) + prior[1]
    return np.asarray(-np.expm1(special.betaln(a, b + np.asarray(tries, float)) - special.betaln(a, b)))


def allocate(
    successes: Any,
    failures: Any,
    budget: int,
    *,
    prior: tuple[float, float] = (0.5, 0.5),
    values: Any = None,
    costs: Any = None,
) -> np.ndarray:
    """Tries per prompt that maximise the expected number of prompts solved.

    Gives one try after the other to the prompt with the largest gain per cost. Coverage is concave in the number of
    tries, so with equal costs this is optimal; with unequal ones it is within one try of it.

    ```python
    smc.allocate([4, 1, 0], [0, 3, 4], budget=30)  # few for the first prompt, which is easy
    ```

    Args:
        successes: (prompts,) pilot tries that succeeded.
        failures: (prompts,) pilot tries that failed.
        budget: to be spent, in units of `costs`.
        prior: the beta prior of a prompt's chance.
        values: (prompts,) worth of each, 1 by default.
        costs: (prompts,) of one try, 1 by default.

    Returns:
        (prompts,) integers.

    Raises:
        ArgumentError: negative counts, budget, values or costs, or lengths that differ.

    References:
        Damani et al. (2024), Learning how hard to think: input-adaptive allocation of LM computation.
    """
    won, lost = np.asarray(successes, float), np.asarray(failures, float)
    worth = np.ones_like(won) if values is None else np.asarray(values, float)
    price = np.ones_like(won) if costs is None else np.asarray(costs, float)
    for name, array in (("successes", won), ("failures", lost), ("values", worth), ("costs", price)):
        if array.ndim != 1 or array.shape != won.shape or not (array >= 0).all():
            raise ArgumentError(f"{name}: expected {won.shape[:1]} non-negative numbers, found {array.tolist()}.")
    if not (price > 0).all():
        raise ArgumentError(f"costs: expected positive numbers, found {price.tolist()}.")
    if not budget >= 0 or min(prior) <= 0:
        raise ArgumentError(f"budget, prior: expected budget >= 0 and positive prior, found {budget}, {prior}.")
    # E[p (1 - p)^n] is the gain of try n + 1; it falls by the factor (b + n) / (a + b + n) each time.
    a, b = won + prior[0], lost + prior[1]
    counts, left = np.zeros(len(won), int), float(budget)
    queue = [(-w * g / c, i) for i, (w, g, c) in enumerate(zip(worth, a / (a + b), price, strict=True))]
    heapq.heapify(queue)
    while queue:
        gain, i = heapq.heappop(queue)
        if price[i] > left:
            continue
        left -= price[i]
        counts[i] += 1
        n = counts[i]
        heapq.heappush(queue, (gain * (b[i] + n - 1) / (a[i] + b[i] + n), i))
    return counts
