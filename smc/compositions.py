"""Particle algorithms as compositions: each is the line of the paper it comes from, and nothing else.

    smc               population(p)
    resample-move     population(rejuvenated(p, K))
    SMC sampler       population(tempered(p, ladder, K))
    marginal          collapse(population(p, shared=theta)) means p(theta) E[Zhat(theta)]
    PMMH              together(K_theta, redraw) on traces of marginal
    PIMH              redraw on traces of collapse(population(p))
    particle Gibbs    cycle(conditional_smc, K_theta)
    SMC squared       population(rejuvenated(marginal pushed at every observation, PMMH))
    IBIS              population(rejuvenated(p, K), values=theta)

The fast, adaptive versions that people run are methods (`smc.SMC2`, `smc.PMMH`, `smc.TemperedSMC`); these are the same
algorithms in the form in which they are proved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from probinf.kernels.kernel import Kernel, cycle, on, together
from probinf.kernels.particle_moves import conditional_smc
from probinf.kernels.trace_moves import redraw, refresh_future
from probinf.language.program import Program
from probinf.transformations.algorithms import population, recorded
from probinf.transformations.collapsing import collapse
from probinf.transformations.randomness import Randomness
from probinf.transformations.rejuvenation import rejuvenated
from probinf.transformations.traces import Traced


def marginal(program: Program, parameters: Iterable[str], num_particles: int, **resampling: Any) -> Program:
    """The program with everything but the parameters replaced by a particle filter. Claim: unbiased, exactly.

    Returns the values of all sites: the parameters, and one path drawn from the filter. It means p(theta)
    E[Zhat(theta)] = p(theta) Z(theta), whatever the number of particles.
    """
    return collapse(population(recorded(program), num_particles, shared=parameters, **resampling))


def particle_marginal(
    program: Program,
    parameters: Iterable[str],
    num_particles: int,
    *,
    randomness: Randomness | None = None,
    **resampling: Any,
) -> Traced:
    """The target of PMMH: parameters by value, the filter by its randomness."""
    names = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    return Traced(marginal(program, names, num_particles, **resampling), values=names, randomness=randomness)


def pmmh(move: Kernel, share: float = 1.0) -> Kernel:
    """Particle marginal Metropolis-Hastings (Andrieu, Doucet & Holenstein 2010). Claim: reversible.

    Proposes parameters by `move` and the filter's randomness afresh, and accepts both or neither: the estimate of the
    state that is kept is kept. With `share` below 1 only so much of the randomness is renewed (correlated PMMH).
    """
    return together(move, redraw(share))


def pimh() -> Kernel:
    """Particle independence Metropolis-Hastings: the whole filter again, on traces of `collapse(population(p))`."""
    return redraw()


def particle_gibbs(num_particles: int, parameters: Iterable[str], move: Kernel, **options: Any) -> Kernel:
    """Particle Gibbs: the path given the parameters by conditional SMC, the parameters given the path by `move`."""
    names = tuple(parameters)
    return cycle(conditional_smc(num_particles, fixed=names, **options), on(move, names))


def smc_squared(
    program: Program,
    parameters: Iterable[str],
    num_parameters: int,
    num_particles: int,
    move: Kernel,
    *,
    threshold: float = 0.5,
    resample: str = "systematic",
    randomness: Randomness | None = None,
) -> Program:
    """SMC squared (Chopin, Jacob & Papaspiliopoulos 2013) with a fixed move. Claim: unbiased.

    The inner filter resamples at, and so pushes its evidence to the outer program at, every observation.
    """
    names = tuple(parameters)
    inner = marginal(program, names, num_particles, threshold=1.0, push_evidence=True, resample=resample)
    kernel = cycle(refresh_future(), pmmh(move))
    moved = rejuvenated(inner, kernel, values=names, randomness=randomness)
    return population(moved, num_parameters, threshold=threshold, resample=resample)


def ibis(
    program: Program,
    num_particles: int,
    move: Kernel,
    *,
    threshold: float = 0.5,
    resample: str = "systematic",
    values: Iterable[str] = (),
    randomness: Randomness | None = None,
) -> Program:
    """Iterated batch importance sampling (Chopin 2002): a move after each observation. Claim: unbiased."""
    moved = rejuvenated(program, move, values=tuple(values), randomness=randomness)
    return population(moved, num_particles, threshold=threshold, resample=resample)
