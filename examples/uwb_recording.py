"""Reads the recordings of `examples/outdoor_uwb.py`.

Data: Comprehensive outdoor UWB dataset, ADIP laboratory, Hanyang University (doi 10.5281/zenodo.15226105), Apache-2.0.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

import probinf as pi

DATA = pathlib.Path(__file__).parent / "data" / "uwb_outdoor"
# From which the noise levels are inferred: every fourth burst of ranges in nineteen seconds.
STRETCH = {"recording": "los_a1", "start": 184.0, "seconds": 19.0, "every": 4}


class Recording(NamedTuple):
    """One recording: its log, the true track (time, x, y), the median height (m) and the anchors' positions."""

    name: str
    log: pi.Log
    truth: np.ndarray
    height: float
    anchors: np.ndarray

    def true_positions(self, times: np.ndarray) -> np.ndarray:
        """True x, y at given times, shape (n, 2), m."""
        return np.stack([np.interp(times, self.truth[:, 0], self.truth[:, k]) for k in (1, 2)], axis=1)


def load(name: str, seconds: float | None = None) -> Recording:
    """Read a recording ("los_a1" or "nlos_a1"), its first `seconds` only if given.

    Times start at the first true position.
    """
    ranges = np.genfromtxt(DATA / name / "ranges.csv", delimiter=",", names=True)
    truth = np.genfromtxt(DATA / name / "truth.csv", delimiter=",", names=True)
    last = truth["t_s"][-1] if seconds is None else seconds
    kept = ranges[(ranges["t_s"] >= 0) & (ranges["t_s"] <= last)]
    anchors = np.stack([kept[f"anchor_{c}_m"] for c in "xyz"], axis=1)
    log = pi.Log({"range": (kept["t_s"], kept["range_m"], anchors)})
    track = np.stack([truth["t_s"], truth["x_m"], truth["y_m"]], axis=1)
    return Recording(name, log, track, float(np.median(truth["z_m"])), np.unique(anchors, axis=0))
