"""What NUTS and ChEES share: run, continue, extend."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError, InferenceError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.outcomes import completed, driven
from probinf.inference.posterior import Posterior
from probinf.inference.sampling_loop import SamplingLoop
from probinf.random import as_key
from probinf.runs import Checkpoint, drive
from probinf.runs.loop import Outcome


class AbstractGradientMethod(AbstractMethod):
    """A sampler of chains by gradients. Subclasses are frozen dataclasses with `num_draws` and `thinning`."""

    num_draws: int
    thinning: int

    @abc.abstractmethod
    def loop(self, program: Any, key: jax.Array) -> SamplingLoop:
        """The work of a run, not started.

        Raises:
            ModelError: the program has discrete latent sites, or none at all.
        """

    @staticmethod
    def stored_key(stored: Mapping[str, np.ndarray]) -> jax.Array:
        """A key of the generator that the checkpoint's keys are of; the keys themselves are restored with the rest."""
        generators = [str(value) for name, value in stored.items() if name.endswith("_generator")]
        return jax.random.key(0, impl=generators[0] if generators else None)

    @abc.abstractmethod
    def check_restorable(self, loop: Any, stored: Mapping[str, np.ndarray]) -> None:
        """Raise an `ArgumentError` if the checkpoint of a posterior is not one of such a loop."""

    @abc.abstractmethod
    def notes(self, loop: Any, stats: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Reasons for caution that the sampler itself knows."""

    def run(
        self,
        program: Any,
        key: int | jax.Array,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Warm up and draw.

        Ctrl-C during warm-up ends the run; while drawing, it returns the draws made so far as a posterior with
        `is_partial` set, which `resume` can continue. With a checkpoint either is continued by the same call.

        Args:
            program: a program, data given.
            key: seed or key.
            progress: show a bar.
            checkpoint: folder to keep the state in; what is there already is continued, a finished run of fewer draws
                is extended.

        Raises:
            ModelError: the program has discrete latent sites, or none at all.
            InferenceError: no legal start was found.
            ArgumentError: `init` is outside the support.
            UnknownNameError: `init` or `keep` names no site.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        key = as_key(key, argument="key")
        loop = self.loop(program, key)
        settings = {"progress": progress, "checkpoint": checkpoint}
        return self.finish(loop, driven(loop, self, program, key, **settings, free=("num_draws",)))

    def finish(self, loop: SamplingLoop, outcome: Outcome) -> Posterior:
        """The posterior of a loop that has ended, or was stopped."""
        name = type(self).__name__
        if not loop.has_draws:
            where = f"; the checkpoint in {outcome.checkpoint} continues" if outcome.checkpoint else ""
            raise KeyboardInterrupt(f"interrupted before the first draw{where}")
        if outcome.is_finished:
            return completed(loop.posterior(), outcome)
        note = f"Interrupted after {loop.num_taken} of {loop.num_draws} draws; {name}.resume continues."
        return completed(loop.posterior(), outcome, note)

    def resume(
        self, program: Any, posterior: Posterior, num_draws: int | None = None, *, progress: bool = False
    ) -> Posterior:
        """Continue a run without a new warm-up: the earlier draws and `num_draws` further steps of each chain.

        The draws are those that an uninterrupted run would have made.

        Args:
            program: the program of the earlier run.
            posterior: the result of `run` with the same settings, interrupted or not, possibly loaded from a file.
            num_draws: steps to add; by default what an interrupted run still lacks.
            progress: show a bar.

        Raises:
            ArgumentError: the posterior cannot be continued by this method with these settings.
        """
        if posterior.checkpoint is None:
            raise ArgumentError("posterior: it holds no checkpoint, so it cannot be continued; run it again.")
        loop = self.loop(program, self.stored_key(posterior.checkpoint))
        self.check_restorable(loop, posterior.checkpoint)
        loop.restore(posterior.checkpoint, [])
        missing = max(loop.total - loop.next_step, 0) if num_draws is None else num_draws
        loop.num_draws = loop.num_taken + check_count("num_draws", missing, minimum=self.thinning)
        more = self.finish(loop, drive(loop, progress=progress))
        stats = _joined(posterior.sample_stats, more.sample_stats)
        stopped = [note for note in more.warnings if note.startswith("Interrupted")]
        return dataclasses.replace(
            more,
            draws=_joined(posterior.draws, more.draws),
            sample_stats=stats,
            warnings=(*stopped, *self.notes(loop, stats)),
            seconds=posterior.seconds + more.seconds,
        )


def divergence_notes(stats: Mapping[str, np.ndarray]) -> list[str]:
    """What divergent transitions mean, if there were any.

    Raises:
        InferenceError: the log density of a draw is not finite.
    """
    if not np.all(np.isfinite(stats["lp"])):
        raise InferenceError("The log density of a draw is not finite: the run is not usable.")
    divergences = int(stats["diverging"].sum())
    if not divergences:
        return []
    return [
        f"{divergences} divergent transition(s): the sampler may be missing regions of high curvature; raise "
        "target_acceptance or reparameterise (non_centred=... for hierarchies)."
    ]


def _joined(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([first[name], value], axis=1) for name, value in second.items()}
