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
from examples.uwb_recording import STRETCH, Recording, load
from examples.uwb_report import figures, report

# The data's README: white acceleration 0.5 m2/s3, range sd 0.25 m, outlier sd 1.5 m, 5 % outliers.
NOMINAL = {"range_sd": 0.25, "acceleration": 0.5, "outlier_share": 0.05}
OUTLIER_SD = 1.5
BURST = 0.02  # s: the four anchors report within 4 ms of each other every 100 ms, and share one state


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
