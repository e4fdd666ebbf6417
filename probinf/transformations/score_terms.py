"""One draw of the score-function estimator of a gradient as a program: run it with a key, or enumerate its law.

For draws x with density p(x; theta) and an integrand F(x; theta), grad E[F] = E[F grad log p + grad F] (Glynn 1990;
Williams 1992). It holds for every program, an algorithm's own randomness included: with the ancestors' probabilities in
log p it is unbiased for the evidence that a particle filter estimates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.language.distributions import log_density
from probinf.language.evaluate import Handler, Records
from probinf.language.handlers import Condition
from probinf.language.primitives import Site, bind_sample
from probinf.language.program import Program
from probinf.language.sites import sites_of
from probinf.language.staging import Arguments, Staged, restage
from probinf.representations.population import Population
from probinf.transformations.algorithms import population
from probinf.transformations.resampling import Ancestors, Multinomial
from probinf.transformations.traces import Named

ProgramOf = Callable[[Any], Program]


def score_terms(program_of: ProgramOf, parameters: Any, function: Callable[[Any], Any]) -> Program:
    """One draw of the score-function estimator, as a program that can be run and enumerated.

    It draws what the program draws, scores nothing, and returns for the integrand F = function(result) * exp(scores)

        {"value": F, "score": grad log p(draws), "direct": grad F at fixed draws}

    of which value * score + direct is unbiased for the gradient of the integral. The program takes the parameters as
    its argument.

    Raises:
        ArgumentError: a parameter that the program does not depend on.
        ArgumentTypeError: a parameter that is not a float, or no program.
    """
    family = family_of(program_of, parameters)

    def terms(theta: Any) -> dict[str, Any]:
        drawn = family.run(theta, _Emit(), {}, ())[2]
        values = jax.tree.map(jax.lax.stop_gradient, family.only_draws(drawn))

        def integrand_and_density(theta: Any) -> tuple[jax.Array, jax.Array]:
            result, state, _ = family.run(theta, Weigh(), values)
            return integrand_of(function, result, state["log_weight"]), state["log_draws"]

        (value, log_draws), pull = jax.vjp(integrand_and_density, theta)
        one, zero = jnp.ones_like(value), jnp.zeros_like(value)
        (direct,), (score,) = pull((one, zero.astype(log_draws.dtype))), pull((zero, one.astype(log_draws.dtype)))
        return {"value": value, "score": score, "direct": direct}

    return Program(f"score_terms({family.name})", terms, Arguments.split((family.parameters,), {}))


def evidence_terms(
    program_of: ProgramOf,
    parameters: Any,
    num_particles: int,
    *,
    threshold: float = 0.5,
    log_scale: float = 0.0,
) -> Program:
    r"""One run of the unbiased estimator of the gradient of Z: `score_terms` of a population's evidence.

    Everything drawn counts in the score, ancestors included. Without them, that is with the score of the states alone,
    the estimate is biased.
    """

    def populated(theta: Any) -> Program:
        return population(program_of(theta), num_particles, resample="multinomial", threshold=threshold)

    def evidence(cloud: Population) -> jax.Array:
        return jnp.exp(cloud.log_evidence - log_scale)

    return score_terms(populated, parameters, evidence)


# -- programs as functions of their parameters -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A program staged once, its operands a function of the parameters.

    Attributes:
        name: the program's.
        labelled: the program with a name for every draw, an algorithm's own included.
        operands_of: leaves of the parameters to the program's operands.
        parameters: as arrays.
        names: of all draws.
    """

    name: str
    labelled: Staged
    operands_of: _jax.ClosedJaxpr
    parameters: Any
    names: frozenset[str]

    def run(self, theta: Any, handler: Any, values: Any, state: Any = None) -> tuple[Any, Any, Records]:
        """Evaluate in one world: the return value, the handler's final state, the records."""
        operands = _jax.jaxpr_as_fun(self.operands_of)(*jax.tree.leaves(theta))
        return self.labelled.run(operands, handler, handler.start() if state is None else state, values)

    def integrand(self, theta: Any, function: Callable, handler: Any, key: jax.Array) -> jax.Array:
        """The integrand of one draw made with a key."""
        result, state, _ = self.run(theta, handler, {}, handler.start(key))
        return integrand_of(function, result, state["log_weight"])

    def only_draws(self, records: Records) -> Records:
        """Values of the draws; those of branches not taken are NaN, which would spread through gradients."""
        return {
            n: jnp.where(jnp.isnan(v), jnp.zeros_like(v), v) if jnp.issubdtype(v.dtype, jnp.floating) else v
            for n, v in records.items()
            if n in self.names
        }


