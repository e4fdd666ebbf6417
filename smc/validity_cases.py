"""The compositions of this package for the validity suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from probinf.claims import Claim
from probinf.kernels.kernel import Kernel, on
from probinf.kernels.trace_moves import trace_mh, uniform_proposal
from probinf.language.program import Program
from probinf.transformations.algorithms import population, recorded
from probinf.transformations.collapsing import collapse
from probinf.transformations.resampling import SCHEMES
from probinf.transformations.traces import Traced
from probinf.validity.compositions import TRACED, Composition
from probinf.validity.programs import DATA, PROGRAMS, static_parameter
from probinf.validity.shipped import TICKS, Transformation, ticked
from smc.compositions import ibis, marginal, particle_gibbs, particle_marginal, pimh, pmmh, smc_squared
from smc.pipeline import Algorithm, at_each_observation, finish, move, resample, spawn
from smc.waste_free_sampler import waste_free


def transformations() -> Iterator[Any]:
    """Algorithms as programs."""
    for num in (1, 2, 3):
        yield Transformation(
            f"marginal(theta, {num})",
            lambda p, num=num: marginal(p, ("theta",), num, threshold=1.0),
            programs=("static_parameter",),
            reference=recorded,
        )
    yield Transformation(
        "ibis(2, trace_mh)",
        lambda p: ibis(p, 2, trace_mh(), threshold=1.0, randomness=TICKS),
        programs=("zero_weights", "timed_factor"),
        reference=ticked,
    )
    for chains, length in ((1, 2), (2, 1), (1, 1)):
        yield Transformation(
            f"waste_free({chains} x {length})",
            lambda p, c=chains, n=length: waste_free(
                p, (0.4, 1.0), trace_mh(), num_chains=c, length=n, randomness=TICKS
            ),
            programs=("zero_weights", "timed_factor", "hidden_markov", "no_mass"),
            reference=ticked,
        )
    short = static_parameter(DATA[:1])
    for outer, inner, program in ((1, 1, short), (1, 2, short)):
        yield Transformation(
            f"smc_squared({outer}, {inner})",
            lambda p, n=outer, m=inner: smc_squared(
                p, ("theta",), n, m, uniform_proposal(), threshold=1.0, randomness=TICKS
            ),
            Claim.UNBIASED,
            (program,),
            lambda p, m=inner: _ticked_marginal(p, m),
        )


def compositions() -> Iterator[Composition]:
    """Those of the above that take a rule of resampling, by every rule."""
    yield Composition(
        "marginal(theta)", lambda p, n, **r: marginal(p, ("theta",), n, **r), ("static_parameter",), recorded
    )
    yield Composition(
        "ibis(trace_mh)", lambda p, n, **r: ibis(p, n, trace_mh(), randomness=TICKS, **r), TRACED[:1], ticked
    )


def _ticked_marginal(program: Program, num: int) -> Program:
    """What SMC squared means when the inner filter's randomness is ticks: the marginal program on ticks."""
    return ticked(marginal(program, ("theta",), num, threshold=1.0, push_evidence=True), ("theta",))


def algorithms() -> Iterator[Algorithm]:
    """Pipelines, checked with one, two and three particles."""
    yield spawn(2) >> finish()
    yield spawn(2) >> at_each_observation(resample("systematic", threshold=1.0)) >> finish()
    yield spawn(2) >> at_each_observation(resample("multinomial"), move(trace_mh())) >> finish()


def chains() -> Iterator[tuple[str, Kernel, Traced, None]]:
    """Particle marginal kernels on their extended space, and particle Gibbs on parameters and paths.

    The extended space is the parameter, the filter's draws, its ancestors and its final choice.
    """
    long, short = PROGRAMS["static_parameter"], static_parameter(DATA[:1])
    for num, share, program in ((1, 1.0, long), (2, 1.0, long), (2, 0.5, short)):
        target = particle_marginal(program, ("theta",), num, threshold=1.0, randomness=TICKS)
        yield f"pmmh({num} particles, share {share:g})", pmmh(on(uniform_proposal(), "theta"), share), target, None
    yield "pimh(2 particles)", pimh(), Traced(collapse(population(short, 2, threshold=1.0)), randomness=TICKS), None
    both = Traced(long, values=("theta", "z"), randomness=TICKS)
    for num, scheme, sampling in itertools.product((2, 3), SCHEMES, (True, False)):
        kernel = particle_gibbs(
            num, ("theta",), uniform_proposal(), resample=scheme, threshold=1.0, ancestor_sampling=sampling
        )
        if num == 2 or scheme == "systematic":
            yield f"particle_gibbs({num}, {scheme}{', ancestor sampling' if sampling else ''})", kernel, both, None
