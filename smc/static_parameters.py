"""The static parameters of a suspended program: their prior, their values, and a particle filter given them.

What SMC² and PMMH have in common. Parameters are dicts of unconstrained values, one for each static site.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from probinf.errors import ModelError
from probinf.kernels.chains import cached
from probinf.language.evaluate import evaluate
from probinf.language.handlers import Condition, Forward, ScoreUnconstrained, Unconstrain
from probinf.language.program import Program
from probinf.language.sites import only_sometimes
from probinf.language.staging import Staged, restage
from probinf.native import in_one_piece
from probinf.transformations.population import Resampling, log_mean_exp, run_population
from smc.paired_threefry import sooner
from smc.suspended import Suspended, no_loop, suspend


def suspended(program: Program) -> Suspended | None:
    """The program suspended at its loop, split once for each staged program; None where it has no such loop."""
    return cached(("suspended", program.staged), lambda: suspend(program))


def with_parameters(program: Program, method: str) -> Suspended:
    """The program suspended at its loop, for a method that moves its static parameters.

    Raises:
        ModelError: the program has no observed loop, no static parameter, or a discrete one.
    """
    inner = suspended(program)
    if inner is None:
        raise no_loop(program, method)
    if not inner.static:
        raise ModelError(
            f"Model {program.name!r} has no static latent site, so there is nothing for {method} to move: use "
            "smc.SMC()."
        )
    sometimes = {s.name for s in only_sometimes(program.sites)}
    for wrong, what in (
        ([s.name for s in program.sites if s.name in inner.static and s.discrete], "discrete"),
        ([name for name in inner.static if name in sometimes], "reached under some values of others only"),
    ):
        if wrong:
            raise ModelError(
                f"{method} moves continuous parameters; {wrong} of model {program.name!r} are {what}. Use smc.SMC()."
            )
    return inner


class StaticPrior(ScoreUnconstrained):
    """Density of the static sites only: what the prefix draws otherwise belongs to the filters."""

    vectorise_loops = False

    def __init__(self, static: tuple[str, ...]) -> None:
        super().__init__()
        self.static = static

    def sample(self, site: Any, distribution: Any, value: Any, state: Any) -> Any:
        if site.name in self.static:
            return super().sample(site, distribution, value, state)
        # A placeholder: no static site's density looks at it (see `Suspended.static`).
        return jnp.zeros(distribution.shape(), jnp.result_type(float)), state, {}

    def observe(self, site: Any, distribution: Any, value: Any, state: Any) -> Any:
        return state, {}

    def factor(self, site: Any, log_factor: Any, state: Any) -> Any:
        return state, {}


def draw_parameters(inner: Suspended, operands: Any, key: jax.Array) -> dict:
    """Unconstrained parameters from their prior."""
    handler = Unconstrain()
    records = inner.prefix.run(operands, handler, handler.start(key), {})[2]
    return {name: records[name] for name in inner.static}


def prior_density(inner: Suspended, operands: Any, theta: dict) -> tuple[jax.Array, dict]:
    """Log prior of unconstrained parameters (Jacobian included), nats, and their constrained values."""
    handler = StaticPrior(inner.static)
    _, logp, records = inner.prefix.run(operands, handler, handler.start(), theta)
    return logp, {name: records[name] for name in inner.static}


def filter_given(
    staged: Staged,
    operands: Any,
    values: dict,
    num_particles: int,
    rule: Resampling,
    key: jax.Array,
    *,
    record: bool = False,
) -> tuple[jax.Array, jax.Array, dict]:
    """One particle filter of the program given its parameters.

    Returns:
        The log of an unbiased estimate of the evidence given the parameters (their prior left out), nats; the last log
        weights (N,); and with `record` the paths of all other sites, name -> (N, *site).
    """

    def conditioned(args: Any) -> Any:
        found = staged.run(args[0], Condition(freeze=True, record=record), (), args[1])[2]
        return found if record else {}

    given = restage(staged.name, conditioned, (operands, values))

    def emitted(args: Any) -> Any:
        outs, state, _ = run_population(given.closed, jax.tree.leaves(args), num_particles, rule)
        total = state.log_evidence + log_mean_exp(state.log_weights)
        return total, state.log_weights, jax.tree.unflatten(given.results, outs)

    closed, shapes = jax.make_jaxpr(emitted, return_shape=True)((operands, values))

    def drawn(leaves: list, key: jax.Array) -> list:
        handler = Forward()
        return evaluate(closed, leaves, handler, handler.start(sooner(key)), {})[0]

    flat = in_one_piece(drawn)(jax.tree.leaves((operands, values)), key)
    return jax.tree.unflatten(jax.tree.structure(shapes), flat)
