"""What a method returns or raises when its loop has ended."""

from __future__ import annotations

import dataclasses

from probinf.errors import InferenceError
from probinf.inference.posterior import Posterior
from probinf.runs.loop import Outcome


def completed(posterior: Posterior, outcome: Outcome, *notes: str) -> Posterior:
    """A posterior with the run's wall time, and further reasons for caution in front of its own."""
    warnings = (*notes, *outcome.notes, *posterior.warnings)
    return dataclasses.replace(posterior, seconds=outcome.seconds, warnings=warnings)


def stopped(what: str, outcome: Outcome, partial: Posterior | None) -> InferenceError:
    """The error of a run that was interrupted where what it has is not yet its answer; that is on `.partial`."""
    where = f"; the checkpoint in {outcome.checkpoint} continues" if outcome.checkpoint else ""
    error = InferenceError(f"{what}{where}.")
    if partial is not None:
        error.partial = dataclasses.replace(partial, seconds=outcome.seconds, is_partial=True)
    return error
