"""Where is the walker? Sequential sensor fusion on a real recording with ground truth.

Four radio anchors within 3 m of each other measure ranges to a target that moves up to 50 m away. A position is known
well along the line of sight and badly across it, one range in fifty is off by metres, and no two ranges arrive at the
same time. One state-space program says how the target moves and what an anchor hears, outliers included. It is filtered
by particles run from that program and by extended and unscented Kalman filters; its unknown noise levels are inferred
from nineteen seconds of ranges by NUTS and by SMC².

    python -m examples.outdoor_uwb --out outdoor_uwb

Data: Comprehensive outdoor UWB dataset, ADIP laboratory, Hanyang University (doi 10.5281/zenodo.15226105), Apache-2.0.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc

DATA = pathlib.Path(__file__).parent / "data" / "uwb_outdoor"

# The data's README: white acceleration 0.5 m2/s3, range sd 0.25 m, outlier sd 1.5 m, 5 % outliers.
NOMINAL = {"range_sd": 0.25, "acceleration": 0.5, "outlier_share": 0.05}
UNITS = {"range_sd": "m", "acceleration": "m²/s³", "outlier_share": None}
OUTLIER_SD = 1.5
BURST = 0.02  # s: the four anchors report within 4 ms of each other every 100 ms, and share one state
STRETCH = {"recording": "los_a1", "start": 184.0, "seconds": 19.0, "every": 4}


@pi.state_space
def walker(range_sd: Any, acceleration: Any, outlier_share: Any, height: Any, start: Any) -> pi.System:
    """Constant velocity driven by white acceleration; ranges to anchors, some of them outliers.

    State: x, y (m), vx, vy (m/s). `acceleration` is the spectral density of the driving noise, m2/s3; `height` the
    known height of the target, m; `start` the mean of the state at the start.
    """
    prior = dist.MultivariateNormal(start, jnp.diag(jnp.array([0.25, 0.25, 1.0, 1.0])))

    def move(x: jax.Array, dt: jax.Array) -> dist.Distribution:
        drift = jnp.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        mean = jnp.concatenate([x[:2] + dt * x[2:], x[2:]])
        return dist.MultivariateNormal(mean, acceleration * jnp.kron(drift, jnp.eye(2)))

    def hear(x: jax.Array, anchor: jax.Array) -> dist.Distribution:
        distance = jnp.sqrt(jnp.sum((x[:2] - anchor[:2]) ** 2) + (height - anchor[2]) ** 2)
        share = dist.Categorical(jnp.stack([1.0 - outlier_share, outlier_share]))
        return dist.MixtureSameFamily(share, dist.Normal(jnp.stack([distance] * 2), jnp.stack([range_sd, OUTLIER_SD])))

    return pi.System(prior=prior, move=move, see={"range": hear})


@pi.model
def unknown_noise(log: pi.Log, height: float, start: Any) -> jax.Array:
    """The same system with unknown noise levels: states and parameters together."""
    range_sd = pi.sample("range_sd", dist.LogNormal(jnp.log(0.3), 0.7))
    acceleration = pi.sample("acceleration", dist.LogNormal(jnp.log(0.5), 1.0))
    outlier_share = pi.sample("outlier_share", dist.Beta(1.0, 9.0))
    system = walker(range_sd, acceleration, outlier_share, height, start)
    return pi.observe_log(system, log, together=BURST)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much work the demonstration does."""

    seconds: float | None = None
    num_particles: int = 10_000
    nuts: pi.NUTS = dataclasses.field(default_factory=lambda: pi.NUTS(num_draws=1000, dense_metric="laplace"))
    smc2: smc.SMC2 = dataclasses.field(default_factory=lambda: smc.SMC2(192, 384))

    @staticmethod
    def quick() -> Sizes:
        """Sizes for a smoke test: the numbers mean nothing."""
        return Sizes(
            seconds=12.0,
            num_particles=300,
            nuts=pi.NUTS(num_warmup=20, num_draws=20, num_chains=2, max_tree_depth=4),
            smc2=smc.SMC2(16, 32, num_moves=1),
        )


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


class Score(NamedTuple):
    """One row of the table: errors in m, log scores in nats, microseconds per update in a scan and one at a time."""

    recording: str
    method: str
    rmse: float
    nees: float
    log_score: float
    log_evidence: float
    update_us: float
    streamed_us: float


