"""Rows of a benchmark, and the JSON file they go to.

A row that misses its target says so and stays. Ratios to a peer are taken in one process, turn by turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

PACKAGES = ("probinf", "jax", "jaxlib", "numpyro", "blackjax", "equinox", "numpy")
_CHOSEN: list[str] = []  # texts of --rows; empty: all


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim and what was found.

    Attributes:
        claim: what is measured, with its size.
        value: the number found; None where the measurement broke down (`peer` then says how).
        unit: its unit: "ratio", "s", "MCSE", ...
        target: the value that is needed, or None where the claim only asks that the number be shown.
        better: "lower" or "higher".
        peer: what it is compared with, and details worth keeping.
        n: number of repetitions behind the value.
        spread: quartiles of the repetitions, or None.
        seconds: time the row took.
    """

    claim: str
    value: float | None
    unit: str
    target: float | None
    better: str = "lower"
    peer: str = ""
    n: int = 1
    spread: tuple[float, float] | None = None
    seconds: float = 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        if self.value is None or not np.isfinite(self.value):
            return False
        return bool(self.value <= self.target if self.better == "lower" else self.value >= self.target)

    def as_dict(self) -> dict[str, Any]:
        """The row in the order of the file."""
        value = None if self.value is None or not np.isfinite(self.value) else float(self.value)
        met = None if self.met is None else bool(self.met)
        spread = None if self.spread is None else [float(v) for v in self.spread]
        return {
            "claim": self.claim,
            "value": value,
            "unit": self.unit,
            "target": self.target,
            "better": self.better,
            "met": met,
            "peer": self.peer,
            "n": self.n,
            "spread": spread,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        mark = {True: "met", False: "MISSED", None: "shown"}[self.met]
        value = "broke down" if self.value is None else f"{self.value:.4g}"
        target = "" if self.target is None else f" (target {self.target:g})"
        peer = f"; {self.peer}" if self.peer else ""
        return f"[{mark:>6}] {self.claim}: {value} {self.unit}{target}{peer}  [{self.seconds:.1f} s]"


def rows_of(claim: str, unit: str, target: float | None, make: Callable[[], Row | Iterable[Row]]) -> list[Row]:
    """Measure, time and print; one that raises is a row that misses, with the error as its peer.

    Nothing is measured where `--rows` was given and none of its texts is in the claim.
    """
    if _CHOSEN and not any(text in claim for text in _CHOSEN):
        return []
    begin = time.perf_counter()
    rows: list[Row] = []
    try:
        made = make()
        for row in [made] if isinstance(made, Row) else made:
            rows.append(row)  # noqa: PERF402 - those before a broken one stay
    except Exception as error:  # a broken row must not hide the others
        rows.append(Row(claim, None, unit, target, peer=f"{type(error).__name__}: {str(error)[:300]}"))
    seconds = time.perf_counter() - begin
    rows = [row if row.seconds else dataclasses.replace(row, seconds=seconds / len(rows)) for row in rows]
    for row in rows:
        print(row, flush=True)
    return rows


def median_time(call: Callable[[], Any], repeats: int, num_before: int = 2) -> float:
    """Median seconds of a call on JAX's arrays, after some that are not timed."""
    import jax

    taken = []
    for i in range(num_before + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        if i >= num_before:
            taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Lower and upper quartile."""
    low, high = np.quantile(np.asarray(values, float), [0.25, 0.75])
    return float(low), float(high)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Cores, device (an accelerator by name) and how busy the machine is (load averages over 1, 5 and 15 minutes)."""
    import jax

    device = jax.devices()[0]
    found = {"cores": os.cpu_count(), "device": device.platform, "load": [round(x, 1) for x in os.getloadavg()]}
    if device.platform != "cpu":
        found |= {"accelerator": device.device_kind, "runtime": device.client.platform_version}
    return found


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    found.add_argument("--quick", action="store_true", help="smoke sizes, under a minute: the numbers mean little")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument(
        "--rows", nargs="+", action=_Choose, default=[], metavar="TEXT", help="only measurements whose name holds one"
    )
    return found


class _Choose(argparse.Action):
    """Keeps the texts for `rows_of`."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        _CHOSEN[:] = values
        setattr(namespace, self.dest, values)


def in_lockstep(items: int, on_cpu: int) -> int:
    """How many items to work on together: as many as a processor's cache holds, or all of up to 1000 on a GPU."""
    import jax

    return min(items, on_cpu if jax.default_backend() == "cpu" else 1000)


def write(path: pathlib.Path | None, benchmark: str, quick: bool, rows: Iterable[Row]) -> dict[str, Any]:
    """The file's content, written to `path` if given."""
    content = {
        "benchmark": benchmark,
        "quick": quick,
        "versions": versions(),
        "machine": machine(),
        "rows": [row.as_dict() for row in rows],
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content
