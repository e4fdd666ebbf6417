"""When an answer is corrected, and how: the stated rule."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax

from probinf.language.program import Program
from probinf.random import as_key
from probinf.representations.mixture import GaussianMixture
from smc.tempered import TemperedSMC
from transformers_gmm.correction.importance import importance_sample
from transformers_gmm.correction.result import Correction
from transformers_gmm.correction.target import Target, as_target
from transformers_gmm.correction.tempering import temper
from transformers_gmm.correction.training_range import OutOfRangeWarning, TrainingRange


def correct(
    q: GaussianMixture,
    target: Target | Program | Callable[..., Any],
    key: int | jax.Array,
    *,
    num_draws: int = 2000,
    sampler: TemperedSMC | None = None,
) -> Correction:
    """Importance sampling from the mixture; tempered SMC from it where Pareto k says not to trust the weights.

    Args:
        q: over the target's unconstrained vectors.
        target: a function x (d,) -> unnormalised log density, a `Target` with data, or a program with data given.
        key: seed or key.
        num_draws: of importance sampling.
        sampler: settings of tempered SMC.

    Raises:
        InferenceError: the target is NaN at a draw, or zero at all of them.
    """
    target = as_target(target, q.dim)
    key_weigh, key_temper = jax.random.split(as_key(key, argument="key"))
    found = importance_sample(q, target, key_weigh, num_draws)
    if found.is_reliable:
        return found
    return temper(q, target, key_temper, sampler=sampler, pareto_k=found.pareto_k)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A network's answer after the rule.

    Attributes:
        mixture: the answer to use: the network's, or one fitted to the corrected draws.
        correction: the corrected draws, or None where the network's answer stands.
        reasons: why it was corrected; empty where it was not.
    """

    mixture: GaussianMixture
    correction: Correction | None = None
    reasons: tuple[str, ...] = ()


def answer(
    q: GaussianMixture,
    target: Target | Program | Callable[..., Any],
    key: int | jax.Array,
    *,
    features: Any,
    training: TrainingRange,
    num_probes: int = 200,
    num_draws: int = 2000,
    sampler: TemperedSMC | None = None,
) -> Answer:
    """The network's answer if it can be trusted, else a corrected one and a warning.

    The rule: an answer stands if (1) the problem's features lie in the training range and (2) the Pareto k of
    `num_probes` importance weights is at most `pareto_k_limit(num_probes)`. Otherwise it is corrected.

    Args:
        q: the network's answer.
        target: what it should be.
        key: seed or key.
        features: (F,) of this problem (`problem_features`).
        training: of the network.
        num_probes: evaluations of the target for (2); 0 leaves (2) out, and the target is not looked at in range.
        num_draws: of the correction.
        sampler: settings of tempered SMC.

    Warns:
        OutOfRangeWarning: the answer was corrected, and why.
    """
    target = as_target(target, q.dim)
    key_probe, key_correct = jax.random.split(as_key(key, argument="key"))
    (outside,) = training.outside(features)
    reasons = tuple(f"{name} outside of the training range" for name in outside)
    if not reasons and num_probes:
        probe = importance_sample(q, target, key_probe, num_probes)
        reasons = () if probe.is_reliable else (f"Pareto k {probe.pareto_k:.2f} of {num_probes} importance weights",)
    if not reasons:
        return Answer(q)
    found = correct(q, target, key_correct, num_draws=num_draws, sampler=sampler)
    warnings.warn(
        f"The network's answer was corrected by {found.method}: {'; '.join(reasons)}. The correction does not rest on "
        "the network; its speed does.",
        OutOfRangeWarning,
        stacklevel=2,
    )
    return Answer(found.mixture(q.num_components, key_correct), found, reasons)
