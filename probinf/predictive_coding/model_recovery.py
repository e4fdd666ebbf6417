"""Model recovery: subjects simulated from every model, every model's evidence for all of them, and what is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.predictive_coding.comparison import ModelComparison, check_models, compare_models
from probinf.predictive_coding.evidence import SubjectModel
from probinf.predictive_coding.simulated_subjects import simulate_responses
from probinf.random import as_key


@dataclasses.dataclass(frozen=True)
class ModelRecovery:
    """A model recovery study.

    Attributes:
        names: of the M models.
        comparison: of all M * S subjects, those of the first model first.
    """

    names: tuple[str, ...]
    comparison: ModelComparison

    def confusion(self) -> np.ndarray:
        """Share of the subjects simulated by a model (rows) for whom a model (columns) has most evidence, (M, M)."""
        count = len(self.names)
        best = self.comparison.log_evidence.argmax(axis=1).reshape(count, -1)
        return np.stack([np.bincount(row, minlength=count) / row.size for row in best])

    def inversion(self) -> np.ndarray:
        """Probability that a model (rows) generated a subject for whom a model (columns) won; NaN: it never did."""
        confusion = self.confusion()
        with np.errstate(invalid="ignore"):
            return confusion / confusion.sum(axis=0, keepdims=True)

    def calibration(self) -> float:
        """Mean log probability that the subjects' true models are given, nats; 0 is best, -log M is guessing."""
        probabilities = self.comparison.probabilities().reshape(len(self.names), -1, len(self.names))
        return float(np.mean([np.log(probabilities[k, :, k]) for k in range(len(self.names))]))

    def __repr__(self) -> str:
        width = max(len(name) for name in self.names) + 2
        lines = [f"ModelRecovery({len(self.comparison.log_evidence) // len(self.names)} subjects of each model)"]
        lines.append(" " * (width + 10) + "".join(f"{name:>{width}}" for name in self.names) + "   chosen")
        lines += [
            f"simulated {name:<{width}}" + "".join(f"{share:{width}.3f}" for share in row)
            for name, row in zip(self.names, self.confusion(), strict=True)
        ]
        return "\n".join(lines)


def recover_models(
    models: Mapping[str, SubjectModel],
    data: Any,
    num_subjects: int,
    *,
    seed: int | jax.Array = 0,
    **settings: Any,
) -> ModelRecovery:
    """Simulate subjects with parameters from each model's priors, compare all models for all of them.

    One call of the filter for each model simulates, one tempered program for each model compares.

    Args:
        models: by name; all with a response model.
        data: shape (T,), or a dictionary of such, seen by every subject.
        num_subjects: subjects of each model, S.
        seed: an integer or a key.
        settings: `num_particles`, `num_moves`, `num_runs` of `subject_evidence`.

    Raises:
        ArgumentError: fewer than two models, or one without a response model or without a number of its network among
            its priors.

    References:
        Wilson & Collins (2019), Ten simple rules for the computational modeling of behavioral data, eLife 8:e49547.
    """
    check_models(models)
    count = positive_integer("num_subjects", num_subjects)
    key_simulate, key_compare = jax.random.split(as_key(seed))
    told = []
    for key, (name, model) in zip(jax.random.split(key_simulate, len(models)), models.items(), strict=True):
        if model.response is None:
            raise ArgumentError(f"models[{name!r}]: expected a response model, since responses are simulated.")
        key_responses, *keys = jax.random.split(key, len(model.priors) + 1)
        truth = {a: prior.sample(k, (count,)) for k, (a, prior) in zip(keys, model.priors.items(), strict=True)}
        responses = simulate_responses(model.network, model.response, truth, data, key_responses)
        if responses.ndim == 1:
            raise ArgumentError(f"models[{name!r}], priors: expected at least one number of the network among them.")
        told.append(responses)
    comparison = compare_models(models, data, jnp.concatenate(told, axis=1), seed=key_compare, **settings)
    return ModelRecovery(tuple(models), comparison)
