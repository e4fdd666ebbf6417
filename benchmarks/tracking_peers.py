"""One range-bearing tracking problem, and a step of a particle filter on it by every package: state in, state out.

State (x, y, vx, vy) with constant velocity over steps of one second; a radar sees range (sd 1 m) and bearing (sd 0.02).
Systematic resampling when the effective sample size is at most half of the particles. A peer is a function of the
number of particles that returns `step(z)`, which has the new cloud ready when it returns.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from benchmarks.reference_filter import systematic
from probinf.language.arctangent import arctan2
from probinf.language.small_products import product
from smc.paired_threefry import paired
from smc.particles import summed
from smc.resample_lanes import resample_if

INTENSITY, RANGE_SD, BEARING_SD = 0.05, 1.0, 0.02
PRIOR_MEAN, PRIOR_VARIANCE = np.array([50.0, 30.0, 1.0, -0.5]), np.array([25.0, 25.0, 1.0, 1.0])

Step = Callable[[np.ndarray], Any]


def motion(dt: Any, xp: Any = np) -> tuple[Any, Any]:
    """Matrix and noise covariance of a step of `dt` seconds."""
    one, zero = xp.ones_like(dt), xp.zeros_like(dt)
    eye = xp.eye(2, dtype=dt.dtype)
    matrix = xp.stack([xp.stack([one, dt]), xp.stack([zero, one])])
    noise = INTENSITY * xp.stack([xp.stack([dt**3 / 3, dt**2 / 2]), xp.stack([dt**2 / 2, dt])])
    return xp.kron(matrix, eye), xp.kron(noise, eye)


F, Q = (a.astype(np.float32) for a in motion(np.float32(1.0)))
L = np.linalg.cholesky(Q).astype(np.float32)


def radar_series(seed: int, length: int) -> np.ndarray:
    """A track and what the radar sees of it: (T, 2), range in metres and bearing in radians; far from the cut."""
    rng = np.random.default_rng(seed)
    states = [PRIOR_MEAN]
    for _ in range(length):
        states.append(F @ states[-1] + 0.3 * L @ rng.standard_normal(4))
    x = np.array(states[1:])
    seen = np.stack([np.hypot(x[:, 0], x[:, 1]), np.arctan2(x[:, 1], x[:, 0])], 1)
    return (seen + rng.standard_normal(seen.shape) * [RANGE_SD, BEARING_SD]).astype(np.float32)


def system() -> pi.System:
    """The problem as a user writes it."""

    def move(x: jax.Array, dt: jax.Array) -> dist.Distribution:
        matrix, noise = motion(dt, jnp)
        return dist.MultivariateNormal(matrix @ x, noise)

    def radar(x: jax.Array) -> dist.Distribution:
        seen = jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])
        return dist.Normal(seen, jnp.array([RANGE_SD, BEARING_SD])).to_event(1)

    covariance = jnp.diag(jnp.asarray(PRIOR_VARIANCE, jnp.float32))
    prior = dist.MultivariateNormal(jnp.asarray(PRIOR_MEAN, jnp.float32), covariance_matrix=covariance)
    return pi.System(prior=prior, move=move, see={"radar": radar})


def ours(method: Any, *, fast: bool = False) -> Step:
    """`pi.Filter.update`, checks and all."""
    filter_ = pi.Filter(system(), method)
    held = [filter_.start(pi.fast_key(0) if fast else jax.random.key(0), 0.0)]

    def step(z: np.ndarray) -> None:
        belief = held[0]
        held[0], _ = filter_.update(belief, belief.time + 1.0, "radar", z)
        jax.block_until_ready(held[0].state)

    return step


def ours_batched(method: Any, num_tracks: int, *, fast: bool) -> Step:
    """`pi.Filter.update_batch`; z is (tracks, 2)."""
    filter_ = pi.Filter(system(), method)
    keys = jax.random.split(pi.fast_key(0) if fast else jax.random.key(0), num_tracks)
    held = [filter_.start_batch(keys, 0.0)]

    def step(z: np.ndarray) -> None:
        beliefs = held[0]
        held[0], _ = filter_.update_batch(beliefs, beliefs.time + 1.0, "radar", z)
        jax.block_until_ready(held[0].state)

    return step


def _plain_step(num: int) -> Callable:
    """By hand in JAX. Frozen."""

    def step(carry: tuple, z: jax.Array) -> tuple:
        key, x, log_weights = carry
        key, key_resample, key_move = jax.random.split(key, 3)
        weights = jnp.exp(log_weights - jnp.max(log_weights))
        due = jnp.sum(weights) ** 2 / jnp.sum(weights**2) <= 0.5 * num
        uniform = jax.random.uniform(key_resample, dtype=jnp.float32)
        ancestors = jax.lax.cond(due, lambda: systematic(uniform, weights), lambda: jnp.arange(num, dtype=jnp.int32))
        x = x[ancestors] @ F.T + jax.random.normal(key_move, (num, 4), jnp.float32) @ L.T
        log_weights = jnp.where(due, 0.0, log_weights)
        log_weights -= 0.5 * ((z[0] - jnp.hypot(x[:, 0], x[:, 1])) / RANGE_SD) ** 2
        log_weights -= 0.5 * ((z[1] - jnp.arctan2(x[:, 1], x[:, 0])) / BEARING_SD) ** 2
        return key, x, log_weights - jax.scipy.special.logsumexp(log_weights)

    return step


def _plain_start(key: jax.Array, num: int) -> tuple:
    z = jax.random.normal(key, (num, 4), jnp.float32)
    return (
        key,
        PRIOR_MEAN.astype(np.float32) + z * np.sqrt(PRIOR_VARIANCE).astype(np.float32),
        jnp.zeros(num, jnp.float32),
    )


def plain_jax(num: int) -> Step:
    """One jitted step."""
    run, held = jax.jit(_plain_step(num)), [_plain_start(jax.random.key(0), num)]

    def step(z: np.ndarray) -> None:
        held[0] = run(held[0], z)
        jax.block_until_ready(held[0])

    return step


def plain_jax_batched(num: int, num_tracks: int) -> Step:
    """The same step under vmap; z is (tracks, 2)."""
    keys = jax.random.split(jax.random.key(0), num_tracks)
    run, held = jax.jit(jax.vmap(_plain_step(num))), [jax.vmap(lambda k: _plain_start(k, num))(keys)]

    def step(z: np.ndarray) -> None:
        held[0] = run(held[0], z)
        jax.block_until_ready(held[0])

    return step


def parts(num: int, num_tracks: int | None) -> dict[str, Step]:
    """Parts of an update, each compiled alone: what a step of any filter of this problem has to do at least."""
    key = jax.random.key(0)
    keys = key if num_tracks is None else jax.random.split(key, num_tracks)
    batch = () if num_tracks is None else (num_tracks,)
    z, x, log_weights = np.zeros((*batch, 2), np.float32), jnp.ones((*batch, num, 4)), jnp.zeros((*batch, num))
    x, log_weights = x.astype(jnp.float32), log_weights.astype(jnp.float32)

    def model(x: jax.Array, z: jax.Array) -> tuple:
        x = product(jnp.asarray(F)[None], x)
        gaps = (z[0] - jnp.hypot(x[:, 0], x[:, 1])) / RANGE_SD, (z[1] - arctan2(x[:, 1], x[:, 0])) / BEARING_SD
        return x, -0.5 * (gaps[0] ** 2 + gaps[1] ** 2)

    def resample(key: jax.Array, log_weights: jax.Array, x: jax.Array) -> jax.Array:
        return resample_if("systematic", jnp.asarray(True), key, log_weights, x)

    jobs: dict[str, tuple] = {
        "an empty compiled call": (lambda key, x, log_weights, z: (key, x, log_weights), keys, x, log_weights, z),
        "normal numbers by jax.random": (lambda key: jax.random.normal(key, (num, 4), jnp.float32), keys),
        "normal numbers as the filter draws them": (
            lambda key: jax.random.normal(paired(key), (num, 4), jnp.float32),
            keys,
        ),
        "motion without noise and log densities": (model, x, z),
        "mean weight and effective sample size": (summed, log_weights),
        "resampling when due": (resample, keys, log_weights, x),
    }
    if num_tracks is None:
        filter_ = pi.Filter(system(), smc.ParticleFilter(num))
        step, state = filter_.step_function("radar"), filter_.start(key, 0.0).state
        jobs["the whole step without resampling, its arguments at hand"] = (step, state, np.float32(1.0), z)

    def timed(function: Callable, *args: Any) -> Step:
        run = jax.jit(function if num_tracks is None else jax.vmap(function))
        return lambda _: jax.block_until_ready(run(*args))

    return {name: timed(*job) for name, job in jobs.items()}


def plain_ekf() -> Step:
    """An extended Kalman filter by hand in JAX."""
    noise = np.diag([RANGE_SD**2, BEARING_SD**2]).astype(np.float32)

    def seen(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])

    @jax.jit
    def run(mean: jax.Array, cov: jax.Array, z: jax.Array) -> tuple:
        mean, cov = F @ mean, F @ cov @ F.T + Q
        slope = jax.jacfwd(seen)(mean)
        spread = slope @ cov @ slope.T + noise
        gain = jnp.linalg.solve(spread, slope @ cov).T
        return mean + gain @ (z - seen(mean)), cov - gain @ slope @ cov

    held = [(jnp.asarray(PRIOR_MEAN, jnp.float32), jnp.diag(jnp.asarray(PRIOR_VARIANCE, jnp.float32)))]

    def step(z: np.ndarray) -> None:
        held[0] = run(*held[0], z)
        jax.block_until_ready(held[0])

    return step


def by_cuthbert(num: int) -> Step:
    """The package cuthbert, one jitted `filter_combine`."""
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic as theirs
    from cuthbertlib.resampling.adaptive import ess_decorator

    def initial(key: jax.Array) -> jax.Array:
        return PRIOR_MEAN.astype(np.float32) + jax.random.normal(key, (4,), jnp.float32) * np.sqrt(
            PRIOR_VARIANCE
        ).astype("f")

    def propagate(key: jax.Array, state: jax.Array, z: Any) -> jax.Array:
        return F @ state + L @ jax.random.normal(key, (4,), jnp.float32)

    def log_potential(before: jax.Array, x: jax.Array, z: Any) -> jax.Array:
        gaps = (z - jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])) / np.array([RANGE_SD, BEARING_SD], "f")
        return -0.5 * jnp.sum(gaps**2)

    filter_ = particle_filter.build_filter(
        initial, propagate, log_potential, num, ess_decorator(theirs.resampling, 0.5)
    )

    @jax.jit
    def run(state: Any, key: jax.Array, z: jax.Array) -> tuple:
        key, key_step = jax.random.split(key)
        return filter_.filter_combine(state, filter_.filter_prepare(z, key=key_step)), key

    first = jax.jit(lambda k: filter_.init_prepare(key=k)._replace(model_inputs=jnp.zeros(2, jnp.float32)))
    held = [(first(jax.random.key(0)), jax.random.key(1))]

    def step(z: np.ndarray) -> None:
        held[0] = run(*held[0], z)
        jax.block_until_ready(held[0][0].particles)

    return step


def by_filterpy(num: int) -> Step:
    """NumPy, with the resampling of the package filterpy, as its book does it."""
    from filterpy.monte_carlo import systematic_resample

    rng = np.random.default_rng(0)
    held = [PRIOR_MEAN + rng.standard_normal((num, 4)) * np.sqrt(PRIOR_VARIANCE), np.full(num, 1 / num)]

    def step(z: np.ndarray) -> None:
        x, weights = held
        if 1 / np.sum(weights**2) <= 0.5 * num:
            x, weights = x[systematic_resample(weights)], np.full(num, 1 / num)
        x = x @ F.T + rng.standard_normal((num, 4)) @ L.T
        gaps = (z - np.stack([np.hypot(x[:, 0], x[:, 1]), np.arctan2(x[:, 1], x[:, 0])], 1)) / [RANGE_SD, BEARING_SD]
        weights = weights * np.exp(-0.5 * np.sum(gaps**2, 1)) + 1e-300
        held[:] = [x, weights / weights.sum()]

    return step


def by_stonesoup(num: int) -> Step:
    """The package Stone Soup: ParticlePredictor and ParticleUpdater."""
    from stonesoup.models.measurement.nonlinear import CartesianToBearingRange
    from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity
    from stonesoup.predictor.particle import ParticlePredictor
    from stonesoup.resampler.particle import ESSResampler, SystematicResampler
    from stonesoup.types.array import StateVectors
    from stonesoup.types.detection import Detection
    from stonesoup.types.hypothesis import SingleHypothesis
    from stonesoup.types.state import ParticleState
    from stonesoup.updater.particle import ParticleUpdater

    transition = CombinedLinearGaussianTransitionModel([ConstantVelocity(INTENSITY), ConstantVelocity(INTENSITY)])
    measurement = CartesianToBearingRange(4, mapping=(0, 2), noise_covar=np.diag([BEARING_SD**2, RANGE_SD**2]))
    resampler = ESSResampler(threshold=0.5 * num, resampler=SystematicResampler())
    predictor, updater = ParticlePredictor(transition), ParticleUpdater(measurement, resampler)
    start = datetime.datetime(2000, 1, 1)
    rng = np.random.default_rng(0)
    cloud = (PRIOR_MEAN + rng.standard_normal((num, 4)) * np.sqrt(PRIOR_VARIANCE))[:, [0, 2, 1, 3]]
    held = [ParticleState(StateVectors(cloud.T), weight=np.full(num, 1 / num), timestamp=start)]

    def step(z: np.ndarray) -> None:
        from stonesoup.types.angle import Bearing

        time = held[0].timestamp + datetime.timedelta(seconds=1)
        prediction = predictor.predict(held[0], timestamp=time)
        detection = Detection([Bearing(float(z[1])), float(z[0])], timestamp=time, measurement_model=measurement)
        held[0] = updater.update(SingleHypothesis(prediction, detection))

    return step
