"""Importance sampling with a mixture as proposal: unbiased evidence, consistent expectations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError, InferenceError
from probinf.language.program import Program
from probinf.random import as_key
from probinf.representations.mixture import GaussianMixture
from transformers_gmm.correction.result import Correction, pareto_k, pareto_k_limit
from transformers_gmm.correction.target import Target, as_target


def defensive(q: GaussianMixture, other: GaussianMixture | None = None, share: float = 0.1) -> GaussianMixture:
    r"""The proposal $(1 - a) q + a\,\text{other}$, whose weights are at most those of `other` over a.

    With the prior as `other` and a bounded likelihood, weights are bounded whatever q is.

    Args:
        q: the mixture.
        other: what to fall back on; by default one Gaussian with q's mean and four times its covariance.
        share: a.

    References:
        Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions, Technometrics.
    """
    if not 0.0 < share < 1.0:
        raise ArgumentError(f"share: expected a number strictly between 0 and 1, found {share}.")
    other = GaussianMixture.gaussian(q.mean, 4.0 * q.cov) if other is None else other
    return GaussianMixture(
        jnp.concatenate([(1.0 - share) * q.weights, share * other.weights]),
        jnp.concatenate([q.means, other.means]),
        scale_tril=jnp.concatenate([q.scale_tril, other.scale_tril]),
    )


def importance_sample(
    q: GaussianMixture, target: Target | Program | Callable[..., Any], key: int | jax.Array, num_draws: int = 2000
) -> Correction:
    r"""Weigh draws of a mixture by target over mixture.

    $$\hat Z = \frac1n \sum_i \frac{p(x_i)}{q(x_i)}$$

    is unbiased for the target's integral, and self-normalised expectations are consistent, for every q whose
    covariances are regular. `pareto_k` says whether n draws are enough.

    Args:
        q: over the target's unconstrained vectors.
        target: a function x (d,) -> unnormalised log density, a `Target` with data, or a program with data given.
        key: seed or key.
        num_draws: n.

    Raises:
        InferenceError: the target is NaN or +inf at a draw, or zero at all of them.

    Example:
        `importance_sample(mixture, model().given(y=data), key=0).log_evidence`
    """
    num_draws, target = positive_integer("num_draws", num_draws), as_target(target, q.dim)
    x, log_weights = _weigh(target.log_density, num_draws, q, target.args, as_key(key, argument="key"))
    log_w = np.asarray(log_weights, np.float64)
    wrong = np.isnan(log_w) | np.isposinf(log_w)
    if wrong.any():
        at = np.asarray(x)[np.argmax(wrong)]
        raise InferenceError(
            f"target: the log density of {target.name} is NaN or +inf at {int(wrong.sum())} of {num_draws} draws, "
            f"first at x = {at}. -inf is the legal zero."
        )
    if np.isneginf(log_w).all():
        raise InferenceError(
            f"target: {target.name} is zero at all {num_draws} draws of the mixture: it stands somewhere else, or is "
            "for other data. Use a wider one (`defensive`), or more draws."
        )
    top = log_w.max()
    weights = np.exp(log_w - top)
    mean = weights.mean()
    sd = float(weights.std(ddof=1) / (mean * np.sqrt(num_draws))) if num_draws > 1 else None
    k, limit = pareto_k(log_w), pareto_k_limit(num_draws)
    notes = () if k <= limit else (f"Pareto k is {k:.2f}, above {limit:.2f}: too few draws carry the weight.",)
    return Correction(
        draws=np.asarray(x),
        log_weights=log_w,
        log_evidence=float(top + np.log(mean)),
        log_evidence_sd=sd,
        pareto_k=k,
        method="importance sampling",
        evidence_claim=Claim.UNBIASED,
        warnings=notes,
        values=constrained(target, x),
    )


def constrained(target: Target, x: Any) -> dict[str, np.ndarray] | None:
    """Draws (n, d) by site in the sites' own spaces, or None for targets without sites."""
    if target.constrain is None:
        return None
    return {name: np.asarray(value) for name, value in _constrain(target.constrain, x, target.args).items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weigh(
    log_density: Callable[..., Any], num_draws: int, q: GaussianMixture, args: tuple[Any, ...], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x = q.sample(key, num_draws)
    log_p = jax.vmap(lambda point: jnp.asarray(log_density(point, *args)))(x)
    return x, log_p.astype(x.dtype) - q.log_prob(x)


@functools.partial(jax.jit, static_argnums=0)
def _constrain(constrain: Callable[..., Any], x: jax.Array, args: tuple[Any, ...]) -> Any:
    return jax.vmap(lambda point: constrain(point, *args))(jnp.asarray(x))
