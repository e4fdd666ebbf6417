"""A log filtered in pieces, so that the run can be watched, interrupted and continued."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError
from probinf.inference.fingerprint import describe
from probinf.runs import Checkpoint, Loop, drive
from probinf.runs.checkpoint import as_checkpoint
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked
from probinf.streaming.compiled import Trail
from probinf.streaming.finish import assemble, first_fault
from probinf.streaming.log import Log
from probinf.streaming.saving import belief_arrays, fingerprint, restored_belief
from probinf.streaming.stream_belief import StreamBelief

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter

PIECE = 1000  # events; all pieces but the last are of one length, so two scans are compiled


class _LogLoop(Loop):
    label, unit = "Filter", "event"

    def __init__(
        self, filter: Filter, log: Log, belief: StreamBelief, channels: tuple, events: tuple, keep_states: bool
    ) -> None:
        self.filter, self.log, self.belief = filter, log, belief
        self.channels, self.events, self.keep_states = channels, events, keep_states
        self.rows: list[Arrays] = []
        self.trails: list[Trail] = []
        self._done = 0

    @property
    def done(self) -> int:
        return self._done

    @property
    def total(self) -> int:
        return len(self.log)

    @property
    def is_finished(self) -> bool:
        broken = bool(self.trails) and first_fault(self.trails[-1]) is not None
        return self._done == len(self.log) or broken

    def start(self) -> None:
        pass

    def advance(self) -> Mapping[str, Any]:
        last = min(self._done + PIECE, len(self.log))
        here = jax.tree.map(lambda rows: rows[self._done : last], self.events)
        state, evidence, trail = self.filter.scan(self.channels, self.belief, here, self.keep_states)
        self.belief = self.filter.belief_of(state, evidence, self.log.times[last - 1])
        self.trails.append(trail)
        self.rows.append(packed(trail, "trail"))
        self._done = last
        return {"log_evidence": float(self.belief.log_evidence), "ess": float(trail.info.ess[-1])}

    def state(self) -> dict[str, np.ndarray]:
        return {"done": np.asarray(self._done), **belief_arrays(self.belief)}

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self.belief, self._done, self.rows = restored_belief(self.filter, state), int(state["done"]), list(rows)
        here = jax.tree.map(lambda rows: rows[:1], self.events)
        template = jax.eval_shape(lambda: self.filter.scan(self.channels, self.belief, here, self.keep_states)[2])
        self.trails = [unpacked(template, row, "trail") for row in rows]


def run_in_pieces(
    filter: Filter,
    log: Log,
    belief: StreamBelief,
    channels: tuple,
    events: tuple,
    keep_states: bool,
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    progress: bool,
) -> tuple[StreamBelief, Trail, int]:
    """The belief at the end, what was left behind on the way, and how many events were taken."""
    loop = _LogLoop(filter, log, belief, channels, events, keep_states)

    def about() -> dict[str, str]:
        start = np.frombuffer(b"".join(value.tobytes() for value in belief_arrays(belief).values()), np.uint8)
        data = {f"log.{name}": describe(getattr(log, name)) for name in ("times", "sensor_index", "values", "inputs")}
        return {**fingerprint(filter), "start": describe(start), **data, "keep_states": str(keep_states)}

    drive(loop, progress=progress, checkpoint=as_checkpoint(checkpoint), fingerprint=about)
    trail = jax.tree.map(lambda *rows: jnp.concatenate(rows), *loop.trails)
    return loop.belief, trail, loop.done


def interrupted(filter: Filter, log: Log, end: StreamBelief, trail: Trail, total: int) -> InferenceError:
    """The error of a run that Ctrl-C stopped; the run up to there is on `.partial`."""
    error = InferenceError(f"The filter was interrupted after {len(log)} of {total} events.")
    error.partial = assemble(filter, log, end, trail)
    return error
