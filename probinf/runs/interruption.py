"""Ctrl-C during long work: noted at once, acted on where the state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_listening: Interruption | None = None


class Interruption:
    """Hears Ctrl-C between `with` and its end.

    The first one is noted in `is_requested`, to be looked at between two pieces of work. Python's own exception would
    come at any instruction: inside a callback it is printed and lost, and between two assignments it leaves half a
    state. A second Ctrl-C raises `KeyboardInterrupt` at once, for those who cannot wait.

    Work inside work shares the notice of the outermost. Outside the main thread, or where somebody else handles the
    signal, nothing is changed.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_installed = False

    def __enter__(self) -> Interruption:
        global _listening
        if _listening is not None:
            return _listening
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)
            self._is_installed = True
            _listening = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _listening
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._is_installed = False
            _listening = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
