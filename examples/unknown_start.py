"""Find a vehicle that does not know where it is: wheels, four radio beacons, and a mixture instead of particles.

    python -m examples.unknown_start [--folder FOLDER] [--seed 0] [--particles 3000] [--out FOLDER]

The start is anywhere in a field of 80 m and the heading is any. Sixty-four Gaussians on a grid follow the wheels; every
range weighs them. Within seconds few are left, and the one that is left is where the vehicle is. A particle filter
would have to place a particle within half a metre and a few degrees by luck.

Without --folder a drive is simulated. FOLDER holds the recording "Plaza 1" (Djugash et al. 2009, Navigating with
Ranging Radios): beacons.csv, odometry.csv, ranges.csv and truth.csv, times in seconds, metres and radians.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

import probinf as pi
import smc
import transformers_gmm as dt
from transformers_gmm.tasks.odometry import PLAZA, Odometry


class Drive(NamedTuple):
    """A task, events (wheels as controls, ranges as values), and the true track (time, x, y)."""

    task: Odometry
    log: pi.Log
    truth: np.ndarray

    def errors(self, run: Any) -> np.ndarray:
        """Distance of the mean position from the truth after every event, metres."""
        true = np.stack([np.interp(run.times, self.truth[:, 0], self.truth[:, k]) for k in (1, 2)], axis=1)
        return np.linalg.norm(np.asarray(run.means)[:, :2] - true, axis=1)


def recorded(folder: pathlib.Path) -> Drive:
    """The recording; a range that falls between two rows of the odometer cuts the way between them in two."""
    tables = {
        name: np.genfromtxt(folder / f"{name}.csv", delimiter=",", names=True)
        for name in ("beacons", "odometry", "ranges", "truth")
    }
    beacons, wheels, ranges, truth = tables.values()
    places = tuple((float(b["x_m"]), float(b["y_m"]), 0.0) for b in beacons)
    task = Odometry(anchors=dataclasses.replace(PLAZA, places=places))
    names = {int(b["beacon_id"]): name for b, name in zip(beacons, task.anchors.names, strict=True)}
    heard = (ranges["t_s"] > wheels["t_s"][0]) & (ranges["t_s"] < wheels["t_s"][-1])
    events = [(t, None, None) for t in wheels["t_s"]]
    events += [(r["t_s"], names[int(r["beacon_id"])], r["range_m"]) for r in ranges[heard]]
    events.sort(key=lambda event: event[0])
    times = np.array([event[0] for event in events])
    so_far = [np.interp(times, wheels["t_s"], np.cumsum(wheels[c])) for c in ("delta_distance_m", "delta_heading_rad")]
    controls = np.diff(np.stack(so_far, axis=1), axis=0, prepend=[[part[0] for part in so_far]])
    log = pi.Log([(t, name, value, None, u) for (t, name, value), u in zip(events, controls, strict=True)])
    return Drive(task, log, np.stack([truth["t_s"], truth["x_m"], truth["y_m"]], axis=1))


def simulated(seed: int, steps: int) -> Drive:
    """A drive from the task's own simulator, four instants a second."""
    task = Odometry(horizon=steps)
    series = jax.device_get(jax.jit(lambda key: task.simulate(key, 1))(jax.random.key(seed)))
    times = np.cumsum(series.steps.elapsed[:, 0])
    events = []
    for k, t in enumerate(times):
        name = next((name for name, there in series.steps.present.items() if there[k, 0]), None)
        value = None if name is None else series.steps.values[name][k, 0, 0]
        events.append((t, name, value, None, series.steps.control[k, 0]))
    return Drive(task, pi.Log(events), np.column_stack([times, series.states[:, 0, :2]]))


def settled(times: np.ndarray, errors: np.ndarray, within: float = 2.0, lasting: float = 10.0) -> float:
    """Seconds until the error stays below `within` metres for `lasting` seconds; infinite if it never does."""
    outside = np.append(np.flatnonzero(errors >= within), len(errors))
    begin = 0
    for end in outside:  # errors[begin:end] are all within
        if end > begin and times[end - 1] - times[begin] >= lasting:
            return float(times[begin] - times[0])
        begin = end + 1
    return float("inf")


