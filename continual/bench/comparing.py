"""Several learners over several seeds, one run after the other; what is finished is kept, what is not goes on."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from continual.learner import AbstractLearner
from continual.running import Result, run
from continual.streams import TaskStream
from probinf.errors import CheckpointError
from probinf.runs import Checkpoint
from probinf.runs.files import packed, unpacked, write

Runs = dict[str, list[Result]]


class Run(NamedTuple):
    """One learner with one seed."""

    name: str
    seed: int
    result: Result


def compared(
    learners: Mapping[str, AbstractLearner],
    streams: Mapping[int, TaskStream],
    folder: Path,
    *,
    progress: bool = False,
) -> Iterator[Run]:
    """Each learner on the stream of each seed, all learners for a seed before the next.

    Finished runs are read from `folder`, and one that was stopped goes on from its last task, to the same numbers.

    Args:
        learners: by name.
        streams: by seed.
        folder: for results and states; made if it does not exist.
        progress: show bars where stderr is a terminal.

    Raises:
        CheckpointError: the folder holds runs with other settings or other data.
    """
    for seed, stream in streams.items():
        for name, learner in learners.items():
            file = folder / f"{name}-{seed}.npz"
            settings = f"{learner}; {stream.name}; {stream.scenario}; {[len(t.train.targets) for t in stream.tasks]}"
            if file.is_file():
                result = _read(file, settings)
            else:
                state = folder / "states" / f"{name}-{seed}"
                state.parent.mkdir(parents=True, exist_ok=True)
                checkpoint = Checkpoint(state, every=0)
                result = run(learner, stream, seed=seed, progress=progress, checkpoint=checkpoint)
                write(file, _written(result, settings))
                shutil.rmtree(state)
            yield Run(name, seed, result)


def kept(learners: Mapping[str, AbstractLearner], streams: Mapping[int, TaskStream], folder: Path) -> Iterator[Run]:
    """The runs that are finished; nothing is trained.

    Raises:
        CheckpointError: as for `compared`.
    """
    for seed, stream in streams.items():
        there = {name: one for name, one in learners.items() if (folder / f"{name}-{seed}.npz").is_file()}
        yield from compared(there, {seed: stream}, folder)


def by_learner(runs: Sequence[Run]) -> Runs:
    """Results of each learner, in the order of the seeds."""
    found: Runs = {}
    for one in runs:
        found.setdefault(one.name, []).append(one.result)
    return found


def _written(result: Result, settings: str) -> bytes:
    fields = [field.name for field in dataclasses.fields(Result) if field.name != "belief"]
    arrays = {name: np.asarray(getattr(result, name)) for name in fields}
    return packed(arrays | {"settings": np.asarray(settings)})


def _read(file: Path, settings: str) -> Result:
    try:
        arrays = unpacked(file.read_bytes())
        found, tasks = str(arrays.pop("settings")), tuple(map(str, arrays.pop("tasks")))
    except (OSError, ValueError, KeyError, io.UnsupportedOperation) as error:
        raise CheckpointError(f"{file} cannot be read ({error}). Remove it, and the run is made again.") from error
    if found != settings:
        raise CheckpointError(
            f"{file} is of a run with other settings: {found[:300]}. Take another folder, or remove the file."
        )
    return Result(**arrays, tasks=tasks, belief=None)
