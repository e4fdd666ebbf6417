"""`SMC`: the sequential Monte Carlo method that fits a program, chosen by looking at it."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Literal

import jax
import numpy as np

from probinf.errors import ArgumentError, ModelError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.language.sites import only_sometimes, sites_of
from probinf.random import as_key
from probinf.runs import Checkpoint
from probinf.transformations.algorithms import check_particles
from probinf.transformations.resampling import scheme
from smc.importance import FEW_ANCESTORS, distinct_static, run_importance
from smc.smc2 import SMC2
from smc.static_parameters import suspended
from smc.tempered import TemperedSMC


@dataclasses.dataclass(frozen=True)
class Choice:
    """What suits a program.

    Attributes:
        kind: "population", "smc2", "tempered" or "unmoved" (a population whose static sites nothing moves).
        why: the reason, for the posterior's method text.
        static: latent sites that later observations look at.
    """

    kind: Literal["population", "smc2", "tempered", "unmoved"]
    why: str
    static: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SMC(AbstractMethod):
    """Sequential Monte Carlo on any program; how depends on the program.

    | the program | what runs | claim |
    | --- | --- | --- |
    | sequential, no static parameter | a population, resampled after observations | unbiased |
    | sequential, with continuous static parameters | `SMC2` | consistent |
    | not sequential, all latent sites continuous | `TemperedSMC` | consistent |
    | static parameters that are discrete or exist only sometimes | a population, with a warning | unbiased |

    The posterior's `method` says which one ran and why.

    SMC² gets max(32, min(512, num_particles / 4)) parameter particles and as many state particles for each.

    Args:
        num_particles: particles of each run.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        threshold: resample when the effective sample size is at most this fraction of the particles; 0 never, 1 always.
            Tempering and SMC² take it where it lies strictly between 0 and 1, and one half otherwise.
        num_runs: independent runs, which give the evidence its standard error. Their draws are weighted by evidence.

    Raises:
        ArgumentError: a number outside its range.
        UnknownNameError: no such scheme.
    """

    num_particles: int = 1000
    resample: str = "systematic"
    threshold: float = 0.5
    num_runs: int = 4

    def __post_init__(self) -> None:
        check_particles(self.num_particles, self.threshold)
        scheme(self.resample)
        check_count("num_runs", self.num_runs)

    def run(
        self,
        program: Program,
        key: Any,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Choose and run.

        Raises:
            ModelError: the program has no latent site.
            InferenceError: all particles died, or weights are NaN; the site and step are named.
            ArgumentError: a checkpoint where the program is run in one piece.
        """
        began = time.perf_counter()
        key = as_key(key, argument="key")
        choice = choose(program)
        threshold = float(self.threshold) if 0 < self.threshold < 1 else 0.5
        if choice.kind == "smc2":
            size = int(np.clip(self.num_particles // 4, 32, 512))
            method: AbstractMethod = SMC2(
                num_parameters=size,
                num_particles=size,
                resample=self.resample,
                threshold=threshold,
                num_runs=self.num_runs,
            )
        elif choice.kind == "tempered":
            method = TemperedSMC(
                max(self.num_particles, 2), threshold=threshold, num_runs=self.num_runs, resample=self.resample
            )
        elif checkpoint is not None:
            raise ArgumentError(
                f"checkpoint: SMC runs this program in one piece ({choice.why}), so there is nothing to continue; "
                "leave it out."
            )
        else:
            return self._population(program, choice, key, began)
        found = method.run(program, key, progress=progress, checkpoint=checkpoint)
        return dataclasses.replace(found, method=f"SMC: {found.method} ({choice.why})")

    def _population(self, program: Program, choice: Choice, key: jax.Array, began: float) -> Posterior:
        found, ancestors = run_importance(
            program, key, int(self.num_particles), int(self.num_runs), self.resample, float(self.threshold)
        )
        notes = list(found.warnings)
        if choice.kind == "unmoved":
            counts = ", ".join(f"{name} {n}" for name, n in distinct_static(found, choice.static).items())
            notes.append(
                f"Static sites are not moved, so their values thin out. Distinct values left of "
                f"{found.num_chains * found.num_draws} particles: {counts}. Sum discrete sites out "
                "(pi.marginalise) or use more "
                "particles."
            )
        elif ancestors.min() < FEW_ANCESTORS and self.num_particles >= FEW_ANCESTORS:
            notes.append(
                f"The paths go back to {int(ancestors.min())} of {self.num_particles} particles at "
                "the first step (fewest of "
                f"{found.num_chains} runs): the filter and the evidence are sound, early states are "
                "not; use more particles."
            )
        rule = f"{self.resample} resampling at ESS <= {self.threshold:g} N"
        return dataclasses.replace(
            found,
            method=f"SMC: population of {self.num_particles} particles, {rule} ({choice.why})",
            warnings=tuple(notes),
            seconds=time.perf_counter() - began,
        )


def choose(program: Program) -> Choice:
    """Which kind of sequential Monte Carlo fits a program.

    Raises:
        ModelError: it has no latent site.
    """
    latent = program.staged.latent()
    if not latent:
        raise ModelError(f"Model {program.name!r} has no latent site: nothing to infer. Are all of them observed?")
    sometimes = {s.name for s in only_sometimes(program.sites)}
    fixed = [s.name for s in latent if s.discrete or s.name in sometimes or None in s.loops]
    inner = suspended(program)
    if inner is not None:
        inside = {s.name for s in sites_of(inner.scan.params["jaxpr"].jaxpr) if s.kind == "sample"}
        if inside:
            if not inner.static:
                return Choice("population", "sequential, no static parameter")
            unmovable = [n for n in inner.static if n in fixed]
            if unmovable:
                return Choice("unmoved", f"sequential, static {', '.join(unmovable)} cannot be moved", inner.static)
            return Choice("smc2", f"sequential with static {_some(inner.static)}", inner.static)
    if not fixed:
        return Choice("tempered", "all latent sites continuous")
    static = tuple(s.name for s in latent if not s.loops)
    if not static:
        return Choice("population", "all latent sites drawn inside loops")
    return Choice("unmoved", f"{_some(tuple(fixed))} cannot be moved", static)


def _some(names: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
