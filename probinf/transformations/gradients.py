"""Gradients of integrals against a program's measure, and of its evidence, with respect to the program's arguments.

By the score function (`score_terms`), which holds for every program, or pathwise, through draws that are differentiable
functions of noise.

Every call stages the program anew. To climb a gradient, compile the call once, parameters and key as arguments:

    step = jax.jit(lambda theta, key: evidence_gradient(program_of, theta, key, 100, estimator="fisher"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError, ModelError
from probinf.language.evaluate import Records
from probinf.language.handlers import Forward
from probinf.language.primitives import Site
from probinf.language.program import Program
from probinf.random import as_key
from probinf.transformations.algorithms import population, recorded
from probinf.transformations.enumeration import base_of
from probinf.transformations.resampling import Ancestors
from probinf.transformations.score_terms import ProgramOf, Weigh, evidence_terms, family_of, score_terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientEstimate:
    """A Monte Carlo estimate of a gradient. A pytree, so that whole estimates can be compiled and looped over.

    Attributes:
        value: estimate of the quantity itself.
        gradient: like the parameters.
        standard_error: like the parameters, over independent draws or runs; NaN for a single one.
        claim: what the gradient is for the true one: unbiased, consistent or approximate.
    """

    value: jax.Array
    gradient: Any
    standard_error: Any
    claim: Claim = dataclasses.field(metadata={"static": True})


def expectation_gradient(
    program_of: ProgramOf,
    parameters: Any,
    function: Callable[[Any], Any],
    key: Any,
    num_draws: int,
    *,
    estimator: str = "pathwise",
    baseline: bool = True,
) -> GradientEstimate:
    """Gradient of the integral of a function against a program's measure. Claim: unbiased.

    Without observations and factors this is the gradient of an expectation; with them draws are weighted by their
    scores (importance sampling from the prior), and `function=lambda _: 1.0` gives the gradient of the evidence.

    Args:
        program_of: parameters to a program, for example `lambda theta: model(theta, ys)`.
        parameters: pytree of floats or arrays of floats, where the gradient is taken.
        function: of the program's return value, a scalar. With "pathwise" it and the scores must be continuous in the
            draws: a jump (a comparison, a rounding, a branch on a draw) has a share in the gradient that this
            estimator does not see.
        key: an integer or a key.
        num_draws: independent draws.
        estimator: "pathwise" differentiates through the draws, "score" weighs by the gradient of their log density.
        baseline: for "score" subtract the mean of the other draws from each (leave one out; Mnih & Rezende 2016),
            which changes no expectation.

    Returns:
        The estimate; with a baseline its standard error leaves out the slight dependence between draws.

    Raises:
        ArgumentError: no such estimator, a number below 1, or a parameter that the program does not depend on.
        ArgumentTypeError: a parameter that is not a float, or no program.
        ModelError: a site whose draw is not a differentiable function of noise ("pathwise"), or inside a while loop.
    """
    if estimator not in ("pathwise", "score"):
        raise ArgumentError(f"estimator: expected 'pathwise' or 'score', found {estimator!r}.")
    count = positive_integer("num_draws", num_draws)
    keys = jax.random.split(as_key(key, argument="key"), count)
    if estimator == "score":
        return _by_score(score_terms(program_of, parameters, function), keys, baseline=baseline)
    family = family_of(program_of, parameters)

    def one(key: jax.Array) -> Any:
        return jax.value_and_grad(lambda theta: family.integrand(theta, function, _Pathwise(), key))(family.parameters)

    values, gradients = _differentiated(lambda: jax.jit(jax.vmap(one))(keys))
    return GradientEstimate(jnp.mean(values), *_mean_and_error(gradients), Claim.UNBIASED)


def evidence_gradient(
    program_of: ProgramOf,
    parameters: Any,
    key: Any,
    num_particles: int,
    *,
    estimator: str = "unbiased",
    num_runs: int = 1,
    threshold: float = 0.5,
    log_scale: float = 0.0,
) -> GradientEstimate:
    r"""Gradient of a program's evidence Z, or of log Z, from runs of a particle filter.

    "unbiased", of Z: \hat Z grad log P + grad \hat Z, where P is the probability of everything drawn, the ancestors
    included (the stop-gradient form is that of Foerster et al. 2018; Scibior & Wood 2021). Its variance grows with the
    number of scores. The evidence of many observations is a tiny number: give `log_scale`, about log Z, and the
    estimates are of Z exp(-log_scale). The rule of resampling depends on theta through the effective sample size; where
    it jumps, both sides have the same expectation, so no term is missing.

    "fisher", of log Z: the weighted mean of grad log p(x, y; theta) over the paths of the particles (Fisher's identity;
    Poyiadjis, Doucet & Singh 2011, section 2). Claim: consistent in the number of particles.

    "ignore_ancestors", of log Z: the derivative of log \hat Z along reparameterised draws, as if the choice of
    ancestors did not depend on theta. Low variance, and a bias that no number of particles removes (Corenflos et al.
    2021). Claim: approximate.

    Args:
        program_of: parameters to a program.
        parameters: pytree of floats or arrays of floats, where the gradient is taken.
        key: an integer or a key.
        num_particles: particles of each run.
        estimator: "unbiased", "fisher" or "ignore_ancestors".
        num_runs: independent runs, averaged.
        threshold: as for `population`. "unbiased" resamples by the multinomial scheme, the others by the systematic
            one.
        log_scale: for "unbiased", nats.

    Returns:
        The estimate; its value is that of Z exp(-log_scale), or of log Z.

    Raises:
        ArgumentError: no such estimator, a number outside its range, or a parameter on which nothing depends.
        ArgumentTypeError: a parameter that is not a float, or no program.
        ModelError: a site inside a while loop, or one whose draw is not reparameterised ("ignore_ancestors").
    """
    names = ("unbiased", "fisher", "ignore_ancestors")
    if estimator not in names:
        raise ArgumentError(f"estimator: expected one of {', '.join(map(repr, names))}, found {estimator!r}.")
    keys = jax.random.split(as_key(key, argument="key"), positive_integer("num_runs", num_runs))
    if estimator == "unbiased":
        terms = evidence_terms(program_of, parameters, num_particles, threshold=threshold, log_scale=log_scale)
        return _by_score(terms, keys, baseline=True)
    if estimator == "fisher":
        family = family_of(program_of, parameters)
        paths = population(recorded(program_of(family.parameters)), num_particles, threshold=threshold)

        def one(key: jax.Array) -> Any:
            cloud = paths.run(key)[0]
            weights = jax.nn.softmax(cloud.log_weights)
            values = family.only_draws(cloud.particles)

            def weighted(theta: Any) -> jax.Array:
                def log_joint(values: Any) -> jax.Array:
                    state = family.run(theta, Weigh(), values)[1]
                    return state["log_draws"] + state["log_weight"]

                joint = jax.vmap(log_joint)(values)
                return jnp.sum(jnp.where(weights > 0, weights * joint, jnp.zeros_like(joint)))

            return cloud.log_evidence, jax.grad(weighted)(family.parameters)

        values, gradients = _differentiated(lambda: jax.jit(jax.vmap(one))(keys))
        return GradientEstimate(jnp.mean(values), *_mean_and_error(gradients), Claim.CONSISTENT)
    family = family_of(lambda theta: population(program_of(theta), num_particles, threshold=threshold), parameters)

    def along(key: jax.Array) -> Any:
        def log_evidence(theta: Any) -> jax.Array:
            handler = _Pathwise(ancestors=True)
            return family.run(theta, handler, {}, handler.start(key))[0].log_evidence

        return jax.value_and_grad(log_evidence)(family.parameters)

    values, gradients = _differentiated(lambda: jax.jit(jax.vmap(along))(keys))
    return GradientEstimate(jnp.mean(values), *_mean_and_error(gradients), Claim.APPROXIMATE)


class _Pathwise(Forward):
    """Draw with a key so that the derivative passes through the draw.

    Args:
        ancestors: let ancestors through; their choice has no derivative.
    """

    def __init__(self, *, ancestors: bool = False) -> None:
        super().__init__()
        self.ancestors = ancestors

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if not (self.ancestors and isinstance(distribution, Ancestors)):
            base = base_of(distribution)
            if base.is_discrete or not base.has_rsample:
                kind = "discrete" if base.is_discrete else "not reparameterised"
                raise ModelError(
                    f"Site {site.label}: {type(base).__name__} is {kind}, so its draw is no differentiable function of "
                    "its parameters. Use estimator='score' (for an evidence 'unbiased' or 'fisher')."
                )
        return super().sample(site, distribution, value, state)


# -- averages ----------------------------------------------------------------------------------------------------------


def _by_score(terms: Program, keys: jax.Array, *, baseline: bool) -> GradientEstimate:
    found = _differentiated(lambda: jax.vmap(lambda key: terms.run(key)[0])(keys))
    values, count = found["value"], len(keys)
    others = (jnp.sum(values) - values) / (count - 1) if baseline and count > 1 else jnp.zeros_like(values)

    def gradient(score: jax.Array, direct: jax.Array) -> jax.Array:
        weight = (values - others).reshape(count, *(1,) * (score.ndim - 1)).astype(score.dtype)
        return weight * score + direct

    gradients = jax.tree.map(gradient, found["score"], found["direct"])
    return GradientEstimate(jnp.mean(values), *_mean_and_error(gradients), Claim.UNBIASED)


def _mean_and_error(gradients: Any) -> tuple[Any, Any]:
    def error(g: jax.Array) -> jax.Array:
        if len(g) < 2:
            return jnp.full(g.shape[1:], jnp.nan, g.dtype)
        return jnp.std(g, axis=0, ddof=1) / np.sqrt(len(g)).astype(g.dtype)

    return jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients), jax.tree.map(error, gradients)


def _differentiated(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except ValueError as error:
        if "Reverse-mode differentiation" not in str(error):
            raise
        raise ModelError(
            "Reverse-mode differentiation does not go through a while loop. Use lax.scan or lax.fori_loop with fixed "
            "bounds."
        ) from None
