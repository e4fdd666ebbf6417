"""Look at a run while it goes on, from another process."""

from __future__ import annotations

import io
import os
from pathlib import Path

from probinf.errors import CheckpointError
from probinf.inference.posterior import Posterior
from probinf.runs.checkpoint import read
from probinf.runs.manifest import generations


def look(folder: str | os.PathLike[str]) -> Posterior:
    """The posterior as far as the run with this checkpoint folder had come when it last saved.

    It is a copy: the run is not disturbed. For draws its estimates improve with time; for tempered SMC it holds the
    particles at the temperature reached, for SMC² the parameters given the observations used so far, and both carry the
    evidence so far.

    Args:
        folder: what was given as `checkpoint=`.

    Raises:
        CheckpointError: no checkpoint there, a damaged one, or one from before the first result.
    """
    path = Path(folder)
    inner = [path / name for name in ("nuts", "chees") if generations(path / name)]  # what `Auto` makes
    places = [path] if generations(path) else inner
    if not places:
        raise CheckpointError(f"{path}: no checkpoint there. Was the run given checkpoint={str(folder)!r}?")
    saved, _ = read(places[0], generations(places[0])[-1])
    if saved.result is None:
        raise CheckpointError(
            f"{path}: nothing to see yet: {saved.meta['label']} had done {saved.meta['done']} step(s) when it last "
            "saved, and its first result comes later."
        )
    return Posterior.load(io.BytesIO(saved.result))
