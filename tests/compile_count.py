"""How many programs XLA compiles while a block runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_counters: list[list[str]] = []


def _listen(event: str, duration: float, **details: object) -> None:
    del duration
    if event == _EVENT:
        for counter in _counters:
            counter.append(str(details.get("fun_name", "?")))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
    """The names of the programs compiled in the block."""
    counter: list[str] = []
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)
