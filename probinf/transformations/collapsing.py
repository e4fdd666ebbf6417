"""From a population back to one value, to a population of another size, or to one that carries no evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ModelError
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.language.program import Program
from probinf.representations.population import Population
from probinf.transformations.algorithms import check_particles
from probinf.transformations.derived import derived
from probinf.transformations.resampling import scheme


def _population_of(program: Program) -> None:
    value = program.staged.results
    example = jax.tree.unflatten(value, [0] * value.num_leaves)
    if not isinstance(example, Population):
        raise ModelError(
            f"Program {program.name!r} returns something else, expected a Population: apply "
            "pi.population(program, num_particles) first."
        )


def collapse(program: Program) -> Program:
    """One particle for a population: drawn by weight, the evidence scored. Claim: exact.

    Turns an algorithm back into a program that denotes what the algorithm was given, so that algorithms nest.

    Raises:
        ModelError: the program does not return a population.
    """
    _population_of(program)

    def function(population: Population) -> Any:
        total = population.log_evidence
        bind_factor(Site(""), total)
        # A population without mass has no particle to choose; its execution has weight zero already.
        alive = jnp.where(total > -jnp.inf, population.log_weights, jnp.zeros_like(population.log_weights))
        (j,) = bind_sample(Site(""), dist.CategoricalProbs(jax.nn.softmax(alive)))
        return jax.tree.map(lambda x: x[j], population.particles)

    return derived("collapse", program, function)


def push_evidence(program: Program) -> Program:
    """The same population with its weights normalised and its evidence scored in the program. Claim: exact.

    Raises:
        ModelError: the program does not return a population.
    """
    _population_of(program)

    def function(population: Population) -> Population:
        total = population.log_evidence
        bind_factor(Site(""), total)
        alive = total > -jnp.inf
        shift = jnp.where(alive, total - population.collected, jnp.zeros_like(total))
        return dataclasses.replace(
            population, log_weights=population.log_weights - shift, collected=jnp.zeros_like(population.collected)
        )

    return derived("push_evidence", program, function)


def resize(program: Program, num_particles: int, *, resample: str = "systematic") -> Program:
    """A population of another size, resampled once: every particle weighs the same. Claim: unbiased.

    Raises:
        ArgumentError: fewer than one particle.
        ArgumentTypeError: not an integer.
        ModelError: the program does not return a population.
    """
    _population_of(program)
    check_particles(num_particles, 1.0)
    law = scheme(resample)

    def function(population: Population) -> Population:
        mean = population.log_evidence - population.collected
        alive = jnp.where(mean > -jnp.inf, population.log_weights, jnp.zeros_like(population.log_weights))
        (ancestors,) = bind_sample(Site(""), law(alive, num_particles))
        even = jnp.broadcast_to(mean, (num_particles,))
        particles = jax.tree.map(lambda x: x[ancestors], population.particles)
        return Population(particles, even, jnp.asarray(population.collected), population.history)

    return derived(f"resize {num_particles}", program, function)