def score(recording: Recording, name: str, track: Track, streamed: float) -> Score:
    """Compare a track with the truth."""
    error = track.means[:, :2] - recording.true_positions(track.times)
    nees = np.einsum("ni,nij,nj->n", error, np.linalg.inv(track.covs[:, :2, :2]), error)
    return Score(
        recording.name,
        name,
        float(np.sqrt(np.mean(np.sum(error**2, axis=1)))),
        float(np.mean(nees)),
        float(np.mean(track.predictive_log_densities)),
        float(np.sum(track.predictive_log_densities)),
        1e6 * track.seconds,
        1e6 * streamed,
    )


def stream(filtering: pi.Filter, log: pi.Log, seed: int, num_events: int) -> float:
    """Feed events one at a time, as a sensor would; median seconds per update, result on the host."""
    belief = filtering.start(seed, 0.0)
    seconds = []
    for k in range(min(num_events, len(log))):
        event = log[k]
        begin = time.perf_counter()
        belief, _ = filtering.update(belief, event.time, event.sensor, event.value, event.inputs)
        np.asarray(belief.mean)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[min(20, len(seconds) // 2) :]))


def nominal_system(recording: Recording) -> pi.System:
    """The system at the nominal noise levels, started at the first true position (known to 0.5 m)."""
    start = jnp.array([recording.truth[0, 1], recording.truth[0, 2], 0.0, 0.0])
    return walker(**NOMINAL, height=recording.height, start=start)


class Track(NamedTuple):
    """What a filter says after every event of a recording; the last belief; seconds per event, without compilation."""

    times: np.ndarray
    means: np.ndarray
    covs: np.ndarray
    predictive_log_densities: np.ndarray
    ess: np.ndarray
    belief: Any
    seconds: float


def follow(filtering: pi.Filter, log: pi.Log, seed: int) -> Track:
    """Filter a log in two equal halves: the first compiles, the second goes on from its belief and is timed."""
    half = len(log) // 2
    first = filtering.run(log[:half], seed, t0=0.0)
    jax.block_until_ready(first.means)
    begin = time.perf_counter()
    second = filtering.run(log[half : 2 * half], belief=first.belief)
    jax.block_until_ready(second.means)
    seconds = (time.perf_counter() - begin) / half

    def joined(part: str) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(r, part)) for r in (first, second)])

    ess = np.concatenate([np.asarray(r.info.ess) for r in (first, second)])
    parts = [joined(p) for p in ("times", "means", "covs", "predictive_log_densities")]
    return Track(*parts, ess, second.belief, seconds)


def run_filters(recording: Recording, num_particles: int, seed: int) -> tuple[list[Score], dict[str, Track]]:
    """Every filter over one recording."""
    methods = {
        "particle filter": smc.ParticleFilter(num_particles),
        "EKF": smc.EKF(),
        "EKF, gate 9": smc.EKF(gate=9.0),
        "UKF": smc.UKF(),
        "UKF, gate 9": smc.UKF(gate=9.0),
    }
    system = nominal_system(recording)
    scores, tracks = [], {}
    for name, method in methods.items():
        filtering = system.filter(method)
        tracks[name] = follow(filtering, recording.log, seed)
        scores.append(score(recording, name, tracks[name], stream(filtering, recording.log, seed, 200)))
    return scores, tracks


class Agreement(NamedTuple):
    """Two posteriors of one parameter: means, difference in joint standard errors, ratio of standard deviations."""

    parameter: str
    nuts: tuple[float, float]
    smc2: tuple[float, float]
    errors_apart: float
    sd_ratio: float

    @property
    def agree(self) -> bool:
        """Means within 4 joint MCSE and an sd ratio in 0.85 to 1.15."""
        return self.errors_apart <= 4 and 0.85 <= self.sd_ratio <= 1.15