def follow(drive: Drive, method: Any, seed: int, *, keep_states: bool = False) -> Any:
    """Filter a drive from an unknown start."""
    return drive.task.system(drive.task.unknown_start()).filter(method).run(drive.log, seed, keep_states=keep_states)


def picture(drive: Drive, runs: dict[str, Any], moments: tuple[float, ...] = (0.0, 2.0, 6.0)) -> Any:
    """The mixture at a few times on the map, and the errors over time."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Ellipse

    figure, axes = plt.subplots(1, len(moments) + 1, figsize=(4.2 * (len(moments) + 1), 4), constrained_layout=True)
    places = np.array(drive.task.anchors.places)
    run = next(iter(runs.values()))
    for ax, seconds in zip(axes, moments, strict=False):
        at = max(int(np.searchsorted(run.times, run.times[0] + seconds, side="right")) - 1, 0)
        state = jax.tree.map(lambda x, at=at: x[at], run.states)
        mixture = drive.task.unknown_start() if seconds == 0 else state.current.as_mixture()
        heaviest = float(np.max(mixture.weights))
        parts = map(np.asarray, (mixture.weights, mixture.means, mixture.covariances))
        for weight, mean, cov in zip(*parts, strict=True):
            values, vectors = np.linalg.eigh(cov[:2, :2])
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
            size = 4 * np.sqrt(values[::-1])  # two deviations to either side
            shade = 0.7 * np.sqrt(weight)
            ax.add_patch(Ellipse(mean[:2], *size, angle=angle, color="#2471a3", alpha=shade, lw=0))
            if weight > 0.02 * heaviest:
                tip = 5 * np.array([np.cos(mean[2]), np.sin(mean[2])])
                ax.plot(*(mean[:2, None] + np.outer(tip, [0, 1])), color="#1b2631", lw=1)
        true = [np.interp(run.times[at], drive.truth[:, 0], drive.truth[:, k]) for k in (1, 2)]
        ax.plot(*true, "o", color="#c0392b", markersize=5, label="vehicle")
        ax.plot(places[:, 0], places[:, 1], "k^", markersize=7, label="beacons")
        ax.set(title=f"after {seconds:.0f} s" if seconds else "start", xlabel="x, m", ylabel="y, m", aspect="equal")
        ax.set_xlim(places[:, 0].min() - 15, places[:, 0].max() + 15)
        ax.set_ylim(places[:, 1].min() - 15, places[:, 1].max() + 15)
    axes[0].legend(loc="upper left", fontsize=8)
    for (name, run), colour in zip(runs.items(), ("#2471a3", "#ca6f1e"), strict=False):
        axes[-1].semilogy(run.times - run.times[0], np.maximum(drive.errors(run), 0.01), color=colour, label=name)
    axes[-1].axhline(2.0, color="grey", lw=0.8)
    axes[-1].set(title="error of the mean position", xlabel="s", ylabel="m")
    axes[-1].legend(fontsize=8)
    return figure


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run, print and draw; returns seconds until each filter has settled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="the recording; a simulated drive if left out")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the recording")
    parser.add_argument("--events", type=int, default=480, help="events to follow; four or seven make a second")
    parser.add_argument("--particles", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    args = parser.parse_args(argv)
    drive = simulated(args.seed, args.events) if args.folder is None else recorded(args.folder)
    first = int(np.searchsorted(drive.log.times, args.start))
    drive = drive._replace(log=drive.log[first : first + args.events])
    base = dt.MixtureFilter(drive.task)
    methods: dict[str, Any] = {f"{drive.task.config.num_components} Gaussians": base}
    methods[f"{args.particles} particles"] = smc.ParticleFilter(args.particles)
    runs = {name: follow(drive, method, args.seed, keep_states=method is base) for name, method in methods.items()}
    found = {}
    for name, run in runs.items():
        found[name] = settled(run.times, drive.errors(run))
        print(f"{name}: within 2 m for 10 s after {found[name]:.1f} s; error at the end {drive.errors(run)[-1]:.2f} m")
    args.out.mkdir(parents=True, exist_ok=True)
    picture(drive, runs).savefig(args.out / "unknown_start.png", dpi=120)
    print(f"wrote {args.out / 'unknown_start.png'}")
    return found


if __name__ == "__main__":
    main()
