r"""The matrix-normal inverse-Wishart posterior of a linear model with several outputs.

$y = W^Tz + e,\; e \sim N(0, \Sigma),\; W\mid\Sigma \sim MN(0, \lambda^{-1}I, \Sigma),\; \Sigma \sim IW(\Psi_0, \nu_0)$.
From the moments of n examples: $\Lambda = \lambda I + \sum zz^T$, $M = \Lambda^{-1}\sum zy^T$,
$\Psi = \Psi_0 + \sum yy^T - M^T\Lambda M$, $\nu = \nu_0 + n$.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import multigammaln  # pyright: ignore[reportAttributeAccessIssue]

from continual.moments import Moments


class MatrixNormalPosterior(NamedTuple):
    """Posterior parameters in float64.

    Attributes:
        mean: M, (features, outputs).
        factor: lower Cholesky factor of Λ.
        scale: Ψ, (outputs, outputs).
        dof: ν.
        log_evidence: log p(Y | Z), nats: of all targets given all features.
    """

    mean: np.ndarray
    factor: np.ndarray
    scale: np.ndarray
    dof: float
    log_evidence: float


def posterior_of(moments: Moments, ridge: float, noise: float) -> MatrixNormalPosterior:
    r"""The posterior under $\nu_0 = k + 2$ and $\Psi_0$ = `noise` I, so that E[Σ] = `noise` I before any data.

    References:
        Gelman et al. (2013), Bayesian Data Analysis, 14.8 and 3.6; Minka (2000), Bayesian linear regression.
    """
    gram, cross, targets = moments.gram.exact(), moments.cross.exact(), moments.targets.exact()
    (num_features, outputs), count = cross.shape, int(moments.count)
    factor, _ = cho_factor(gram + ridge * np.eye(num_features), lower=True)
    factor = np.tril(factor)
    mean = cho_solve((factor, True), cross)
    scale = noise * np.eye(outputs) + targets - cross.T @ mean
    prior_dof = outputs + 2.0
    dof = prior_dof + count
    log_evidence = (
        -0.5 * count * outputs * np.log(np.pi)
        + multigammaln(dof / 2, outputs)
        - multigammaln(prior_dof / 2, outputs)
        + 0.5 * outputs * (num_features * np.log(ridge) - 2 * np.log(np.diag(factor)).sum())
        + 0.5 * prior_dof * outputs * np.log(noise)
        - 0.5 * dof * np.linalg.slogdet(scale)[1]
    )
    return MatrixNormalPosterior(mean, factor, (scale + scale.T) / 2, dof, float(log_evidence))
