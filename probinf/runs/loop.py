"""The host loop around compiled pieces: progress, Ctrl-C and checkpoints in one place."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probinf.progress import Progress
from probinf.runs.checkpoint import Checkpoint
from probinf.runs.interruption import Interruption

Arrays = Mapping[str, np.ndarray]


class Loop(abc.ABC):
    """Work that is done in pieces. Between two pieces its state is whole and can be saved.

    Attributes:
        label: what is being done, in a word or two.
        unit: what `done` counts.
        rows: finished output, one mapping for each piece that had any; never changed once appended.
    """

    label: str = "run"
    unit: str = "step"
    rows: list[Arrays]

    @property
    @abc.abstractmethod
    def done(self) -> int:
        """Units finished so far."""

    @property
    @abc.abstractmethod
    def total(self) -> int | None:
        """Units in all, or None where that is not known beforehand."""

    @property
    @abc.abstractmethod
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""

    @abc.abstractmethod
    def start(self) -> None:
        """Do what comes before the first piece; left out when a checkpoint is restored."""

    @abc.abstractmethod
    def advance(self) -> Mapping[str, Any]:
        """Do one piece, a second of work or so, and return scalars to show beside the bar."""

    @abc.abstractmethod
    def state(self) -> Arrays:
        """Everything besides `rows` that is needed to go on."""

    @abc.abstractmethod
    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        """Take up the work where `state` and `rows` left it."""

    def result(self) -> Any:
        """What could be returned now: an object with `save(path)`, or None before there is any."""
        return None


class Outcome(NamedTuple):
    """How a drive ended.

    Attributes:
        is_finished: False if Ctrl-C stopped it.
        seconds: wall time, that of earlier parts of a continued run included.
        checkpoint: the folder with its last state, or None.
        notes: reasons for caution, such as a checkpoint that could not be written.
    """

    is_finished: bool
    seconds: float
    checkpoint: Any
    notes: tuple[str, ...]


def drive(
    loop: Loop,
    *,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    fingerprint: Callable[[], Mapping[str, str]] = dict,
) -> Outcome:
    """Start or continue `loop` and run it to its end, or to the first Ctrl-C.

    Args:
        loop: the work.
        progress: show a bar where stderr is a terminal.
        checkpoint: where to keep the state; what is there already is continued.
        fingerprint: what must be the same for a checkpoint to be continued, name -> description.

    Raises:
        CheckpointError: the folder cannot be used, or holds what cannot be continued.
    """
    began = time.perf_counter()
    store = None if checkpoint is None else checkpoint.open(fingerprint())
    saved = None if store is None else store.load()
    earlier = 0.0 if saved is None else float(saved.meta["seconds"])
    is_interrupted = False
    with Interruption() as interruption:
        if saved is None:
            loop.start()
        else:
            loop.restore(saved.state, saved.rows)

        def save() -> None:
            if store is not None:
                store.save(loop, earlier + time.perf_counter() - began)

        with Progress(loop.total, loop.label, unit=loop.unit, show=progress) as bar:
            bar.update(loop.done)
            try:
                while not loop.is_finished and not interruption.is_requested:
                    before = loop.done
                    numbers = loop.advance()
                    bar.update(max(loop.done - before, 0), **numbers)
                    if store is not None and store.is_due():
                        save()
            except KeyboardInterrupt:
                is_interrupted = True
        if store is not None and store.done != loop.done:
            save()
    return Outcome(
        not is_interrupted and loop.is_finished,
        earlier + time.perf_counter() - began,
        None if store is None else store.folder,
        () if store is None else store.notes,
    )
