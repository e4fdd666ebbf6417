"""Scores of predicted class probabilities against labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_TINY = 1e-30  # float32 softmax may underflow to 0


def accuracy(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of examples whose most probable class is the label; NaN without examples."""
    return float(np.mean(probabilities.argmax(axis=1) == labels)) if len(labels) else float("nan")


def negative_log_likelihood(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean of -log p(label), nats; probabilities below 1e-30 count as 1e-30."""
    if not len(labels):
        return float("nan")
    return float(-np.mean(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _TINY))))


def brier(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean squared distance between the probabilities and the one-hot label, from 0 to 2."""
    if not len(labels):
        return float("nan")
    errors = np.array(probabilities, np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return float(np.mean(np.sum(errors**2, axis=1)))


def calibration_error(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], bins: int = 15) -> float:
    """Expected calibration error of the most probable class, bins of equal width.

    References:
        Guo et al. (2017), On calibration of modern neural networks, Eq. 3.
    """
    if not len(labels):
        return float("nan")
    confidence = probabilities.max(axis=1)
    hit = (probabilities.argmax(axis=1) == labels).astype(float)
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, hit - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def entropy(probabilities: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    """Entropy of each row, nats."""
    p = np.asarray(probabilities, np.float64)
    return -np.sum(p * np.log(np.maximum(p, _TINY)), axis=1)


def auroc(negative: Float[np.ndarray, " n"], positive: Float[np.ndarray, " m"]) -> float:
    """Probability that a positive's score is above a negative's, ties counted half; NaN if a side is empty."""
    if not len(negative) or not len(positive):
        return float("nan")
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(negative) * len(positive)))
