"""A filter that is fed event by event and survives the end of its process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probinf.runs import Checkpoint, Loop
from probinf.runs.checkpoint import as_checkpoint
from probinf.runs.loop import Arrays
from probinf.streaming.method import UpdateInfo
from probinf.streaming.saving import belief_arrays, fingerprint, restored_belief
from probinf.streaming.stream_belief import StreamBelief

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter


class Stream(Loop):
    """The belief of a filter on a stream without end, kept in a folder.

    ```python
    with filter.stream("runs/boat", key=0, t0=0.0) as stream:
        for event in source.after(stream.num_events):
            info = stream.update(*event)
    ```

    A stream that finds its own folder takes up the belief there; `num_events` says how many events went into it, so the
    source knows where to go on. The numbers are those of a stream that was never interrupted.

    Attributes:
        belief: given all events so far.
        num_events: how many updates and predictions went into it.
    """

    label, unit = "Stream", "event"

    def __init__(
        self, filter: Filter, checkpoint: Checkpoint | str | os.PathLike[str], key: int | jax.Array, t0: float
    ) -> None:
        self.filter, self.rows = filter, []
        self.belief: StreamBelief = filter.start(key, t0)
        self.num_events = 0
        self._began = time.perf_counter()
        settings = as_checkpoint(checkpoint)
        assert settings is not None
        self._folder = settings.open({**fingerprint(filter), "start": self.belief_digest()})
        saved = self._folder.load()
        if saved is not None:
            self.restore(saved.state, saved.rows)

    def belief_digest(self) -> str:
        """What the stream started from, in short: prior, key and time."""
        from probinf.inference.fingerprint import describe

        return describe(np.frombuffer(b"".join(v.tobytes() for v in belief_arrays(self.belief).values()), np.uint8))

    def update(self, t: float, sensor: str, value: Any, inputs: Any = None, control: Any = None) -> UpdateInfo:
        """One event, as `Filter.update` takes it; the belief is saved when that is due."""
        belief, info = self.filter.update(self.belief, t, sensor, value, inputs, control)
        self._take(belief)
        return info

    def predict(self, t: float, control: Any = None) -> None:
        """Carry the belief to a time, as `Filter.predict` does."""
        self._take(self.filter.predict(self.belief, t, control))

    def _take(self, belief: StreamBelief) -> None:
        self.belief, self.num_events = belief, self.num_events + 1
        if self._folder.is_due():
            self.save()

    def save(self) -> None:
        """Write the belief now."""
        if self._folder.done != self.num_events:
            self._folder.save(self, time.perf_counter() - self._began)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    # -- what a checkpoint asks of a loop ---------------------------------------------------------------------------

    @property
    def done(self) -> int:
        return self.num_events

    @property
    def total(self) -> None:
        return None

    @property
    def is_finished(self) -> bool:
        return False

    def start(self) -> None:
        pass

    def advance(self) -> dict[str, Any]:
        raise NotImplementedError("a stream is advanced by its events")

    def state(self) -> dict[str, np.ndarray]:
        return {"num_events": np.asarray(self.num_events), **belief_arrays(self.belief)}

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self.belief, self.num_events = restored_belief(self.filter, state), int(state["num_events"])
