"""SMC²: parameters and states of a sequential program together, by particles of particle filters."""

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
from smc.smc2_run import SMC2Loop
from smc.static_parameters import with_parameters


@dataclasses.dataclass(frozen=True)
class SMC2(AbstractMethod):
    """SMC² (Chopin, Jacob & Papaspiliopoulos 2013): exact inference on static parameters of a sequential program.

    Every parameter particle carries a particle filter over the states. Observations come in one at a time; when the
    parameter particles have degenerated they are resampled and moved by particle marginal Metropolis-Hastings, whose
    filter runs over all observations so far (the accepted evidence estimate is kept, never recomputed). The parameters'
    posterior is exact for any number of state particles as the number of parameter particles grows. At the end each
    parameter particle runs a fresh filter with history and four times the particles, from which one path of states is
    drawn; that conditional draw is consistent in the number of state particles.

    The proposal of the moves is fitted to the particles, which makes the evidence consistent instead of unbiased.

    Args:
        num_parameters: parameter particles.
        num_particles: particles of each filter.
        num_moves: Metropolis-Hastings steps at each rejuvenation.
        resample: scheme of the inner filters.
        threshold: rejuvenate when the effective sample size of the parameters is at most this fraction.
        num_runs: independent runs, one after the other; from two on the evidence has a standard error.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
        UnknownNameError: no such resampling scheme.
    """

    num_parameters: int = 256
    num_particles: int = 256
    num_moves: int = 4
    resample: str = "systematic"
    threshold: float = 0.5
    num_runs: int = 1

    def __post_init__(self) -> None:
        check_count("num_parameters", self.num_parameters, minimum=8)
        check_count("num_moves", self.num_moves, minimum=1)
        check_count("num_runs", self.num_runs)
        check_particles(self.num_particles, self.threshold)
        scheme(self.resample)

    def run(
        self,
        program: Program,
        key: Any,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Draw parameters and states.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the runs that have ended, or else of the
        parameters given the observations used so far. With a checkpoint the same call goes on from there, and a larger
        `num_runs` adds runs.

        Raises:
            ModelError: the program has no observed loop, no static parameter, or a discrete one.
            InferenceError: all parameter particles died, or an evidence is NaN.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        key = as_key(key, argument="key")
        inner = with_parameters(program, "SMC2")
        loop = SMC2Loop(self, program, inner, key)
        return answer(
            loop,
            self,
            program,
            key,
            progress=progress,
            checkpoint=checkpoint,
            free=("num_runs",),
            so_far=lambda: (
                f"after {loop.t} of {inner.length} observations of run {min(len(loop.rows) + 1, self.num_runs)} of "
                f"{self.num_runs}"
            ),
        )
