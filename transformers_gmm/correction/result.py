"""Weighted draws that stand for the target exactly, in the limit, and how far they can be trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from probinf.claims import Claim
from probinf.errors import ModelError
from probinf.inference.posterior import Posterior
from probinf.representations.mixture import GaussianMixture


@dataclasses.dataclass(frozen=True, repr=False)
class Correction:
    """What became of a mixture.

    Attributes:
        draws: (n, d) unconstrained vectors.
        log_weights: (n,) nats, unnormalised.
        log_evidence: log of the estimated integral of the target, nats.
        log_evidence_sd: its standard error, nats, or None.
        pareto_k: shape of the tail of the mixture's importance weights; small is good.
        method: "importance sampling" or "tempered SMC".
        evidence_claim: what holds for exp(log_evidence).
        claim: what holds for expectations: consistent.
        warnings: reasons for caution.
        values: draws by site in the sites' own spaces, where the target is a program.
    """

    draws: np.ndarray
    log_weights: np.ndarray
    log_evidence: float
    log_evidence_sd: float | None
    pareto_k: float
    method: str
    evidence_claim: Claim
    claim: Claim = Claim.CONSISTENT
    warnings: tuple[str, ...] = ()
    values: Mapping[str, np.ndarray] | None = None

    @property
    def weights(self) -> np.ndarray:
        """(n,), summing to one."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        return weights / weights.sum()

    @property
    def ess(self) -> float:
        """Effective sample size of the weights."""
        return float(1.0 / np.sum(self.weights**2))

    @property
    def is_reliable(self) -> bool:
        """Whether the estimates can be trusted: the weights' tail is light enough, or tempering replaced them."""
        return bool(self.method != "importance sampling" or self.pareto_k <= pareto_k_limit(len(self.log_weights)))

    @property
    def mean(self) -> np.ndarray:
        """(d,), unconstrained."""
        return self.weights @ self.draws

    @property
    def cov(self) -> np.ndarray:
        """(d, d), unconstrained."""
        gaps = self.draws - self.mean
        return (self.weights[:, None] * gaps).T @ gaps

    def expectation(self, function: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Self-normalised estimate of E f(x) for a function of the draws (n, d) to (n, ...)."""
        return np.tensordot(self.weights, np.asarray(function(self.draws)), axes=1)

    def mixture(self, k: int, key: int | jax.Array = 0) -> GaussianMixture:
        """A mixture of `k` components fitted to the weighted draws by expectation maximisation."""
        return GaussianMixture.from_samples(self.draws, self.log_weights, k, key)

    def posterior(self) -> Posterior:
        """As a `Posterior` with named draws in their own spaces.

        Raises:
            ModelError: the target is a plain density and has no sites.
        """
        if self.values is None:
            raise ModelError("posterior: the target was a density of vectors; correct a program to get named draws.")
        return Posterior(
            draws={name: np.asarray(value)[None] for name, value in self.values.items()},
            log_weights=self.log_weights[None],
            log_evidence=self.log_evidence,
            log_evidence_sd=self.log_evidence_sd,
            method=f"a mixture corrected by {self.method}",
            claim=str(self.claim),
            warnings=self.warnings,
        )

    def __repr__(self) -> str:
        sd = "" if self.log_evidence_sd is None else f" ± {self.log_evidence_sd:.2g}"
        lines = [
            f"Correction by {self.method}: {len(self.log_weights)} draws, effective {self.ess:.0f}, "
            f"Pareto k {self.pareto_k:.2f}, log evidence {self.log_evidence:.5g}{sd} ({self.evidence_claim})",
            *self.warnings,
        ]
        return "\n".join(lines)


def pareto_k_limit(num_draws: int) -> float:
    """The largest Pareto k at which so many importance weights give estimates to rely on.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72), section 3.2.4.
    """
    return min(1.0 - 1.0 / math.log10(max(num_draws, 11)), 0.7)


def pareto_k(log_weights: np.ndarray) -> float:
    """Shape of the generalised Pareto law of the largest weights (by arviz-stats); -inf where all are equal."""
    finite = log_weights[np.isfinite(log_weights)]
    if finite.size < 2 or np.ptp(finite) < 1e-9 * max(1.0, np.abs(finite).max()):
        return -np.inf
    from arviz_stats.base.array import array_stats

    # arviz-stats takes log likelihoods, whose negatives are the log weights of leave-one-out, and finite numbers; what
    # weighs nothing is far below the tail that is fitted.
    return float(array_stats.psislw(-np.maximum(log_weights, finite.min() - 700.0))[1])