def integrand_of(function: Callable, result: Any, log_weight: jax.Array) -> jax.Array:
    """function(result) * exp(log_weight), zero where the weight is zero."""
    value = jnp.asarray(function(result), jnp.result_type(float))
    if value.shape:
        raise ArgumentError(f"function: expected a scalar, found shape {value.shape}. Take one component at a time.")
    alive = log_weight > -jnp.inf
    weight = jnp.exp(jnp.where(alive, log_weight, jnp.zeros_like(log_weight)))
    return jnp.where(alive, weight * value, jnp.zeros_like(value))


def family_of(program_of: ProgramOf, parameters: Any) -> Family:
    """Stage the program of these parameters, every draw named, and its operands as a function of them.

    Raises:
        ArgumentError: no parameters, or one that the program does not depend on.
        ArgumentTypeError: a parameter that is not a float, or no program.
    """
    leaves, structure = jax.tree.flatten(parameters)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ArgumentTypeError(f"parameters: expected floats, found {leaf!r} of type {jnp.result_type(leaf)}.")
    if not leaves:
        raise ArgumentError("parameters: expected at least one float, found none.")
    parameters = jax.tree.unflatten(structure, [_jax_array(x) for x in leaves])
    program = program_of(parameters)
    if not isinstance(program, Program):
        raise ArgumentTypeError(
            f"program_of: expected a function from parameters to a program, found that it gives {program!r} of type "
            f"{type(program).__name__}."
        )
    labelled = restage(program.name, lambda ops: program.staged.run(ops, Named(), (), {})[0], program.operands)
    labelled = dataclasses.replace(labelled, results=program.staged.results)
    operands_of = jax.make_jaxpr(lambda theta: jax.tree.leaves(program_of(theta).operands))(parameters)
    used = {v for eqn in operands_of.jaxpr.eqns for v in eqn.invars if not isinstance(v, _jax.Literal)}
    used |= {v for v in operands_of.jaxpr.outvars if not isinstance(v, _jax.Literal)}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
    for path, variable in zip(paths, operands_of.jaxpr.invars, strict=True):
        if variable not in used:
            raise ArgumentError(f"parameters{path}: program {program.name!r} does not depend on this parameter.")
    names = frozenset(s.name for s in sites_of(labelled.closed.jaxpr) if s.kind == "sample")
    return Family(program.name, labelled, operands_of, parameters, names)


def _jax_array(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.result_type(float)) if isinstance(x, float) else jnp.asarray(x)


class _Emit(Condition):
    """Emit the draws and record them; score nothing."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        (value,) = bind_sample(site, distribution)
        return value, state, {site.name: value}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class Weigh(Handler):
    """The log density of given draws and the log of the scores, apart."""

    def start(self) -> dict[str, jax.Array]:
        """The state at the start of a run."""
        zero = jnp.zeros((), jnp.result_type(float))
        return {"log_draws": zero, "log_weight": zero}

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None:
            raise ModelError(
                f"Site {site.label} stands inside a while loop, whose number of iterations is not known, so its draws "
                "cannot be scored. Use lax.scan or lax.fori_loop with fixed bounds."
            )
        return value, _added(state, "log_draws", log_probability(site, distribution, value)), {}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return _added(state, "log_weight", log_density(distribution, value)), {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return _added(state, "log_weight", jnp.sum(jnp.asarray(log_factor))), {}


def _added(state: Any, which: str, log_factor: Any) -> Any:
    old = state[which]
    return {**state, which: jnp.where(old == -jnp.inf, old, old + jnp.asarray(log_factor).astype(old.dtype))}


def log_probability(site: Site, distribution: Any, value: jax.Array) -> jax.Array:
    """Log density of a draw, of ancestors too: as a function of the weights that is what the score estimator needs.

    Raises:
        ModelError: ancestors of a scheme whose probabilities are not implemented.
    """
    if not isinstance(distribution, Ancestors):
        return log_density(distribution, value)
    if not isinstance(distribution, Multinomial):
        raise ModelError(
            f"Site {site.label}: {type(distribution).__name__} ancestors of an algorithm inside of the program have no "
            "density here. Use resample='multinomial'."
        )
    log_weights = distribution.log_weights
    alive = jnp.max(log_weights, axis=-1, keepdims=True) > -jnp.inf  # else ancestors are themselves, for sure
    safe = jnp.where(alive, log_weights, jnp.zeros_like(log_weights))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(safe, axis=-1), value, axis=-1)
    return jnp.sum(jnp.where(alive, chosen, jnp.zeros_like(chosen)))
