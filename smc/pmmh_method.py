"""PMMH: static parameters of a sequential program by Metropolis-Hastings, with a particle filter for the likelihood."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.outcomes import answer
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.random import as_key
from probinf.runs import Checkpoint
from probinf.transformations.algorithms import check_particles
from probinf.transformations.resampling import scheme
from smc.pmmh_engine import BATCH
from smc.pmmh_run import PILOT, WINDOWS, PMMHLoop
from smc.static_parameters import with_parameters


@dataclasses.dataclass(frozen=True)
class PMMH(AbstractMethod):
    """Particle marginal Metropolis-Hastings (Andrieu, Doucet & Holenstein 2010) on the parameters of a series.

    A random walk on the static latent sites (unconstrained), accepted with the evidence estimates of a particle filter
    over everything else; the estimate of a kept state is kept. The parameters' posterior is exact for any number of
    particles: noise in the estimates costs acceptance, not correctness. Claim: invariant. In warm-up the walk's
    covariance is learned from all chains, and its length for an acceptance of 0.2; both are fixed afterwards. Chains
    start at the prior draws whose filters explain the data best, and run in parallel threads.

    `posterior.sample_stats` has the estimates themselves ("log_evidence") and the acceptance probabilities
    ("acceptance_rate"); a log evidence that stays constant for long is a chain that sticks::

        posterior = pi.infer(model(ys), smc.PMMH(), seed=pi.fast_key(0))

    Args:
        num_particles: particles of each filter; None chooses a power of two such that the log evidence varies by at
            most 1.5 nats² at the posterior mean, in a pilot run.
        num_draws: kept draws of each chain.
        num_warmup: steps of each chain before the first kept draw.
        num_chains: chains, at most 64.
        resample: scheme of the filters.
        threshold: a filter resamples when its effective sample size is at most this fraction of its particles.
        paths: draw all other sites too, one path with each draw; memory O(T) a draw and O(T num_particles) a filter.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
        UnknownNameError: no such resampling scheme.

    References:
        Pitt, Silva, Giordani & Kohn (2012), Doucet, Pitt, Deligiannidis & Kohn (2015): the number of particles.
    """

    num_particles: int | None = None
    num_draws: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    resample: str = "systematic"
    threshold: float = 0.5
    paths: bool = False

    def __post_init__(self) -> None:
        check_particles(PILOT if self.num_particles is None else self.num_particles, self.threshold)
        check_count("num_draws", self.num_draws, minimum=4)
        check_count("num_warmup", self.num_warmup, minimum=2 * WINDOWS)
        check_count("num_chains", self.num_chains, maximum=BATCH)
        scheme(self.resample)

    def run(
        self,
        program: Program,
        key: Any,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Draw from the posterior.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the draws made so far. With a checkpoint
        the same call goes on from there, and a larger `num_draws` adds draws.

        Raises:
            ModelError: the program has no observed loop, no static parameter, or a discrete one.
            InferenceError: no prior draw gives the data a positive evidence.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        key = as_key(key, argument="key")
        loop = PMMHLoop(self, program, with_parameters(program, "PMMH"), key)
        return answer(
            loop,
            self,
            program,
            key,
            progress=progress,
            checkpoint=checkpoint,
            free=("num_draws",),
            so_far=lambda: f"after {loop.done} of {loop.total} steps",
        )
