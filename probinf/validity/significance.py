"""p-values that hold at any sample size and as far out in the tail as the suite's budget reaches.

A p-value of 1e-9 from an asymptotic law is a guess: with 200 expected counts a cell's normal approximation is off by a
factor of ten there. Everything here is an inequality that is proved for finite samples, so that the stated false-alarm
rate is one. Every function returns a number p with P(p <= a) <= a under its null hypothesis.
"""

from __future__ import annotations

import numpy as np
import scipy.stats


def p_of_levels(levels: np.ndarray) -> float:
    """Independent uniform numbers? By the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's (1990) constant.

    p = 2 exp(-2 n D^2), D the Kolmogorov-Smirnov distance.

    Args:
        levels: (n,) numbers in [0, 1]; NaN counts as evidence against.
    """
    u = np.sort(np.asarray(levels, np.float64).reshape(-1))
    if not np.isfinite(u).all() or u[0] < 0 or u[-1] > 1:
        return 0.0
    steps = np.arange(len(u) + 1) / len(u)
    distance = max(float((steps[1:] - u).max()), float((u - steps[:-1]).max()))
    return float(min(1.0, 2.0 * np.exp(-2.0 * len(u) * distance**2)))


def p_of_counts(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Multinomial counts with these probabilities? Each cell by its exact binomial law, times the number of cells.

    Against one deviating cell this is as strong as a chi-square test, whose own law is not exact so far out.

    Args:
        counts: (cells,) integers.
        probabilities: (cells,) sum to one, to 1e-5; a count in a cell of probability zero gives p = 0.
    """
    counts, p = np.asarray(counts), np.asarray(probabilities, np.float64)
    if not abs(p.sum() - 1.0) <= 1e-5:
        return 0.0
    law = scipy.stats.binom(counts.sum(), np.clip(p, 0.0, 1.0))
    tails = np.minimum(law.cdf(counts), law.sf(counts - 1))
    return float(min(1.0, 2.0 * len(counts) * tails.min()))


def p_of_mean(x: np.ndarray, mean: float, bound: float | None) -> float:
    """Independent draws from [0, bound] with this mean? By betting (Waudby-Smith & Ramdas 2024, section 4).

    A gambler stakes a share of the capital on "above" or "below" before each draw. If the mean is right the capital is
    a non-negative martingale, which reaches 1/a with probability at most a (Ville 1939). No assumption but the range.

    Args:
        x: (n,) draws in the order in which they were made; NaN counts as evidence against.
        mean: what is claimed, positive.
        bound: the largest value x can take, or None if nothing is known: then only means that are too large are found,
            for which x >= 0 is enough.
    """
    x = np.asarray(x, np.float64).reshape(-1)
    if not np.isfinite(x).all() or x.min() < 0 or (bound is not None and x.max() > bound * (1 + 1e-9)):
        return 0.0
    gain = x / mean - 1.0  # at least -1
    # The stakes may depend on the past only: the variance of what was seen before, one at the beginning.
    seen = np.concatenate([[0.0], np.cumsum(gain**2)[:-1]])
    stake = np.sqrt(2 * np.log(2e9) / len(x) * np.arange(1, len(x) + 1) / (1.0 + seen))
    above = np.cumsum(np.log1p(np.minimum(stake, 0.5) * gain))
    if bound is None:
        return float(min(1.0, np.exp(-max(above.max(), 0.0))))
    below = np.cumsum(np.log1p(-np.minimum(stake, 0.5 / max(bound / mean - 1.0, 1e-12)) * gain))
    capital = np.logaddexp(above, below) - np.log(2.0)
    return float(min(1.0, np.exp(-max(capital.max(), 0.0))))
