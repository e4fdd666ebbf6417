"""The Rao-Blackwellised particle filter: particles for one part of the state, a Kalman filter in each for the rest."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ArgumentTypeError, ModelError, UnknownNameError
from probinf.language.distributions import log_density, standard_promotion
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.language.program import Program
from probinf.random import as_key
from probinf.transformations.algorithms import check_particles
from probinf.transformations.resampling import scheme
from smc.conditionally_linear import (
    ConditionallyLinear,
    Gaussian,
    initial_at,
    observation_at,
    predict,
    transition_at,
    update,
)
from smc.filtering import FilterRun, check_alive, filter_program
from smc.paired_threefry import sooner
from smc.proposals import Proposal


class MarginalParticle(NamedTuple):
    """One particle: u itself, and the Gaussian belief about z given its whole path. With leading axes: many.

    Attributes:
        u: the nonlinear part, (...).
        summary: `model.summary(u)`.
        mean: (d,).
        cov: (d, d).
    """

    u: Any
    summary: Any
    mean: Any
    cov: Any


class RaoBlackwellRun(eqx.Module):
    """What a Rao-Blackwellised filter found.

    Attributes:
        log_evidence: scalar, log of an unbiased estimate of p(y_0, ..., y_{T-1}), nats.
        log_increments: (T,), estimates of log p(y_t | y_0, ..., y_{t-1}); their sum is `log_evidence`.
        ess: (T,), effective sample sizes of the filtering weights.
        summary: (T, ...), filtering means of `model.summary(u)`, or None.
        mean: (T, d), filtering means of z, or None.
        variance: (T, d), filtering variances of z: within the particles plus between them; or None.
        particles: the last population: u (N, ...), means (N, d), covariances (N, d, d).
        log_weights: (N,), its unnormalised weights, nats.
        history: every population (`smc.filtering.History`), or None.
    """

    log_evidence: jax.Array
    log_increments: jax.Array
    ess: jax.Array
    summary: Any
    mean: Any
    variance: Any
    particles: MarginalParticle
    log_weights: jax.Array
    history: Any


class Marginalised(Proposal):
    """One step of a particle of u: move, Kalman prediction, Kalman update; the weight is the density of the update.

    Args:
        rule: "prior" moves u by its transition. "optimal", for one discrete u with a finite support, draws u_t from
            p(u_t | u_{t-1}, y_t) after one Kalman update for each of its values, and weighs by p(y_t | u_{t-1}).
    """

    rule: Literal["prior", "optimal"] = eqx.field(static=True)

    def log_lookahead(self, model: Any, t: Any, x: Any, y: Any) -> None:
        """None: the weights hold all that is known before u_t is drawn."""

    def propose(self, model: Any, t: Any, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> Any:
        """Draw u_t, carry the Gaussian of z, and score: a `MarginalParticle`."""
        seen = ~jnp.isnan(y) if model.missing == "nan" else jnp.ones(y.shape, bool)
        y = jnp.where(seen, y, 0).astype(jnp.result_type(float))
        with standard_promotion():
            law = model.initial() if x is None else model.transition(t, x.u)

        def carried(u: Any) -> tuple[Gaussian, jax.Array]:
            if x is None:
                ahead = initial_at(model, u)
            else:
                ahead = predict(Gaussian(x.mean, x.cov), transition_at(model, t, x.u, u))
            return update(ahead, observation_at(model, t, u), y, seen)

        if self.rule == "prior":
            (u,) = bind_sample(Site(names[0]), law)
            z, score = carried(u)
        else:
            support = jnp.asarray(law.enumerate_support(expand=False))
            options, scores = jax.vmap(carried)(support)
            joint = jax.vmap(lambda u: log_density(law, u))(support).astype(scores.dtype) + scores
            score = jax.scipy.special.logsumexp(joint)
            with standard_promotion():
                # Where nothing explains y the weight is zero, and any choice will do.
                choice = dist.CategoricalLogits(jnp.where(jnp.isneginf(score), jnp.zeros_like(joint), joint))
            (k,) = bind_sample(Site(names[0]), choice)
            u, z = jax.tree.map(lambda rows: jnp.take(rows, k, axis=0, mode="clip"), (support, options))
        bind_factor(Site(names[1]), score)
        with standard_promotion():
            summary = jnp.asarray(model.summary(u))
        return MarginalParticle(u, summary, z.mean, z.cov)


def rao_blackwell_filter(
    model: Any,
    ys: Any,
    key: Any = 0,
    *,
    num_particles: int = 100,
    proposal: str = "prior",
    resample: str = "systematic",
    threshold: float = 0.5,
    moments: bool = True,
    history: bool = False,
) -> RaoBlackwellRun:
    r"""Particle filter of a `ConditionallyLinear` model that integrates the linear part out.

    The weights are those of the marginal of u: they vary no more than those of a particle filter of (u, z) that draws
    u alike. Claim: unbiased (evidence), consistent (moments). Memory O(N d^2).

    It may be called inside `jax.jit`, `jax.vmap` and `jax.lax.scan`; values are then not checked.

    Args:
        model: the model.
        ys: observations, (T, p).
        key: key or integer seed.
        num_particles: N.
        proposal: "prior" moves u blindly; "optimal" weighs every value of a discrete u by how well it explains y_t
            (one Kalman update per value and particle).
        resample: name of a resampling scheme.
        threshold: 1 resamples before every move, 0 never.
        moments: compute filtering means and variances.
        history: keep every population, memory O(T N d^2).

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
        ModelError: a law of the model has the wrong kind or shape; "optimal" without a finite support.
        InferenceError: all particles have weight zero, or a weight is NaN; the time is named.

    References:
        Doucet, de Freitas, Murphy & Russell (2000), Rao-Blackwellised particle filtering for dynamic Bayesian networks;
        optimal proposal: Doucet, Gordon & Krishnamurthy (2001), IEEE Transactions on Signal Processing 49(3).
    """
    check_particles(num_particles, threshold)
    scheme(resample)
    program = rao_blackwell_program(
        model,
        ys,
        num_particles=num_particles,
        proposal=proposal,
        resample=resample,
        threshold=threshold,
        moments=moments,
        history=history,
    )
    found, _ = program.run(sooner(as_key(key, argument="key")))
    check_alive(found, type(model).__name__, "rao_blackwell_filter")
    return as_rao_blackwell(found)


def rao_blackwell_program(
    model: Any,
    ys: Any,
    *,
    num_particles: int,
    proposal: str = "prior",
    resample: str = "systematic",
    threshold: float = 0.5,
    moments: bool = False,
    history: bool = False,
) -> Program:
    """The filter as a program that draws particles and ancestors; it returns a `FilterRun` of `MarginalParticle`s."""
    if not isinstance(model, ConditionallyLinear):
        raise ArgumentTypeError(f"model: expected a ConditionallyLinear, found {type(model).__name__}.")
    if proposal not in ("prior", "optimal"):
        raise UnknownNameError(proposal, ("prior", "optimal"), "proposal", "rao_blackwell_filter")
    with standard_promotion():
        law = model.initial()
    if proposal == "optimal" and not (getattr(law, "has_enumerate_support", False) and law.event_shape == ()):
        raise ModelError(
            f'proposal: "optimal" needs one discrete u with a finite support, {type(model).__name__}.initial() is '
            f'{type(law).__name__} of event shape {law.event_shape}; use proposal="prior".'
        )
    return filter_program(
        model,
        ys,
        num_particles=num_particles,
        proposal=Marginalised(proposal),
        resample=resample,
        threshold=threshold,
        moments=moments,
        history=history,
    )


def as_rao_blackwell(found: FilterRun) -> RaoBlackwellRun:
    """A `FilterRun` of `MarginalParticle`s, its moments put together by the law of total variance."""
    summary = mean = variance = None
    if found.mean is not None:
        summary, mean = found.mean.summary, found.mean.mean
        variance = found.variance.mean + jnp.diagonal(found.mean.cov, axis1=-2, axis2=-1)
    return RaoBlackwellRun(
        found.log_evidence,
        found.log_increments,
        found.ess,
        summary,
        mean,
        variance,
        found.particles,
        found.log_weights,
        found.history,
    )
