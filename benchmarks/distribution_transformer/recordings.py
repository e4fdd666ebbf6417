"""Real recordings: a vehicle that does not know where it starts, and ranges from a tight cluster of anchors.

    python -m benchmarks.distribution_transformer --group recordings --folder FOLDER

FOLDER holds the recording Plaza 1 (beacons.csv, odometry.csv, ranges.csv, truth.csv); the ultra-wideband recordings are
those of `examples/outdoor_uwb.py`. Noise levels were chosen on Plaza 1 and on the first of the two; the scale of Plaza
1's ranges is an entry of the state, and no bias is taken off the others. Errors of paired differences are over blocks
of ten seconds, since neighbours depend on each other.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import probinf as pi
import smc
from benchmarks.record import Row, rows_of
from examples import unknown_start, uwb_recording
from examples.outdoor_uwb import NOMINAL, OUTLIER_SD, nominal_system
from transformers_gmm.correction.refitted import RefittedFilter
from transformers_gmm.filtering import MixtureFilter
from transformers_gmm.tasks.anchors import Anchors
from transformers_gmm.tasks.walker import Walker

_STARTS = 180.0 * np.arange(10)  # seconds into Plaza 1; every three minutes
_LEARNED = 60.0  # seconds after which errors count
_BLOCK = 10.0  # seconds
_METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "base, no network": lambda task, _: MixtureFilter(task),
    "network": MixtureFilter,
    "particle filter 3,000": lambda *_: smc.ParticleFilter(3000),
    "particle filter 20,000": lambda *_: smc.ParticleFilter(20_000),
    "corrected, 256 points": lambda task, network: RefittedFilter(MixtureFilter(task, network), 256, num_components=64),
}
_QUICK = ("base, no network", "particle filter 3,000")


def rows(
    networks: Mapping[str, Any], *, quick: bool = False, seed: int = 0, folder: pathlib.Path | None = None
) -> list[Row]:
    """All rows; without a folder those of Plaza 1 miss."""
    found: list[Row] = []
    for name in _METHODS:
        if (name != "network" or "odometry" in networks) and (not quick or name in _QUICK):
            make = functools.partial(_plaza, name, networks, quick, seed, folder)
            found += rows_of(f"Plaza 1, unknown start, {name}", "share", 1.0, make)
    for name in ("los_a1", "nlos_a1"):
        make = functools.partial(outdoor, networks, name, quick, seed)
        found += rows_of(f"outdoor ranges, {name}: log score", "nats", 0.0, make)
    return found


def _plaza(
    name: str, networks: Mapping[str, Any], quick: bool, seed: int, folder: pathlib.Path | None
) -> Iterator[Row]:
    if folder is None:
        raise FileNotFoundError("no --folder with the recording")
    drive = unknown_start.recorded(folder)
    method = _METHODS[name](drive.task, networks.get("odometry"))
    starts, events = (_STARTS[:2], 600) if quick else (_STARTS, 2100)
    return unknown_starts(drive, name, method, starts, events, seed)


def unknown_starts(
    drive: unknown_start.Drive, name: str, method: Any, starts: np.ndarray, events: int, seed: int
) -> Iterator[Row]:
    """One filter from several start times, each followed for `events` events (2,100 take about five minutes).

    A start converges if the error at some time stays below 2 m for 10 s and is below 2 m (root mean square) after the
    first minute.
    """
    times, errors, scores = [], [], []
    for start in starts:
        first = int(np.searchsorted(drive.log.times, start))
        piece = drive._replace(log=drive.log[first : first + events])
        run = unknown_start.follow(piece, method, seed, keep_states=False)
        error = piece.errors(run)
        late = run.times - run.times[0] > _LEARNED
        times.append(unknown_start.settled(run.times, error))
        errors.append(float(np.sqrt(np.mean(error[late] ** 2))) if late.any() else float("inf"))
        heard = run.sensors != np.array(None)
        scores.append(float(np.mean(np.asarray(run.predictive_log_densities)[heard])))
    good = np.isfinite(times) & (np.array(errors) < 2.0)
    claim = f"Plaza 1, unknown start, {name}"
    is_ours = "particle filter" not in name
    note = f"{good.sum()} of {len(good)}; settled after " + ", ".join(f"{t:.1f}" for t in times) + " s"
    target = 1.0 if is_ours else None
    yield Row(f"{claim}: share that converges", float(good.mean()), "share", target, "higher", note, len(good))
    note = (
        "medians; each " + ", ".join(f"{e:.2f}" for e in errors) + f" m; log score {np.mean(scores):.3f} nats a range"
    )
    yield Row(f"{claim}: RMSE after a minute", float(np.median(errors)), "m", None, "lower", note, len(errors))


def outdoor(networks: Mapping[str, Any], name: str, quick: bool, seed: int) -> Iterator[Row]:
    """Predictive log score per range, paired with a particle filter of the same model."""
    recording = uwb_recording.load(name, 20.0 if quick else None)
    num_particles = 1000 if quick else 10_000
    theirs = _scores(nominal_system(recording), recording.log, smc.ParticleFilter(num_particles), seed)
    task, log = walker_task(recording)
    x, y = recording.truth[0, 1:]
    prior = pi.GaussianMixture.gaussian(np.array([x, y, 0.0, 0.0]), np.diag([0.25, 0.25, 1.0, 1.0]))
    methods = {"base, no network": MixtureFilter(task)}
    if "walker" in networks:
        methods["network"] = MixtureFilter(task, networks["walker"])
    for label, method in methods.items():
        ours = _scores(task.system(prior), log, method, seed)
        gain, error = blocked(recording.log.times, ours[0] - theirs[0])
        errors = [_rmse(recording, run) for run in (ours[1], theirs[1])]
        note = f"+- {error:.2g}; {ours[0].mean():.4f} against {theirs[0].mean():.4f} nats; "
        note += f"RMSE {errors[0]:.2f} against {errors[1]:.2f} m; {task.config.num_components} components"
        claim = f"outdoor ranges, {name}, {label}: log score over a {num_particles}-particle filter's, a range"
        yield Row(claim, gain, "nats", 0.0, "higher", note, len(ours[0]))


def walker_task(recording: uwb_recording.Recording) -> tuple[Walker, pi.Log]:
    """The recording's anchors as sensors, heights over the target's, at the noise levels of the example."""
    anchors = Anchors(
        tuple((float(x), float(y), float(z - recording.height)) for x, y, z in recording.anchors),
        NOMINAL["range_sd"],
        OUTLIER_SD,
        NOMINAL["outlier_share"],
    )
    log, places = recording.log, recording.anchors
    which = np.argmin(np.sum((log.inputs[:, None] - places[None]) ** 2, axis=-1), axis=1)
    events = {name: (log.times[which == i], log.values[which == i, 0]) for i, name in enumerate(anchors.names)}
    return Walker(anchors=anchors, acceleration=NOMINAL["acceleration"]), pi.Log(events)


def blocked(times: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """Mean, and the half-width of its 95 % interval from the sums of blocks of ten seconds."""
    block = np.floor((times - times[0]) / _BLOCK).astype(int)
    centred = np.bincount(block, gains - gains.mean())
    return float(gains.mean()), float(1.96 * np.sqrt(np.sum(centred**2)) / len(gains))


def _scores(system: pi.System, log: pi.Log, method: Any, seed: int) -> tuple[np.ndarray, Any]:
    run = system.filter(method).run(log, seed, t0=0.0)
    return np.asarray(run.predictive_log_densities, float), run


def _rmse(recording: uwb_recording.Recording, run: Any) -> float:
    gap = np.asarray(run.means)[:, :2] - recording.true_positions(run.times)
    return float(np.sqrt(np.mean(np.sum(gap**2, axis=1))))
