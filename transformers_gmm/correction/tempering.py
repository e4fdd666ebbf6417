"""From a mixture to the target by tempered SMC, for mixtures whose importance weights cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.claims import Claim
from probinf.language.program import Program, model
from probinf.language.statements import factor, sample
from probinf.random import as_key
from probinf.representations.mixture import GaussianMixture
from smc.tempered import TemperedSMC
from transformers_gmm.correction.importance import constrained
from transformers_gmm.correction.result import Correction
from transformers_gmm.correction.target import Target, as_target


@model
def _bridge(log_density: Callable[..., Any], args: tuple[Any, ...], parameters: tuple[Any, Any, Any]) -> Any:
    """The mixture as prior and target over mixture as likelihood: tempering it is the path q^(1-t) p^t."""
    weights, means, scale_tril = parameters
    q = GaussianMixture(weights, means, scale_tril=scale_tril)
    x = sample("x", q.as_distribution())
    factor("target over mixture", jnp.asarray(log_density(x, *args)) - q.log_prob(x))
    return x


def temper(
    q: GaussianMixture,
    target: Target | Program | Callable[..., Any],
    key: int | jax.Array,
    *,
    sampler: TemperedSMC | None = None,
    pareto_k: float = np.nan,
) -> Correction:
    r"""Take draws of a mixture to the target along $q^{1-t} p^t$, t from 0 to 1.

    A mixture that is nearly right needs one or two temperatures; one that is wrong costs more, and is still only a
    start. Evidence and expectations are consistent (the ladder is fitted to the particles).

    Args:
        q: over the target's unconstrained vectors.
        target: a function x (d,) -> unnormalised log density, a `Target` with data, or a program with data given; with
            gradients unless `sampler` moves by random walk.
        key: seed or key.
        sampler: settings; by default 1024 particles.
        pareto_k: of the mixture's importance weights, for the record.

    Raises:
        InferenceError: the target is NaN at a particle or zero at all of them, or the temperature stalls.
    """
    target = as_target(target, q.dim)
    sampler = TemperedSMC() if sampler is None else sampler
    bridge = _bridge(target.log_density, target.args, (q.weights, q.means, q.scale_tril))
    found = sampler.run(bridge, as_key(key, argument="key"))
    x = found["x"].reshape(-1, q.dim)
    log_weights = np.zeros(len(x)) if found.log_weights is None else found.log_weights.reshape(-1)
    assert found.log_evidence is not None
    return Correction(
        draws=x,
        log_weights=np.asarray(log_weights - log_weights.max(), np.float64),
        log_evidence=float(found.log_evidence),
        log_evidence_sd=found.log_evidence_sd,
        pareto_k=float(pareto_k),
        method="tempered SMC",
        evidence_claim=Claim.CONSISTENT,
        warnings=tuple(found.warnings),
        values=constrained(target, x),
    )
