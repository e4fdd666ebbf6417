"""Program-level sequential Monte Carlo and the filters of streams against exact and published numbers."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from benchmarks.record import Row, quartiles

DATA = pathlib.Path(__file__).parent.parent / "tests" / "data"
NILE_VARIANCES = (1469.1, 15099.0)  # level and noise, Durbin & Koopman (2012), section 2.10
NILE_LOG_LIKELIHOOD = -632.546  # of the last 99 values given the first
ACCEPTED_RMSE = np.array([0.11, 0.11, 0.52, 0.52])  # px, py, vx, vy: the accepted accuracy for the lidar-radar file


@pi.model
def walk(ys: Any, slope: float, move_sd: float, noise_sd: float, mean: float, sd: float) -> jax.Array:
    """x' = slope x + N(0, move_sd) from x_0 ~ N(mean, sd), seen in noise after each step; the last state."""
    x = pi.sample("start", dist.Normal(mean, sd))

    def step(x: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        x = pi.sample("x", dist.Normal(slope * x, move_sd))
        pi.observe("y", dist.Normal(x, noise_sd), y)
        return x, None

    return jax.lax.scan(step, x, ys)[0]


def kalman(ys: np.ndarray, slope: float, move_sd: float, noise_sd: float, mean: float, sd: float) -> tuple:
    """Exact log evidence (nats) and filtered means of `walk`, by the scalar Kalman filter in NumPy."""
    variance, log_evidence, means = sd**2, 0.0, []
    for y in ys:
        mean, variance = slope * mean, slope**2 * variance + move_sd**2
        total = variance + noise_sd**2
        log_evidence -= 0.5 * (np.log(2 * np.pi * total) + (y - mean) ** 2 / total)
        mean, variance = mean + variance / total * (y - mean), variance * noise_sd**2 / total
        means.append(mean)
    return log_evidence, np.array(means)


def _populations(program: Any, num_particles: int, num_runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log evidence and mean of the returned state of independent runs, one after another in one compiled loop."""
    transformed = pi.population(program, num_particles)

    @jax.jit
    def runs(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            found, _ = transformed.run(key)
            return found.log_evidence, found.expectation(lambda x: x)

        return jax.lax.map(one, keys)

    log_z, means = runs(jax.random.split(jax.random.key(seed), num_runs))
    return np.asarray(log_z), np.asarray(means)


def _evidence_rows(name: str, log_z: np.ndarray, exact: float, num_particles: int, length: int) -> Iterator[Row]:
    size = f"{length} steps, {num_particles} particles"
    ratio = np.exp(log_z - exact)
    error = ratio.std(ddof=1) / np.sqrt(ratio.size)
    yield Row(
        f"{name}, {size}: mean of the evidence estimate, distance from the exact value",
        abs(ratio.mean() - 1.0) / error,
        "standard errors",
        3.0,
        peer=f"Kalman {exact:.4f} nats; log of the mean estimate {exact + np.log(ratio.mean()):.4f}, "
        f"standard error {error:.4f} of the evidence",
        n=ratio.size,
        spread=quartiles(log_z - exact),
    )
    yield Row(f"{name}, {size}: variance of the log evidence", log_z.var(ddof=1), "nats squared", 0.1, n=ratio.size)


def linear_gaussian(quick: bool, seed: int) -> Iterator[Row]:
    """Evidence and filtered means of the AR(1) program; filtered means at four lengths, bias O(1/N) neglected."""
    length, num_particles, num_runs = (20, 200, 20) if quick else (100, 2000, 100)
    rng = np.random.default_rng(seed)
    settings = (0.9, 1.0, 1.0, 0.0, 1.0)
    x, ys = rng.normal(), []
    for _ in range(length):
        x = 0.9 * x + rng.normal()
        ys.append(x + rng.normal())
    exact, means = kalman(np.array(ys), *settings)
    worst, where = 0.0, 0
    for stop in sorted({length // 20, length // 5, length // 2, length}):
        log_z, found = _populations(walk(np.array(ys[:stop]), *settings), num_particles, num_runs, seed + stop)
        apart = abs(found.mean() - means[stop - 1]) / (found.std(ddof=1) / np.sqrt(num_runs))
        worst, where = max((worst, where), (apart, stop))
    yield from _evidence_rows("linear-Gaussian program", log_z, exact, num_particles, length)
    yield Row(
        "linear-Gaussian program: filtered mean over the runs, worst of four times",
        worst,
        "standard errors",
        4.0,
        peer=f"Kalman; worst at step {where}",
        n=num_runs,
    )


@pi.state_space
def local_level(level_variance: Any, noise_variance: Any, first: Any) -> pi.System:
    """The Nile's level; given the first value it is N(first, noise variance)."""
    return pi.System(
        prior=dist.Normal(first, jnp.sqrt(noise_variance)).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(level_variance * dt)).to_event(1),
        see={"flow": lambda x: dist.Normal(x[0], jnp.sqrt(noise_variance))},
        linear_gaussian=True,
    )


def nile(quick: bool, seed: int) -> Iterator[Row]:
    """The Nile's log likelihood by the Kalman filter and by particles run from the program."""
    num_particles, num_runs = (500, 20) if quick else (2000, 100)
    year, volume = np.loadtxt(DATA / "nile" / "nile.csv", delimiter=",", skiprows=1).T
    level, noise = NILE_VARIANCES
    log = pi.Log({"flow": (year[1:], volume[1:])})
    run = local_level(level, noise, volume[:1]).filter(smc.EKF()).run(log, t0=year[0])
    yield Row(
        "Nile: log likelihood of the Kalman filter, distance from the published value",
        abs(float(run.log_evidence) - NILE_LOG_LIKELIHOOD),
        "nats",
        5e-4,
        peer=f"published {NILE_LOG_LIKELIHOOD}, found {float(run.log_evidence):.5f}",
    )
    settings = (1.0, float(np.sqrt(level)), float(np.sqrt(noise)), float(volume[0]), float(np.sqrt(noise)))
    exact, _ = kalman(volume[1:], *settings)
    log_z, _ = _populations(walk(volume[1:], *settings), num_particles, num_runs, seed)
    yield from _evidence_rows("Nile program", log_z, exact, num_particles, volume.size - 1)


def _radar(position: jax.Array, velocity: jax.Array) -> dist.Distribution:
    """Range (m), bearing (rad), range rate (m/s)."""
    distance = jnp.sqrt(position @ position)
    mean = jnp.stack([distance, jnp.arctan2(position[1], position[0]), position @ velocity / distance])
    return dist.MultivariateNormal(mean, jnp.diag(jnp.array([0.3, 0.03, 0.3]) ** 2))


@pi.state_space
def straight(acceleration: Any, first: Any) -> pi.System:
    """Constant velocity. State: px, py (m), vx, vy (m/s); `acceleration` (m/s2) is constant over a step."""

    def move(x: jax.Array, dt: jax.Array) -> dist.Distribution:
        push = jnp.stack([0.5 * dt**2, dt])
        noise = acceleration**2 * jnp.kron(jnp.outer(push, push), jnp.eye(2)) + 1e-9 * jnp.eye(4)
        return dist.MultivariateNormal(jnp.concatenate([x[:2] + dt * x[2:], x[2:]]), noise)

    return pi.System(
        prior=dist.Normal(jnp.concatenate([first, jnp.zeros(2)]), jnp.array([0.15, 0.15, 5.0, 5.0])).to_event(1),
        move=move,
        see={
            "lidar": lambda x: dist.Normal(x[:2], 0.15).to_event(1),
            "radar": pi.Sensor(lambda x: _radar(x[:2], x[2:]), angles=(1,)),
        },
    )


@pi.state_space
def turning(acceleration: Any, turning: Any, first: Any) -> pi.System:
    """Constant turn rate and speed. State: px, py (m), speed (m/s), heading (rad), turn rate (rad/s)."""

    def move(x: jax.Array, dt: jax.Array) -> dist.Distribution:
        px, py, speed, heading, rate = x
        is_straight = jnp.abs(rate) < 1e-4
        safe = jnp.where(is_straight, 1.0, rate)
        ahead = jnp.stack([jnp.cos(heading), jnp.sin(heading)])
        after = heading + safe * dt
        arc = jnp.stack([jnp.sin(after) - jnp.sin(heading), jnp.cos(heading) - jnp.cos(after)])
        step = jnp.where(is_straight, speed * dt * ahead, speed / safe * arc)
        push = acceleration * jnp.concatenate([0.5 * dt**2 * ahead, dt[None], jnp.zeros(2)])
        twist = turning * jnp.concatenate([jnp.zeros(3), jnp.stack([0.5 * dt**2, dt])])
        mean = jnp.stack([px + step[0], py + step[1], speed, heading + rate * dt, rate])
        return dist.MultivariateNormal(mean, jnp.outer(push, push) + jnp.outer(twist, twist) + 1e-6 * jnp.eye(5))

    def radar(x: jax.Array) -> dist.Distribution:
        return _radar(x[:2], x[2] * jnp.stack([jnp.cos(x[3]), jnp.sin(x[3])]))

    start = jnp.concatenate([first, jnp.zeros(3)])
    return pi.System(
        prior=dist.Normal(start, jnp.array([0.15, 0.15, 5.0, 2.0, 1.0])).to_event(1),
        move=move,
        see={"lidar": lambda x: dist.Normal(x[:2], 0.15).to_event(1), "radar": pi.Sensor(radar, angles=(1,))},
        angles=(3,),
    )


def _lidar_radar_file() -> tuple[pi.Log, np.ndarray, np.ndarray]:
    """Log (seconds), true px, py, vx, vy at its events, and the first position."""
    events, truth = [], []
    for line in (DATA / "lidar_radar" / "measurements.txt").read_text().splitlines():
        kind, *fields = line.split()
        size, numbers = (2 if kind == "L" else 3), [float(field) for field in fields]
        events.append((numbers[size] / 1e6, "lidar" if kind == "L" else "radar", numbers[:size]))
        truth.append(numbers[size + 1 : size + 5])
    return pi.Log(events), np.array(truth), np.array(events[0][2])


def lidar_radar(quick: bool, seed: int) -> Iterator[Row]:
    """RMSE on the classic file, as the worst share of the accepted accuracy over px, py, vx, vy."""
    log, truth, first = _lidar_radar_file()
    num_particles, num_runs = (500, 1) if quick else (2000, 10)
    guided = smc.ParticleFilter(num_particles, proposal="extended")
    for name, system, method, repetitions in (
        ("UKF, turning model", turning(1.5, 0.6, first), smc.UKF(), 1),
        ("UKF, straight model", straight(3.0, first), smc.UKF(), 1),
        (f"guided particle filter, {num_particles} particles, straight model", straight(3.0, first), guided, num_runs),
    ):
        filtering = system.filter(method)
        errors = []
        for k in range(repetitions):
            means = np.asarray(filtering.run(log[1:], seed + k, t0=log.times[0]).means)
            if means.shape[1] == 5:
                position, speed, heading = means[:, :2], means[:, 2], means[:, 3]
                means = np.column_stack([position, speed * np.cos(heading), speed * np.sin(heading)])
            errors.append(np.sqrt(np.mean((means - truth[1:]) ** 2, axis=0)))
        shares = np.max(np.array(errors) / ACCEPTED_RMSE, axis=1)
        yield Row(
            f"lidar-radar file, {name}: RMSE, worst share of the accepted {ACCEPTED_RMSE.tolist()}, worst run",
            shares.max(),
            "share",
            1.0,
            peer=f"mean RMSE {np.round(np.mean(errors, axis=0), 3).tolist()}",
            n=repetitions,
            spread=quartiles(shares),
        )
