"""Run a method's loop, and return its answer or raise what was left when Ctrl-C stopped it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from probinf.errors import InferenceError
from probinf.inference.fingerprint import fingerprint
from probinf.inference.posterior import Posterior
from probinf.runs import Checkpoint, Loop, drive
from probinf.runs.checkpoint import as_checkpoint
from probinf.runs.loop import Outcome


def driven(
    loop: Loop,
    method: Any,
    program: Any,
    key: jax.Array,
    *,
    progress: bool,
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    free: Sequence[str] = (),
) -> Outcome:
    """`drive`, with the fingerprint of a method on a program; settings in `free` may change between calls."""
    return drive(
        loop,
        progress=progress,
        checkpoint=as_checkpoint(checkpoint),
        fingerprint=lambda: fingerprint(program, method, key, free=free),
    )


def answer(
    loop: Loop,
    method: Any,
    program: Any,
    key: jax.Array,
    *,
    progress: bool,
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    free: Sequence[str] = (),
    so_far: Callable[[], str],
) -> Posterior:
    """The result of a loop whose state is an answer at its end only.

    Args:
        loop: not started.
        method: the settings.
        program: the program.
        key: the run's key.
        progress: show a bar.
        checkpoint: where to keep the state.
        free: settings that may change between calls.
        so_far: how far an interrupted run had come, to follow "was interrupted".

    Raises:
        InferenceError: Ctrl-C stopped it; what it has is on `.partial`.
        CheckpointError: the folder cannot be used, or belongs to another run.
    """
    outcome = driven(loop, method, program, key, progress=progress, checkpoint=checkpoint, free=free)
    found = loop.result()
    if outcome.is_finished:
        return completed(found, outcome)
    where = f"; the checkpoint in {outcome.checkpoint} continues" if outcome.checkpoint else ""
    error = InferenceError(f"{type(method).__name__} was interrupted {so_far()}{where}.")
    if found is not None:
        error.partial = dataclasses.replace(found, seconds=outcome.seconds, is_partial=True)
    raise error


def completed(posterior: Posterior, outcome: Outcome, *notes: str) -> Posterior:
    """A posterior with the run's wall time, and further reasons for caution in front of its own."""
    warnings = (*notes, *outcome.notes, *posterior.warnings)
    return dataclasses.replace(posterior, seconds=outcome.seconds, warnings=warnings)
