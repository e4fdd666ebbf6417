"""Late events: go back to the belief before them, slip them in, and replay what came after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probinf.errors import ArgumentError
from probinf.streaming.compiled import Channel
from probinf.streaming.method import UpdateInfo
from probinf.streaming.stream_belief import HistoryEntry, StreamBelief


def remember(belief: StreamBelief, t: np.float64, channel: Channel | None, event: tuple, lag: float) -> tuple:
    """The history after one more event: what a lag window ending at `t` can still need."""
    if lag == 0.0:
        return ()
    entry = HistoryEntry(belief.time, belief.state, belief.evidence, t, channel, event)
    # An event at t - lag or later can still be overtaken; one before it cannot.
    return (*(e for e in belief.history if e.time >= t - lag), entry)


def insert(
    advance: Callable[..., tuple[StreamBelief, UpdateInfo]],
    belief: StreamBelief,
    t: np.float64,
    channel: Channel,
    event: tuple,
    lag: float,
) -> tuple[StreamBelief, UpdateInfo]:
    """The belief as if the event at `t` < belief.time had come in order, and the late event's info.

    Randomness rides in the states, so the replay spends the keys that in-order processing would have spent. Among
    events of one time the late one comes last, as a stable sort would have it.
    """
    later = [i for i, entry in enumerate(belief.history) if entry.time > t]
    if not later or belief.history[later[0]].time_before > t:
        start = float(belief.history[0].time_before) if belief.history else float(belief.time)
        raise ArgumentError(
            f"sensor {channel.name!r}: the event at {t:g} s is inside the lag of {lag:g} s, but this belief remembers "
            f"only what came after {start:g} s."
        )
    first = belief.history[later[0]]
    back = StreamBelief(
        first.state_before,
        belief.method,
        first.evidence_before,
        first.time_before,
        belief.history[: later[0]],
        belief.claim,
    )
    back, info = advance(back, t, channel, event)
    for i in later:
        entry = belief.history[i]
        back, _ = advance(back, entry.time, entry.channel, entry.event)
    return back, info
