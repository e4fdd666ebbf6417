"""One progress bar for all long work, on stderr, silent where nobody watches."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError

_OFF = ("0", "false", "no", "off")
_enabled: bool | None = None  # None: the environment decides


def set_enabled(enabled: bool | None) -> None:
    """Turn the bars of this process off or on again; `None` leaves it to the variable `PROBINF_PROGRESS`.

    `PROBINF_PROGRESS=0` in the environment turns them off from outside. On means shown where stderr is a terminal.

    Raises:
        ArgumentTypeError: `enabled` is neither a bool nor `None`.
    """
    global _enabled
    if enabled is not None and not isinstance(enabled, bool):
        raise ArgumentTypeError(f"enabled: expected True, False or None, found {enabled!r}.")
    _enabled = enabled


def is_shown() -> bool:
    """Return whether a bar started now would be drawn: it is enabled, and stderr is a terminal."""
    enabled = _enabled
    if enabled is None:
        enabled = os.environ.get("PROBINF_PROGRESS", "1").strip().lower() not in _OFF
    stream = sys.stderr
    return enabled and stream is not None and stream.isatty()


class Progress:
    """A bar that is drawn between `with` and its end.

    ```python
    with Progress(1000, "SMC") as bar:
        for t in range(10):
            ...
            bar.update(100, ess=ess, log_evidence=log_evidence)
    ```

    Args:
        total: number of units of work, or `None` where it is not known beforehand.
        label: what is being done, in a word or two.
        unit: what is counted.
        show: False for a bar that only counts.

    Raises:
        ArgumentError: `total` is negative.
    """

    def __init__(self, total: int | None, label: str, *, unit: str = "step", show: bool = True) -> None:
        if total is not None and total < 0:
            raise ArgumentError(f"total: expected a non-negative count or None, found {total}.")
        self._total = total
        self._label = label
        self._unit = unit
        self._show = show
        self._bar: Any = None
        self.done = 0

    def __enter__(self) -> Progress:
        if self._show and is_shown():
            from tqdm import tqdm  # here, since silent work should not pay for it

            self._bar = tqdm(
                total=self._total, desc=self._label, unit=f" {self._unit}", file=sys.stderr, dynamic_ncols=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def update(self, n: int = 1, **numbers: Any) -> None:
        """Count `n` more units as done and show the numbers that matter now.

        Args:
            n: units finished since the last call.
            **numbers: scalars to show behind the bar, such as `ess`, `log_evidence` or `divergences`. A JAX scalar is
                waited for only if the bar is drawn.

        Raises:
            ArgumentError: `n` is negative.
            ArgumentTypeError: a number is not a scalar.
        """
        if n < 0:
            raise ArgumentError(f"n: expected a non-negative count of finished units, found {n}.")
        for name, value in numbers.items():
            if isinstance(value, str) or np.shape(value) != ():
                found = repr(value) if isinstance(value, str) else f"shape {np.shape(value)}"
                raise ArgumentTypeError(f"{name}: expected a scalar to show beside the bar, found {found}.")
        self.done += n
        if self._bar is not None:
            if numbers:
                shown = {name.replace("_", " "): _format(value) for name, value in numbers.items()}
                self._bar.set_postfix(shown, refresh=False)
            self._bar.update(n)


def _format(value: Any) -> str:
    """Whole numbers in full, others to four significant digits."""
    number = np.asarray(value).item()
    return f"{number:.4g}" if isinstance(number, float) else str(number)