def infer_noise(recording: Recording, run: Any, sizes: Sizes, seed: int) -> tuple[list[Agreement], dict[str, Any]]:
    """Unknown noise levels from a stretch of ranges, by two unrelated methods; `run` gives the state at its start."""
    begin, end = STRETCH["start"], STRETCH["start"] + STRETCH["seconds"]
    if end > recording.log.times[-1]:
        begin, end = 0.0, STRETCH["seconds"]
    log = every_nth_burst(recording.log.between(begin, end), STRETCH["every"])
    start = np.asarray(run.means)[np.searchsorted(run.times, begin)]
    program = unknown_noise(log, recording.height, start)
    nuts = dataclasses.replace(sizes.nuts, init=smoothed_start(log, recording.height, start))
    posteriors = {
        "NUTS": pi.infer(program, nuts, seed=seed),
        "SMC²": pi.infer(program, sizes.smc2, seed=seed),
    }
    rows = []
    for name in NOMINAL:
        (m1, s1, e1), (m2, s2, e2) = (_moments(p, name) for p in posteriors.values())
        rows.append(Agreement(name, (m1, s1), (m2, s2), abs(m1 - m2) / float(np.hypot(e1, e2)), s2 / s1))
    return rows, posteriors


def every_nth_burst(log: pi.Log, n: int) -> pi.Log:
    """One burst of ranges in `n`: fewer, better separated states say more about the motion's noise per state."""
    burst = np.concatenate([[0], np.cumsum(np.diff(log.times) > BURST)])
    return log[np.flatnonzero(burst % n == 0)]


def smoothed_start(log: pi.Log, height: float, start: np.ndarray) -> dict[str, Any]:
    """Where the chains start: the nominal noise levels, and the states that a Kalman smoother finds with them."""
    smoother = walker(**NOMINAL, height=height, start=start).filter(smc.EKF(gate=9.0))
    means = np.asarray(smoother.smooth(log, t0=log.times[0]).means)
    rows = np.searchsorted(log.times, pi.state_times(log, together=BURST))
    return {**NOMINAL, "x0": means[0], "x": means[rows]}


def _moments(posterior: pi.Posterior, name: str) -> tuple[float, float, float]:
    """Mean, standard deviation, and standard error of the mean."""
    summary = posterior.summary(sites=[name])
    return float(summary["mean"][0]), float(summary["sd"][0]), float(summary["MCSE"][0])


class Result(NamedTuple):
    """What the demonstration found."""

    recordings: list[Recording]
    scores: list[Score]
    runs: dict[str, dict[str, Any]]
    agreement: list[Agreement]
    posteriors: dict[str, Any]
    hard_moment: tuple[float, np.ndarray, np.ndarray, np.ndarray]


def hard_moment(recording: Recording, run: Any, num_particles: int, seed: int) -> tuple[float, Any, Any, Any]:
    """The moment of the largest cross-range uncertainty: time, particles, their log weights, the true position."""
    spread = np.asarray(run.covs)[:, 0, 0] + np.asarray(run.covs)[:, 1, 1]
    worst = int(np.argmax(spread[: len(spread) - 1]))
    filtering = nominal_system(recording).filter(smc.ParticleFilter(num_particles))
    belief = filtering.run(recording.log[: worst + 1], seed, t0=0.0).belief
    when = float(run.times[worst])
    state = belief.state
    return when, np.asarray(state.particles)[:, :2], np.asarray(state.log_weights), recording.true_positions([when])[0]


def run(sizes: Sizes, seed: int) -> Result:
    """The whole demonstration, without files."""
    recordings = [load(name, sizes.seconds) for name in ("los_a1", "nlos_a1")]
    scores, runs = [], {}
    for recording in recordings:
        rows, runs[recording.name] = run_filters(recording, sizes.num_particles, seed)
        scores += rows
    first = recordings[0]
    particle_run = runs[first.name]["particle filter"]
    agreement, posteriors = infer_noise(first, particle_run, sizes, seed)
    moment = hard_moment(first, particle_run, min(sizes.num_particles, 3000), seed)
    return Result(recordings, scores, runs, agreement, posteriors, moment)


