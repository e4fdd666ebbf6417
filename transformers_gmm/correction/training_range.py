"""Where a network was trained: ranges of what it saw, and whether a problem lies outside of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probinf.errors import ArgumentError, DataError, ProbinfWarning
from transformers_gmm.examples import Problem


class OutOfRangeWarning(ProbinfWarning):
    """A network was asked about a problem unlike those it was trained on; its answer was corrected, or should be."""


@dataclasses.dataclass(frozen=True)
class TrainingRange:
    """A summary of the training problems' features, small enough for a checkpoint's header.

    A problem is outside if a feature lies outside of its range, or if all together lie too far from their mean in
    Mahalanobis distance. Limits are order statistics of the n problems held out of the fit, so that a fresh training
    problem falls outside with probability at most `false_alarm_rate`, whatever the features' law: each of the 2F + 1
    one-sided limits is exceeded with probability r / (n + 1), r the rank of the limit counted from the end.

    Attributes:
        names: of the F features.
        low, high: (F,).
        mean: (F,).
        whitener: (F, F), inverse of a factor of the covariance.
        distance: the largest Mahalanobis distance inside.
        false_alarm_rate: bound on the share of training problems outside.
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    whitener: np.ndarray
    distance: float
    false_alarm_rate: float

    @classmethod
    def fit(cls, features: Any, names: Sequence[str] | None = None, *, level: float = 0.01) -> TrainingRange:
        """Summarise training problems.

        Args:
            features: (m, F), NaN where a feature is absent. Half of the rows fit mean and covariance, the other half
                the limits.
            names: of the features.
            level: aim for this share of training problems outside; with too few rows it is as near as they allow.

        Raises:
            DataError: values are infinite, or there are fewer than four rows.
        """
        table = _table(features)
        if np.isinf(table).any() or len(table) < 4:
            raise DataError(f"features: expected at least four finite rows (NaN where absent), found {table.shape}.")
        names = [f"feature {i}" for i in range(table.shape[1])] if names is None else names
        if len(names) != table.shape[1]:
            raise ArgumentError(f"names: expected {table.shape[1]} names, found {len(names)}.")
        first, rest = table[::2], table[1::2]
        num, size = rest.shape
        rank = max(1, int(level * (num + 1) / (2 * size + 1)))
        present = ~np.isnan(first)
        counts = np.maximum(present.sum(axis=0), 1)
        mean = np.where(present, first, 0.0).sum(axis=0) / counts
        gaps = np.where(present, first - mean, 0.0)
        cov = gaps.T @ gaps / len(first)
        # A feature that never varies has no distance of its own; its range alone guards it.
        spread = np.sqrt(np.diag(cov))
        scale = np.where(spread > 0.0, spread, 1.0)
        cov = cov / np.outer(scale, scale) + 1e-6 * np.eye(size)
        whitener = np.linalg.inv(np.linalg.cholesky(cov)) / scale
        # Absent features are within any range.
        low = np.sort(np.where(np.isnan(rest), np.inf, rest), axis=0)[rank - 1]
        high = np.sort(np.where(np.isnan(rest), -np.inf, rest), axis=0)[-rank]
        away = np.sort(_distances(rest, mean, whitener))[-rank]
        rate = min(1.0, (2 * size + 1) * rank / (num + 1))
        return cls(tuple(names), low, high, mean, whitener, float(away), rate)

    def outside(self, features: Any) -> list[tuple[str, ...]]:
        """For each row of features (B, F), why it is outside: names of features, "all together", or nothing.

        Raises:
            ArgumentError: another number of features.
        """
        table = _table(features)
        if table.shape[1] != len(self.names):
            raise ArgumentError(f"features: expected {len(self.names)} of them, found {table.shape[1]}.")
        beyond = (table < self.low) | (table > self.high) | np.isinf(table)
        far = ~(_distances(table, self.mean, self.whitener) <= self.distance)
        return [
            tuple(n for n, out in zip(self.names, row, strict=True) if out) + (("all together",) if distant else ())
            for row, distant in zip(beyond, far, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; infinite limits (of features that were never present) are None."""
        plain = dataclasses.asdict(self) | {"names": list(self.names)}
        return {k: _plain(v) if isinstance(v, np.ndarray) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TrainingRange:
        """The inverse of `to_dict`."""
        low, high, mean, whitener = (np.asarray(stored[n], np.float64) for n in ("low", "high", "mean", "whitener"))
        return cls(
            tuple(stored["names"]),
            np.where(np.isnan(low), np.inf, low),
            np.where(np.isnan(high), -np.inf, high),
            mean,
            whitener,
            float(stored["distance"]),
            float(stored["false_alarm_rate"]),
        )


def problem_features(problem: Problem) -> tuple[np.ndarray, tuple[str, ...]]:
    """Features of a batch of problems, (B, F) and names: what the network reads, summarised over tokens.

    Of every source of context the mean, smallest and largest of each column over the tokens that are present (NaN where
    none is) and their share; of the base the mean and log spread in the frame, and of its tokens the mean.
    """
    base = problem.base
    location, scale = np.asarray(problem.location, np.float64), np.asarray(problem.scale, np.float64)
    columns: list[np.ndarray] = [(np.asarray(base.mean) - location) / scale]
    names = [f"base mean {i}" for i in range(base.dim)]
    columns.append(0.5 * np.log(np.asarray(base.variance) / scale**2))
    names += [f"base log sd {i}" for i in range(base.dim)]
    weights = np.exp(np.asarray(base.log_weights, np.float64))
    columns.append(np.sum(weights[..., None] * np.asarray(problem.tokens), axis=-2))
    names += [f"component feature {i}" for i in range(problem.tokens.shape[-1])]
    for source in sorted(problem.context):
        tokens, mask = np.asarray(problem.context[source], np.float64), np.asarray(problem.mask[source])
        here = mask[..., None] & np.ones(tokens.shape, bool)
        count = here.sum(axis=-2)
        total = np.where(here, tokens, 0.0).sum(axis=-2)
        least = np.where(here, tokens, np.inf).min(axis=-2, initial=np.inf)
        most = np.where(here, tokens, -np.inf).max(axis=-2, initial=-np.inf)
        for what, value in (("mean", total / np.maximum(count, 1)), ("least", least), ("most", most)):
            columns.append(np.where(count > 0, value, np.nan))
            names += [f"{source} {i} {what}" for i in range(tokens.shape[-1])]
        columns.append(mask.mean(axis=-1, keepdims=True))
        names.append(f"{source} present")
    return np.concatenate(columns, axis=-1), tuple(names)


def _table(features: Any) -> np.ndarray:
    table = np.asarray(features, np.float64)
    if table.ndim == 1:
        table = table[None]
    if table.ndim != 2 or 0 in table.shape:
        raise ArgumentError(f"features: expected shape (B, F), found {table.shape}.")
    return table


def _distances(table: np.ndarray, mean: np.ndarray, whitener: np.ndarray) -> np.ndarray:
    """Mahalanobis distances of the rows; an absent feature stands at its mean."""
    gaps = np.where(np.isnan(table), 0.0, table - mean)
    return np.sqrt(np.sum((gaps @ whitener.T) ** 2, axis=1))


def _plain(value: np.ndarray) -> Any:
    return np.where(np.isfinite(value), value.astype(object), np.array(None, object)).tolist()
