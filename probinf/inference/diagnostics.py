"""R-hat, effective sample sizes and Monte Carlo errors of many scalars at once.

The definitions, and to rounding the numbers, are those of arviz-stats, which works through scalars one by one: for the
1500 states of a time series that takes six seconds, this under two.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.special
from jaxtyping import Float

_BLOCK = 64  # scalars at a time: the working set stays in cache


class Diagnostics(NamedTuple):
    """One value for each scalar; NaN where it cannot be computed.

    Attributes:
        r_hat: rank-normalised split R-hat, the larger of bulk and folded; needs two chains.
        ess_bulk: effective sample size of the bulk.
        ess_tail: the smaller effective sample size of the 5 % and 95 % quantiles.
        mcse_mean: Monte Carlo standard error of the mean.
        is_constant: all draws of all chains are equal.
        stuck_chains: number of chains whose draws are all equal.
    """

    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    mcse_mean: np.ndarray
    is_constant: np.ndarray
    stuck_chains: np.ndarray


def diagnose(draws: Float[np.ndarray, "chains draws scalars"]) -> Diagnostics:
    """Diagnostics of every scalar.

    Fewer than four draws, values that are not finite and constant scalars give NaN, never a pass.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-Normalization, Folding, and Localization.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # sorts and transforms release the interpreter
        blocks = list(pool.map(_diagnose, [draws[:, :, i : i + _BLOCK] for i in range(0, draws.shape[2], _BLOCK)]))
    return Diagnostics(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def rank_r_hat(draws: Float[np.ndarray, "chains draws scalars"]) -> Float[np.ndarray, " scalars"]:
    """The R-hat of `diagnose` alone, for decisions during a run; NaN where that is NaN.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-Normalization, Folding, and Localization, section 4.
    """
    x = np.ascontiguousarray(np.moveaxis(np.asarray(draws, np.float64), 2, 0))
    usable = np.isfinite(x).all(axis=(1, 2)) & (np.ptp(x.reshape(x.shape[0], -1), axis=1) > 0.0)
    r_hat = np.full(x.shape[0], np.nan)
    if x.shape[1] > 1 and x.shape[2] >= 4 and usable.any():
        r_hat[usable] = _larger_r_hat(*_normal_scores(split_chains(x[usable])))
    return r_hat


def _larger_r_hat(scores: np.ndarray, folded_scores: np.ndarray) -> np.ndarray:
    return np.maximum(_r_hat(scores), _r_hat(folded_scores))


def _diagnose(draws: np.ndarray) -> Diagnostics:
    x = np.ascontiguousarray(np.moveaxis(np.asarray(draws, np.float64), 2, 0))  # (scalars, chains, draws)
    num_scalars, num_chains, num_draws = x.shape
    spread = np.ptp(x, axis=2)
    stuck = np.sum(spread == 0.0, axis=1)
    is_constant = np.ptp(x.reshape(num_scalars, -1), axis=1) == 0.0
    nan = np.full(num_scalars, np.nan)
    usable = np.isfinite(x).all(axis=(1, 2)) & ~is_constant
    if num_draws < 4 or not usable.any():
        return Diagnostics(nan, nan.copy(), nan.copy(), nan.copy(), is_constant, stuck)
    good = x[usable]
    flat = good.reshape(good.shape[0], -1)
    scores, folded_scores = _normal_scores(split_chains(good))
    low, high = np.quantile(flat, [0.05, 0.95], axis=1)[:, :, None, None]
    tail = np.minimum(_ess(split_chains(1.0 * (good <= low))), _ess(split_chains(1.0 * (good <= high))))
    r_hat, ess_bulk, ess_tail, mcse_mean = (nan.copy() for _ in range(4))
    if num_chains > 1:
        r_hat[usable] = _larger_r_hat(scores, folded_scores)
    ess_bulk[usable] = _ess(scores)
    ess_tail[usable] = tail
    mcse_mean[usable] = flat.std(axis=1, ddof=1) / np.sqrt(_ess(split_chains(good)))
    return Diagnostics(r_hat, ess_bulk, ess_tail, mcse_mean, is_constant, stuck)


def split_chains(x: np.ndarray) -> np.ndarray:
    """Halves of chains as chains of their own: (scalars, chains, draws) to (scalars, 2 chains, draws // 2)."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, x.shape[2] - half :]], axis=1)


def _normal_scores(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of the ranks of x, and of |x - median|, over all chains (Blom's offset 3/8, ties share a rank).

    The second order is a merge of two runs of the first: no second sort.
    """
    flat = x.reshape(x.shape[0], -1)
    count = flat.shape[1]  # even: halves come in pairs
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    distance = np.abs(ordered - 0.5 * (ordered[:, count // 2 - 1] + ordered[:, count // 2])[:, None])
    runs = np.concatenate([np.arange(count // 2)[::-1], np.arange(count // 2, count)])
    merged = runs[np.argsort(distance[:, runs], axis=1, kind="stable")]
    scores = _scores_in_order(flat, order, ordered)
    folded_order = np.take_along_axis(order, merged, axis=1)
    folded = np.empty_like(flat)
    np.put_along_axis(folded, order, distance, axis=1)
    folded_scores = _scores_in_order(folded, folded_order, np.take_along_axis(distance, merged, axis=1))
    return scores.reshape(x.shape), folded_scores.reshape(x.shape)


def _scores_in_order(flat: np.ndarray, order: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Scores from sorted values: equal ones, which rejected moves leave behind, share the middle of their places."""
    count = flat.shape[1]
    table = scipy.special.ndtri((np.arange(2 * count - 1) / 2 + 0.625) / (count + 0.25))  # by twice the place
    differs = ordered[:, 1:] != ordered[:, :-1]
    if differs.all():
        twice = np.broadcast_to(2 * np.arange(count), flat.shape)
    else:
        place, edge = np.arange(count), np.ones((flat.shape[0], 1), bool)
        first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0), axis=1)
        last = np.where(np.hstack([differs, edge]), place, count)
        twice = first + np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    scores = np.empty_like(flat)
    np.put_along_axis(scores, order, table[twice], axis=1)
    return scores


def _r_hat(x: np.ndarray) -> np.ndarray:
    count = x.shape[2]
    between = count * np.var(x.mean(axis=2), axis=1, ddof=1)
    within = np.mean(np.var(x, axis=2, ddof=1), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + count - 1) / count)


def _ess(x: np.ndarray) -> np.ndarray:
    """Effective sample size of (scalars, chains, draws) by Geyer's initial monotone sequence.

    A constant (an indicator without an exception) counts as independent draws, as in arviz-stats.
    """
    num_scalars, num_chains, count = x.shape
    total = num_chains * count
    if count < 4:
        return np.full(num_scalars, np.nan)
    means = x.mean(axis=2)
    size = scipy.fft.next_fast_len(2 * count, real=True)
    spectrum = np.asarray(scipy.fft.rfft(x - means[:, :, None], n=size, axis=2))
    power = np.sum(np.real(spectrum * np.conj(spectrum)), axis=1)  # summing over chains first saves their inverses
    covariance = np.asarray(scipy.fft.irfft(power, n=size, axis=1))[:, :count] / (count * num_chains)
    within = covariance[:, 0] * count / (count - 1.0)
    variance = covariance[:, 0] + (np.var(means, axis=1, ddof=1) if num_chains > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1.0 - (within[:, None] - covariance) / variance[:, None]
    rho[:, 0] = 1.0
    num_pairs = max((count - 1) // 2, 1)
    even, odd = rho[:, 0 : 2 * num_pairs : 2], rho[:, 1 : 2 * num_pairs : 2]
    pairs = even + odd
    negative = ~(pairs > 0.0)
    negative[:, -1] = True
    last = np.argmax(negative, axis=1)  # the first pair that is not positive
    monotone = np.minimum.accumulate(pairs, axis=1)
    kept = np.where(np.arange(num_pairs)[None, :] < last[:, None], monotone, 0.0)
    rows = np.arange(num_scalars)
    tau = -1.0 + 2.0 * kept.sum(axis=1) + np.maximum(even[rows, last], 0.0)
    ess = total / np.maximum(tau, 1.0 / np.log10(total))
    return np.where(np.ptp(x.reshape(num_scalars, -1), axis=1) == 0.0, float(total), ess)


def kish_ess(log_weights: np.ndarray) -> float:
    r"""Kish's effective sample size $(\sum w)^2 / \sum w^2$ of unnormalised log weights."""
    weights = np.exp(log_weights - np.max(log_weights))
    return float(weights.sum() ** 2 / np.sum(weights**2))


def weighted_quantiles(x: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Inverse of the weighted cdf of each column: (points, scalars), (points,), (levels,) to (levels, scalars)."""
    order = np.argsort(x, axis=0, kind="stable")
    ordered = np.take_along_axis(x, order, axis=0)
    cdf = np.cumsum(weights[order], axis=0)
    cdf /= cdf[-1:]
    # The smallest value whose cdf reaches the level; rounding must not push level 1 beyond the end.
    rows = np.minimum((cdf[None] < levels[:, None, None] - 1e-12).sum(axis=1), x.shape[0] - 1)
    return np.take_along_axis(ordered, rows, axis=0)


def merged_ess(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kish's effective sample size of each column of (points, scalars), equal values counted as one draw.

    Resampling repeats draws; a value that stands there fifty times is one piece of news, not fifty.
    """
    sizes = []
    for column in x.T:
        values, index = np.unique(column, return_inverse=True)
        merged = np.bincount(index, weights=weights, minlength=values.size)
        sizes.append(merged.sum() ** 2 / np.sum(merged**2))
    return np.array(sizes)


def distinct_values(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Number of different values of positive weight in each column of (points, scalars)."""
    ordered = np.sort(x[weights > 0.0], axis=0)
    return 1 + np.sum(ordered[1:] != ordered[:-1], axis=0)


def e_bfmi(energy: Float[np.ndarray, "chains draws"]) -> np.ndarray:
    """Energy Bayesian fraction of missing information of each chain; below 0.3 the tails are explored slowly.

    References:
        Betancourt (2016), Diagnosing Suboptimal Cotangent Disintegrations in Hamiltonian Monte Carlo.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1, ddof=1)
