"""Particle Gibbs: move a whole path by a population that keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ArgumentError, ModelError
from probinf.kernels.kernel import Info, Kernel, emit
from probinf.transformations.algorithms import check_particles, recorded
from probinf.transformations.population import Reference, Resampling, run_population
from probinf.transformations.resampling import scheme
from probinf.transformations.targets import Assigned
from probinf.transformations.traces import Trace


def conditional_smc(
    num_particles: int,
    *,
    resample: str = "systematic",
    threshold: float = 0.5,
    ancestor_sampling: bool = True,
    fixed: Iterable[str] = (),
) -> Kernel:
    """Conditional SMC (Andrieu, Doucet & Holenstein 2010): the kernel of particle Gibbs.

    Particle 0 takes the path that is the state now; the population resamples given that it survives; one particle is
    drawn by its final weight. With ancestor sampling (Lindsten, Jordan & Schön 2014) the path may change its past
    before each iteration of the program's outermost last loop: O(1) per particle where one iteration's draws determine
    what is carried to the next, O(length) otherwise.

    For targets whose state is the values of all latent sites: `Assigned(program)`, or `Traced` with all of them in
    `values`. Claim: reversible (invariant with ancestor sampling), for any number of particles from 2 on, any scheme
    and threshold.

    Args:
        num_particles: the reference included.
        resample: scheme.
        threshold: resample when the effective sample size is at most this fraction.
        ancestor_sampling: let the path change its past.
        fixed: names of sites (parameters) that keep their values.
    """
    check_particles(num_particles, threshold)
    scheme(resample)
    if num_particles < 2:
        raise ArgumentError(f"num_particles: conditional SMC needs at least 2, found {num_particles}.")
    rule = Resampling(resample, float(threshold), shared=frozenset(fixed))

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        program = recorded(target.program)
        old = target.values_of(state.slots)
        latent = [s.name for s in target.program.staged.latent()]
        for name in latent:
            if name not in old:
                raise ModelError(
                    f"conditional_smc: site {name!r} stands inside a while loop, so a path has no single value for it. "
                    "Use lax.scan, or pi.trace_mh(), which redraws."
                )
        path = Reference({n: old[n] for n in latent}, ancestor_sampling)
        leaves = jax.tree.leaves(program.operands)
        outs, final, _ = run_population(program.staged.closed, leaves, num_particles, rule, path)
        particles = jax.tree.unflatten(program.staged.results, outs)
        j = emit(dist.CategoricalProbs(jax.nn.softmax(final.log_weights)))
        chosen = {n: particles[n][j] for n in latent}
        slots = chosen if isinstance(target, Assigned) else target.slots_from(chosen)
        return target.replay(slots), {"accepted": (j != 0).astype(jnp.result_type(float))}

    name = f"conditional_smc({num_particles}{', ancestor sampling' if ancestor_sampling else ''})"
    claim = Claim.INVARIANT if ancestor_sampling else Claim.REVERSIBLE
    return Kernel(name, step, claim, space="assignments")
