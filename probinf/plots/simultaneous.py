"""Bands that hold a whole histogram, or a whole distribution function, of independent uniform numbers.

Counts of n independent uniforms below growing points form a Markov chain: given k of n below z_i, those below z_{i+1}
are k plus a binomial of n - k with probability (z_{i+1} - z_i) / (1 - z_i). So the probability that all counts, or all
increments, stay within bounds is a short recursion, and the bounds are widened until it is what was asked for.

References:
    Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison, sections 2.2 and 2.3 (the recursion for counts below).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np


@functools.lru_cache(maxsize=64)
def histogram_band(num: int, bins: int, coverage: float) -> tuple[int, int]:
    """Lowest and highest count that all equal bins of `num` uniforms keep to, with probability at least `coverage`."""
    points = np.arange(1, bins + 1) / bins

    def bounds(level: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = _binomial_bounds(level, num, np.array([1.0 / bins]))
        return np.repeat(low, bins), np.repeat(high, bins)

    low, high = _widened(bounds, lambda low, high: probability(num, points, low, high, increments=True), coverage)
    return int(low[0]), int(high[0])


@functools.lru_cache(maxsize=64)
def ecdf_band(num: int, num_points: int, coverage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points z, and the lowest and highest fraction of `num` uniforms below each that all keep to together."""
    points = np.arange(1, num_points + 1) / num_points

    def bounds(level: float) -> tuple[np.ndarray, np.ndarray]:
        return _binomial_bounds(level, num, points)

    low, high = _widened(bounds, lambda low, high: probability(num, points, low, high, increments=False), coverage)
    return points, low / num, high / num


def probability(num: int, points: np.ndarray, low: np.ndarray, high: np.ndarray, *, increments: bool) -> float:
    """Probability that the counts of `num` uniforms below all `points` lie within `low` and `high`, both included.

    Args:
        num: how many uniforms.
        points: increasing, the last one 1; shape (k,).
        low: shape (k,).
        high: shape (k,).
        increments: bound the counts between neighbouring points instead of those below each.
    """
    from scipy.special import gammaln

    # Counts that alone have a chance of 1e-13 are left out: the bins of a histogram do not bound their sum.
    sane_low, sane_high = _binomial_bounds(2e-13, num, points)
    log_factorial = gammaln(np.arange(num + 1) + 1.0)
    counts, chances, reached = np.array([0]), np.array([1.0]), 0.0
    for point, least, most, floor, ceiling in zip(points, low, high, sane_low, sane_high, strict=True):
        share = min((point - reached) / (1.0 - reached), 1.0)
        first, last = (counts[0] + least, counts[-1] + most) if increments else (least, most)
        after = np.arange(int(max(first, floor, counts[0])), int(min(last, ceiling)) + 1)
        new = after[None] - counts[:, None]  # of num - counts, each falls before `point` with probability `share`
        legal = (new >= max(least, 0)) & (new <= most) if increments else new >= 0
        rest = num - after[None]
        fallen = np.where(legal, new, 0)
        log_pmf = log_factorial[num - counts][:, None] - log_factorial[fallen] - log_factorial[rest]
        log_pmf = log_pmf + fallen * np.log(share)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_pmf = log_pmf + np.where(rest > 0, rest * np.log1p(-share), 0.0)
        chances = chances @ np.exp(np.where(legal, log_pmf, -np.inf))
        if not chances.size:
            return 0.0
        counts, reached = after, point
    return float(chances.sum())


def _binomial_bounds(level: float, num: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central bounds that hold each binomial count with probability at least 1 - `level`."""
    from scipy.stats import binom

    return binom.ppf(level / 2, num, points), binom.ppf(1.0 - level / 2, num, points)


def _widened(
    bounds: Callable[[float], tuple[np.ndarray, np.ndarray]],
    chance: Callable[[np.ndarray, np.ndarray], float],
    coverage: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The narrowest bounds that hold everything together with probability `coverage`, by bisection of log level."""
    low, high = np.log(1e-9), np.log(1.0 - coverage)  # one alone needs the second; many need less
    for _ in range(12):
        middle = 0.5 * (low + high)
        if chance(*bounds(float(np.exp(middle)))) >= coverage:
            low = middle
        else:
            high = middle
    return bounds(float(np.exp(low)))
