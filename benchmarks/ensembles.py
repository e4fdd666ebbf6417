"""Gradient samplers: effective draws a second of ChEES, the default and NUTS, beside NumPyro, BlackJAX, nutpie, Stan.

The smallest bulk effective sample size over all coordinates, over the CPU seconds (all threads and child processes) of
a whole run with its warm-up, once everything is compiled; all contestants take turns with new seeds. A target has a
row for what must be reached and one for what is aimed at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import probinf as pi
from benchmarks.ensemble_peers import PEERS, Run
from benchmarks.ensemble_posteriors import Case, Target, cases
from benchmarks.record import Row, quartiles
from probinf.inference.diagnostics import diagnose
from probinf.kernels import chains


def _ours(case: Case, method: Any) -> tuple[Run, Callable[[float, int], Any]]:
    def posterior(shift: float, seed: int) -> Any:
        return pi.infer(case.program(shift), method, seed=seed, progress=False)

    def run(seed: int) -> np.ndarray:
        found = posterior(0.0, seed)
        sites = [site for site in found.sites if site != "theta"] or list(found.sites)
        columns = [found[site].reshape(*found[site].shape[:2], -1) for site in (*sites, "theta") if site in found]
        return np.concatenate(columns, axis=2)

    return run, posterior


def _stopwatch() -> Callable[[], np.ndarray]:
    """CPU seconds (all threads, child processes too) and wall seconds since this call."""
    children, cpu, wall = _seconds_of_children(), time.process_time(), time.perf_counter()

    def elapsed() -> np.ndarray:
        own, seconds = time.process_time() - cpu, time.perf_counter() - wall
        return np.array([own + _seconds_of_children() - children, seconds])

    return elapsed


def _seconds_of_children() -> float:
    """CPU seconds of child processes and theirs: those that have ended and, with psutil, those that still run."""
    ended = os.times()
    seconds = ended.children_user + ended.children_system
    try:
        import psutil
    except ImportError:
        return seconds
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def of_case(name: str, case: Case, quick: bool, seed: int) -> list[Row]:
    """All rows of one posterior."""
    chees, nuts = pi.ChEES(non_centred=case.non_centred), pi.NUTS(non_centred=case.non_centred)
    methods = {"default": pi.Auto(chees=chees, nuts=nuts), "ChEES": chees, "NUTS": nuts}
    contestants: dict[str, Run] = {}
    again: dict[str, Callable[[float, int], Any]] = {}
    for label, method in methods.items():
        contestants[label], again[label] = _ours(case, method)
    missing: dict[str, str] = {}
    for label, build in PEERS.items():
        try:
            contestants[label] = build(case)
        except ImportError as error:
            missing[label] = f"not installed: {error}"
    first: dict[str, np.ndarray] = {}
    second: dict[str, np.ndarray] = {}
    compiled: dict[str, int] = {}
    for label in list(contestants):
        if label in ("default", "ChEES"):  # they share what they compile
            chains._cache.clear()
        elapsed = _stopwatch()
        try:
            contestants[label](seed)
        except Exception as error:  # a peer that breaks down is a row that misses
            missing[label] = f"{type(error).__name__}: {str(error)[:200]}"
            del contestants[label]
            continue
        first[label] = elapsed()
        if label in again:
            elapsed, before = _stopwatch(), chains.compilations()
            again[label](0.01, seed + 1)
            second[label], compiled[label] = elapsed(), chains.compilations() - before
    speeds: dict[str, list[np.ndarray]] = {label: [] for label in contestants}
    for turn in range(1 if quick else case.turns):
        for label, run in contestants.items():
            elapsed = _stopwatch()
            x = run(seed + 2 + turn)
            seconds = elapsed()
            speeds[label].append(float(np.nanmin(diagnose(x).ess_bulk)) / seconds)
    median = {label: np.median(np.array(values), axis=0) for label, values in speeds.items()}
    rows = []
    for label, (cpu, wall) in median.items():
        each = np.array(speeds[label])[:, 0]
        note = f"{wall:.0f} per wall second; first call {first[label][1]:.1f} s, {first[label][0]:.1f} s CPU"
        unit = "ESS per CPU second"
        rows.append(Row(f"{name}: {label}", cpu, unit, None, "higher", note, len(each), quartiles(each)))
    rows += [Row(f"{name}: {label}", None, "ESS per CPU second", None, "higher", why) for label, why in missing.items()]
    wanted = [*case.targets, *(Target("default", peer, None, None) for peer in ("blackjax", "stan"))]
    for ours, peer, must, ambitious in wanted:
        ratio = median[ours][0] / median[peer][0] if peer in median else None
        why, n = missing.get(peer, "per CPU second"), len(speeds[ours])
        claim = f"{name}: {ours} over {peer}"
        if must is not None or ambitious is None:
            rows.append(Row(claim, ratio, "ratio", must, "higher", why, n))
        if ambitious is not None:
            rows.append(Row(f"{claim}, ambitious", ratio, "ratio", ambitious, "higher", why, n))
    for label, seconds in second.items():
        share = float(seconds[1] / first[label][1])
        claim = f"{name}: {label}, second call with new data and seed, over the first"
        rows.append(Row(claim, share, "ratio", 0.05, peer=f"{seconds[1]:.2f} s, wall, sampling included"))
        claim = f"{name}: {label}, compilations of a second call with new data and seed"
        rows.append(Row(claim, compiled[label], "programs", 0.0))
    return rows


def rows(quick: bool, seed: int) -> list[Row]:
    """All rows."""
    return [row for name, case in cases().items() for row in of_case(name, case, quick, seed)]
