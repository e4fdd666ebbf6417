"""Which model do people follow? Log evidence of every subject under every model, Bayes factors, random effects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError, UnknownNameError
from probinf.predictive_coding.evidence import SubjectModel, subject_evidence
from probinf.random import as_key

_DRAWS_OF_FREQUENCIES = 100_000


@dataclasses.dataclass(frozen=True)
class RandomEffects:
    """How common each of M models is among people.

    Attributes:
        frequencies: posterior mean share of people who follow each model, (M,).
        exceedance: probability that the model is more common than every other, (M,).
        probabilities: of each model for each subject, (S, M).
    """

    frequencies: np.ndarray
    exceedance: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Evidence of M models for S subjects.

    Attributes:
        names: of the models.
        log_evidence: nats, (S, M).
        standard_error: of these, nats, (S, M); NaN for one run.
    """

    names: tuple[str, ...]
    log_evidence: np.ndarray
    standard_error: np.ndarray

    def log_bayes_factors(self, model: str, other: str) -> np.ndarray:
        """Log evidence of one model minus that of another, nats, (S,); their sum is the group's."""
        for name in (model, other):
            if name not in self.names:
                raise UnknownNameError(name, self.names, "model", "this comparison")
        return self.log_evidence[:, self.names.index(model)] - self.log_evidence[:, self.names.index(other)]

    def probabilities(self) -> np.ndarray:
        """Posterior probability of each model for each subject, all models equally likely before, (S, M)."""
        return _softmax(self.log_evidence)

    def random_effects(self) -> RandomEffects:
        """People may follow different models, whose shares have a uniform Dirichlet prior.

        The posterior Dirichlet is the fixed point of the variational updates; the exceedance probabilities are shares
        of draws from it (with a fixed seed, standard error below 0.002).

        References:
            Stephan, Penny, Daunizeau, Moran & Friston (2009), NeuroImage 46:1004, equations 9 to 16.
        """
        from scipy.special import digamma

        counts = np.ones(len(self.names))
        for _ in range(10_000):
            shares = _softmax(self.log_evidence + digamma(counts)[None])
            before, counts = counts, 1.0 + shares.sum(axis=0)
            if np.abs(counts - before).max() < 1e-9:
                break
        draws = np.random.default_rng(0).dirichlet(counts, _DRAWS_OF_FREQUENCIES)
        wins = np.bincount(draws.argmax(axis=1), minlength=len(counts)) / len(draws)
        return RandomEffects(counts / counts.sum(), wins, _softmax(self.log_evidence + digamma(counts)[None]))

    def __repr__(self) -> str:
        found, total = self.random_effects(), self.log_evidence.sum(axis=0)
        lines = [f"ModelComparison({len(self.log_evidence)} subjects, {len(self.names)} models)"]
        lines += [
            f"  {name}: log evidence of the group {total[k]:.2f} nats, best for {int((best == k).sum())}, share "
            f"{found.frequencies[k]:.3f}, exceedance {found.exceedance[k]:.3f}"
            for best in [self.log_evidence.argmax(axis=1)]
            for k, name in enumerate(self.names)
        ]
        return "\n".join(lines)


def compare_models(
    models: Mapping[str, SubjectModel],
    data: Any,
    responses: Any = None,
    *,
    seed: int | jax.Array = 0,
    **settings: Any,
) -> ModelComparison:
    """Log evidence of each model for each subject; `data`, `responses` and `settings` as in `subject_evidence`.

    Raises:
        ArgumentError: fewer than two models, and as `subject_evidence`.

    Example:
        >>> sigmoid = UnitSquareSigmoid("u")
        >>> models = {
        ...     "learns": SubjectModel(binary_hgf(2), sigmoid, {"x2.tonic_volatility": dist.Normal(-3.0, 1.0)}),
        ...     "adapts": SubjectModel(binary_hgf(3), sigmoid, {"x3.tonic_volatility": dist.Normal(-4.0, 1.0)}),
        ... }
        >>> compare_models(models, outcomes, decisions).random_effects().exceedance
    """
    check_models(models)
    keys = jax.random.split(as_key(seed), len(models))
    found = [
        subject_evidence(m, data, responses, seed=k, **settings) for m, k in zip(models.values(), keys, strict=True)
    ]
    return ModelComparison(
        tuple(models),
        np.stack([e.log_evidence for e in found], axis=1),
        np.stack([e.standard_error for e in found], axis=1),
    )


def check_models(models: Mapping[str, SubjectModel]) -> None:
    """Raise unless these are two or more models by name."""
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ArgumentError("models: expected a dictionary of two models or more, from names to SubjectModel.")
    for name, model in models.items():
        if not isinstance(model, SubjectModel):
            raise ArgumentError(f"models[{name!r}]: expected a SubjectModel, found {type(model).__name__}.")


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