def report(result: Result) -> str:
    """The tables, as text."""
    lines = [
        "Filters (horizontal error; NEES of 2 dimensions; nats per range; microseconds per update)",
        f"{'recording':<10}{'method':<17}{'RMSE m':>8}{'NEES':>9}{'log score':>11}{'log evidence':>14}"
        f"{'scan us':>9}{'stream us':>11}",
    ]
    lines += [
        f"{s.recording:<10}{s.method:<17}{s.rmse:>8.2f}{s.nees:>9.2f}{s.log_score:>11.2f}{s.log_evidence:>14.1f}"
        f"{s.update_us:>9.0f}{s.streamed_us:>11.0f}"
        for s in result.scores
    ]
    lines += [
        "",
        f"Noise levels from {STRETCH['seconds']:g} s of {STRETCH['recording']} starting at {STRETCH['start']:g} s "
        "(mean ± sd)",
        f"{'parameter':<15}{'NUTS':>18}{'SMC²':>18}{'apart, MCSE':>13}{'sd ratio':>10}",
    ]
    for row in result.agreement:
        nuts, smc2 = (f"{m:.3f} ± {s:.3f}" for m, s in (row.nuts, row.smc2))
        verdict = "agree" if row.agree else "DISAGREE"
        lines.append(
            f"{row.parameter:<15}{nuts:>18}{smc2:>18}{row.errors_apart:>13.1f}{row.sd_ratio:>10.2f}  {verdict}"
        )
    evidence = result.posteriors["SMC²"].log_evidence
    lines.append(f"log evidence of the stretch by SMC²: {evidence:.1f} nats")
    return "\n".join(lines)


def figures(result: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw and save the pictures; their paths."""
    import matplotlib.pyplot as plt

    from probinf.plots.cloud import plot_cloud
    from probinf.plots.evidence import plot_ess_and_evidence
    from probinf.plots.marginal import plot_marginal
    from probinf.plots.style import style
    from probinf.plots.track import plot_track

    paths = []

    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=130)
        plt.close(figure)
        paths.append(out / name)

    with style():
        for recording in result.recordings:
            run = result.runs[recording.name]["particle filter"]
            figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
            plot_track(
                np.asarray(run.means)[:, :2],
                np.asarray(run.covs)[:, :2, :2],
                truth=recording.truth[:, 1:],
                landmarks=recording.anchors[:, :2],
                label="particle filter",
                ax=ax,
            )
            ax.set_title(f"{recording.name}: track, 90 % ellipses and truth")
            save(figure, f"track_{recording.name}.png")
        first = result.recordings[0]
        run = result.runs[first.name]["particle filter"]
        figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
        second = np.floor(run.times).astype(int)  # 36 events a second are a solid block: show the worst of each
        seconds, begins = np.unique(second, return_index=True)
        num_particles = run.belief.state.particles.shape[0]
        plot_ess_and_evidence(
            seconds,
            np.minimum.reduceat(run.ess, begins),
            np.cumsum(run.predictive_log_densities)[np.append(begins[1:], len(second)) - 1],
            num_particles=num_particles,
            threshold=0.5 * num_particles,
            time_unit="s",
            ax=ax,
        )
        ax.set_title(f"{first.name}: lowest effective sample size of each second, and evidence")
        save(figure, "ess_and_evidence.png")
        when, particles, log_weights, truth = result.hard_moment
        figure, ax = plt.subplots(figsize=(5.2, 5.2), layout="constrained")
        plot_cloud(particles, log_weights=log_weights, truth=truth, names=("x", "y"), unit="m", ax=ax)
        ax.set_title(f"{first.name}, t = {when:.1f} s: the belief is an arc")
        save(figure, "arc.png")
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
        for ax, (name, unit) in zip(axes, UNITS.items(), strict=True):
            for (label, posterior), color in zip(result.posteriors.items(), ("#1f6f8b", "#d1713a"), strict=True):
                plot_marginal(
                    posterior[name],
                    log_weights=posterior.log_weights,
                    name=name,
                    unit=unit,
                    label=label,
                    color=color,
                    ax=ax,
                )
        axes[0].legend()
        save(figure, "noise_levels.png")
    return paths


def main(argv: list[str] | None = None) -> Result:
    """Run, print the tables, save the pictures and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("outdoor_uwb"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few particles, few seconds of data")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    begin = time.perf_counter()
    result = run(Sizes.quick() if args.quick else Sizes(), args.seed)
    print(report(result))
    print("\nPictures:")
    for path in figures(result, args.out):
        print(f"  {path}")
    print(f"\n{time.perf_counter() - begin:.0f} s in all.")
    return result


if __name__ == "__main__":
    main()
