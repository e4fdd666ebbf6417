"""Tempered sequential Monte Carlo: from the prior to the posterior by a ladder of temperatures with gradient moves."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from probinf.errors import ArgumentError
from probinf.inference.method import AbstractMethod, check_count, check_fraction, check_option
from probinf.inference.outcomes import answer
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.random import as_key
from probinf.runs import Checkpoint
from probinf.transformations.resampling import scheme
from smc.tempered_checks import check_continuous
from smc.tempered_moves import KINDS
from smc.tempered_run import TemperedLoop


@dataclasses.dataclass(frozen=True)
class TemperedSMC(AbstractMethod):
    r"""Adaptive tempering for models whose latent sites are all continuous (Del Moral, Doucet & Jasra 2006).

    Particles drawn from the prior pass through $p(x) L(x)^\beta$ for β rising from 0 to 1. The next β is where the
    effective sample size has fallen to `threshold` times the living particles, found by bisection; then the particles
    are resampled and moved by Hamiltonian Monte Carlo in unconstrained space, with the particles' variances as metric
    and a step size that follows the acceptance rate. Moves are doubled until the correlation of every coordinate and of
    the log density with its value before the moves is below 0.3, `max_moves` is reached, or more moves no longer help.

    The summary says whether the moves mix: correlation, share of particles that never moved, and log evidence beside
    what it is with half of the moves (`smc.mixing`).

    Because ladder, metric and step size are fitted to the particles, the evidence is consistent instead of unbiased.

    Two ways to make more of the moves. `waste_free=P` resamples one particle in P, moves each P - 1 times and keeps all
    states, and gives a standard error of the evidence from one run. `persistent=True` keeps the particles of all
    temperatures and weights them as draws from the mixture of all tempered posteriors; the posterior holds all of them.

    Args:
        num_particles: particles of each run.
        num_moves: trajectories at each temperature, at least.
        max_moves: trajectories at each temperature, at most.
        num_leapfrog: leapfrog steps (gradients) of a trajectory.
        moves: "hmc", or "rwm": random walk with the particles' covariance, for densities without gradient.
        waste_free: length P of the chains, from 2 on, a divisor of `num_particles`; 0 for none. `num_moves` and
            `max_moves` do not count then. Take P several times the moves that a coordinate takes to forget its start.
        persistent: keep the particles of all temperatures. Memory grows with their number.
        threshold: share of the living particles to which the effective sample size falls between temperatures.
        num_runs: independent runs, side by side; from two on the evidence has a standard error.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        max_temperatures: the run ends with an error beyond this number.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
        UnknownNameError: no such resampling scheme.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers. Buchholz, Chopin & Jacob (2021), Adaptive
        tuning of Hamiltonian Monte Carlo within sequential Monte Carlo. Dau & Chopin (2022), Waste-free sequential
        Monte Carlo. Karamanis & Seljak (2024), Persistent sampling.
    """

    num_particles: int = 1024
    num_moves: int = 4
    max_moves: int = 64
    num_leapfrog: int = 5
    threshold: float = 0.5
    num_runs: int = 1
    resample: str = "systematic"
    max_temperatures: int = 500
    moves: str = "hmc"
    waste_free: int = 0
    persistent: bool = False

    def __post_init__(self) -> None:
        check_count("num_particles", self.num_particles, minimum=2)
        check_count("num_moves", self.num_moves)
        check_count("max_moves", self.max_moves, minimum=self.num_moves)
        check_count("num_leapfrog", self.num_leapfrog)
        check_fraction("threshold", self.threshold)
        check_count("num_runs", self.num_runs)
        scheme(self.resample)
        check_count("max_temperatures", self.max_temperatures)
        check_option("moves", self.moves, KINDS)
        check_option("persistent", self.persistent, (False, True))
        check_count("waste_free", self.waste_free, minimum=0)
        if self.waste_free and (
            self.waste_free == 1 or self.num_particles % self.waste_free or self.num_particles < 2 * self.waste_free
        ):
            raise ArgumentError(
                f"waste_free: expected a chain length from 2 on that divides num_particles = {self.num_particles} into "
                f"two chains or more, found {self.waste_free}."
            )
        if self.waste_free and self.persistent:
            raise ArgumentError("persistent: expected False together with waste_free; choose one of the two.")

    def run(
        self,
        program: Program,
        key: Any,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Draw from the posterior.

        Ctrl-C raises an `InferenceError` whose `.partial` holds the particles at the inverse temperature reached. With
        a checkpoint the same call goes on from there.

        Raises:
            ModelError: discrete or conditional latent sites, or none.
            InferenceError: the likelihood is zero at every particle or NaN at some, or the temperature stalls; the
                particles so far are on `.partial`.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        key = as_key(key, argument="key")
        target = program.unconstrained()
        check_continuous(target)
        loop = TemperedLoop(self, target, key)
        return answer(
            loop,
            self,
            program,
            key,
            progress=progress,
            checkpoint=checkpoint,
            so_far=lambda: f"at inverse temperature {loop.lowest:.3g} after {loop.num_steps} step(s)",
        )
