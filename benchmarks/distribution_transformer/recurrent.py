"""Networks as filters: gaps to exact filters, calibration, latency beside a particle filter, and the tracking task.

Scores are means over the steps of a series, then over series; errors are over series, because the steps of one depend
on each other. All filters see the same series.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.distribution_transformer import exact_filters
from benchmarks.distribution_transformer.without_exact import tracking_rows, volatility_rows
from benchmarks.record import Row, in_lockstep, rows_of
from benchmarks.reference_filter import systematic
from transformers_gmm.components import Components, heaviest
from transformers_gmm.packed import packed
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, base_only
from transformers_gmm.tasks import range_bearing as tracking
from transformers_gmm.tasks.beacons import Beacons
from transformers_gmm.tasks.growth import Growth
from transformers_gmm.tasks.linear_sensors import LinearSensors
from transformers_gmm.tasks.range_bearing import RangeBearing

Network = Callable[..., Any]
_PARTICLES = 1000  # of the reference filter for latency


def rows(networks: Mapping[str, Network], *, quick: bool = False, seed: int = 90_210) -> list[Row]:
    """All rows; a network that is not there is a row that misses."""
    n = 16 if quick else 1000
    found = rows_of("linear sensors", "nats", 0.05, lambda: list(linear_sensors(n, seed)))
    for task, exact, target in (
        (Growth(), exact_filters.growth, 0.06),
        (Beacons(), exact_filters.beacons, 0.065),
    ):
        found += rows_of(task.name, "nats", target, functools.partial(_gap, networks, task, exact, n, seed, target))
        found += rows_of(f"{task.name}, latency", "ratio", 0.6, functools.partial(_latency, networks, task, seed))
    found += rows_of("range and bearing", "nats", 0.0, functools.partial(range_and_bearing, networks, n, seed))
    few, size = (4, 2000) if quick else (200, 30_000)
    found += rows_of("range tracking", "nats", None, lambda: list(tracking_rows(networks, few, size, seed)))
    few, size = (4, 2000) if quick else (48, 20_000)
    return found + rows_of("volatility", "nats", 0.0, lambda: list(volatility_rows(networks, few, size, seed)))


def _gap(networks: Mapping[str, Network], task: Any, exact: Any, n: int, seed: int, target: float) -> Iterator[Row]:
    return gap_to_exact(networks[task.name], task, exact, n, seed, target)


def _latency(networks: Mapping[str, Network], task: Any, seed: int) -> Iterator[Row]:
    return latency(networks[task.name], task, seed)


def linear_sensors(n: int, seed: int) -> Iterator[Row]:
    """The base of eight components against 128, which stands for the exact filter."""
    task = LinearSensors()
    series = task.simulate(jax.random.key(seed), n)
    scores = {}
    for k in (128, 8):
        sized = LinearSensors(config=dataclasses.replace(task.config, num_components=k), merge=k == 8)
        beliefs = filtered(base_only, sized, dataclasses.replace(series, prior=heaviest(series.prior, k)))
        scores[k] = beliefs["score"]
        if k == 8:
            yield Row("linear sensors, 8 components, no network: NEES / d", _nees(beliefs, series), "ratio", None)
    gap = (scores[128] - scores[8]).mean(0)
    yield Row(
        "linear sensors, 8 components, no network: gap to 128 components",
        gap.mean(),
        "nats",
        0.05,
        peer=_pm(gap),
        n=len(gap),
    )


def gap_to_exact(
    network: Network, task: AbstractRecurrentTask, exact: Any, n: int, seed: int, target: float
) -> Iterator[Row]:
    """Mean log score of the exact filter minus that of the network, and of its base alone."""
    series = task.simulate(jax.random.key(seed), n)
    truth = exact(series)
    beliefs, base = filtered(network, task, series), filtered(base_only, task, series)
    gap, without = (truth - beliefs["score"]).mean(0), (truth - base["score"]).mean(0)
    note = f"{_pm(gap)}, median {np.median(gap):.3g}; base without learning {_pm(without)}; "
    note += f"{_parameters(network)} parameters"
    yield Row(f"{task.name}: gap to the exact filter, a step", gap.mean(), "nats", target, peer=note, n=n)
    nees = _nees(beliefs, series)
    yield Row(f"{task.name}: |mean NEES / d - 1|", abs(nees - 1), "", 0.1, peer=f"mean NEES / d {nees:.3f}", n=n)


def latency(network: Network, task: AbstractRecurrentTask, seed: int, calls: int = 1000) -> Iterator[Row]:
    """One update and its mean on the host, over one of a 1,000-particle filter in plain JAX, in turns.

    The base alone says how much of it the network is.
    """
    series = task.simulate(jax.random.key(seed), 1)
    step = jax.tree.map(lambda x: np.asarray(x[0]), series.steps)
    once = jax.jit(lambda network, belief, step: (lambda q: (q, q.mean))(network(task.problem(belief, step))))
    base = jax.jit(lambda belief, step: (lambda q: (q, q.mean))(task.problem(belief, step).base))
    updates: dict[str, Callable[[Any], Any]] = {
        "network": functools.partial(lambda network, belief: once(network, belief, step), packed(network)),
        "base": lambda belief: base(belief, step),
        "particles": lambda state: jitted(state, np.float32(0.3)),
    }
    jitted = jax.jit(_particle_step)
    states = dict.fromkeys(updates, series.prior)
    states["particles"] = (jnp.zeros(_PARTICLES), jnp.zeros(_PARTICLES), jax.random.key(0))
    times: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(calls):
        for name, update in updates.items():
            began = time.perf_counter()
            states[name], mean = update(states[name])
            np.asarray(mean)
            times[name].append(time.perf_counter() - began)
    ours, alone, theirs = (1e6 * np.array(each[20:]) for each in times.values())
    note = f"medians {np.median(ours):.0f} and {np.median(theirs):.0f} us, "
    note += f"99 % {np.quantile(ours, 0.99):.0f} and {np.quantile(theirs, 0.99):.0f}"
    ratio = float(np.median(ours) / np.median(theirs))
    yield Row(f"{task.name}: one update over a 1,000-particle filter", ratio, "ratio", 0.6, peer=note, n=calls)
    ratio, note = float(np.median(alone) / np.median(theirs)), f"median {np.median(alone):.0f} us"
    yield Row(f"{task.name}: the base alone over a 1,000-particle filter", ratio, "ratio", None, peer=note, n=calls)


def _particle_step(state: Any, value: Any) -> Any:
    """One step of the frozen reference filter, called event by event."""
    x, log_weights, key = state
    key, key_move, key_resample = jax.random.split(key, 3)
    x = 0.9 * x + jax.random.normal(key_move, x.shape, x.dtype)
    log_weights = log_weights - 0.5 * (value - x) ** 2
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    mean = jnp.sum(weights * x) / jnp.sum(weights)
    due = jnp.sum(weights) ** 2 / jnp.sum(weights**2) <= 0.5 * x.size
    uniform = jax.random.uniform(key_resample, dtype=x.dtype)
    ancestors = jax.lax.cond(due, lambda: systematic(uniform, weights), lambda: jnp.arange(x.size, dtype=jnp.int32))
    return (x[ancestors], jnp.where(due, 0.0, log_weights), key), mean


def range_and_bearing(networks: Mapping[str, Network], n: int, seed: int) -> Iterator[Row]:
    """Section 4.3.1: every sensor reports at every step, the start is one Gaussian; paired with particle filters."""
    task = RangeBearing(dropout=0.0, random_priors=0.0)
    series = task.simulate(jax.random.key(seed), n)
    scores = {
        f"network ({_parameters(networks['range_bearing'])} parameters)": filtered(
            networks["range_bearing"], task, series
        )["score"],
        "Gaussian sum with clutter branches (base alone)": filtered(base_only, task, series)["score"],
        "PDA (base with one component)": filtered(base_only, *_with(task, series, 1))["score"],
    }
    for size in (5000, 20_000):
        scores[f"particle filter {size}"] = particle_filter(series, size, seed)
    ours = next(iter(scores.values()))
    for name, score in scores.items():
        yield Row(f"range and bearing, {name}: NLL", -score.mean(), "nats", None, peer=_pm(-score.mean(0)), n=n)
    gap = (scores["particle filter 5000"] - ours).mean(0)
    yield Row(
        "range and bearing: 5,000-particle filter minus network, paired", gap.mean(), "nats", 0.0, peer=_pm(gap), n=n
    )
    gap = scores["particle filter 20000"] - ours
    late, early = gap[60:].mean(0), gap[10:30].mean(0)
    allowed = early.mean() + 2 * np.std(late - early) / np.sqrt(n)
    note = f"late {_pm(late)}, early {_pm(early)}; one Gaussian stands for the particles, as in the paper"
    yield Row(
        "range and bearing: gap to 20,000 particles at steps 60-99, against 10-29",
        late.mean(),
        "nats",
        float(allowed),
        peer=note,
        n=n,
    )


def particle_filter(series: Series, size: int, seed: int) -> np.ndarray:
    """log density at the truth of one Gaussian with the particles' moments plus 1e-3 I, (T, n)."""
    noise = jnp.asarray(tracking.NOISE_FACTOR.T)

    def one(key: jax.Array, states: Any, steps: Any) -> Any:
        def step(carry: Any, given: Any) -> Any:
            x, key = carry
            (step, state), key_next = given, jax.random.fold_in(key, 1)
            keys = jax.random.split(key, 2)
            moved = x @ jnp.asarray(tracking.MATRIX.T) + jax.random.normal(keys[0], (size, 2)) @ noise
            x = jnp.where(step.elapsed > 0, moved, x)
            log_weights = tracking.log_density(step.values, step.present, x)
            weights = jax.nn.softmax(log_weights)
            mean = weights @ x
            cov = (weights[:, None] * (x - mean)).T @ (x - mean) + 1e-3 * jnp.eye(4)
            score = jax.scipy.stats.multivariate_normal.logpdf(state, mean, cov)
            return (x[systematic(jax.random.uniform(keys[1]), weights)], key_next), score

        start = jnp.asarray(tracking.START_MEAN) + jax.random.normal(jax.random.fold_in(key, 2), (size, 4))
        return jax.lax.scan(step, (start, key), (steps, states))[1]

    at_once = in_lockstep(series.states.shape[1], 8)
    filter_all = jax.jit(
        lambda keys, states, steps: jax.lax.map(lambda a: one(*a), (keys, states, steps), batch_size=at_once)
    )
    by_series = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (series.states, series.steps))
    keys = jax.random.split(jax.random.key(seed), series.states.shape[1])
    return np.asarray(filter_all(keys, *by_series)).T


def filtered(network: Network, task: AbstractRecurrentTask, series: Series) -> dict[str, np.ndarray]:
    """Log scores (T, n), means (T, n, D) and covariances of the beliefs after every step."""

    @eqx.filter_jit
    def all_steps(network: Any, series: Series) -> Any:
        def one(belief: Components, given: Any) -> Any:
            step, state = given
            belief = network(task.problem(belief, step))
            return belief, (belief.log_prob(state[:, None])[:, 0], belief.mean, belief.cov)

        return jax.lax.scan(one, series.prior, (series.steps, series.states))[1]

    score, mean, cov = (np.asarray(part, float) for part in all_steps(packed(network), series))
    return {"score": score, "mean": mean, "cov": cov}


def _with(task: RangeBearing, series: Series, k: int) -> tuple[RangeBearing, Series]:
    config = dataclasses.replace(task.config, num_components=k)
    mixture = series.prior
    one = Components(jnp.zeros((*mixture.log_weights.shape[:-1], k)), mixture.means[:, :k], mixture.scale_tril[:, :k])
    merged = _Merged(dropout=0.0, random_priors=0.0, config=config)
    return merged, dataclasses.replace(series, prior=one)


class _Merged(RangeBearing):
    """One component whose branches are merged to their moments instead of dropped: probabilistic data association."""

    def problem(self, previous: Components, step: Any) -> Any:
        wide = RangeBearing(config=dataclasses.replace(self.config, num_components=2))
        problem = wide.problem(heaviest(previous, 2), step)
        base = problem.base
        merged = Components(
            jnp.zeros((*base.log_weights.shape[:-1], 1)),
            base.mean[..., None, :],
            jnp.linalg.cholesky(base.cov)[..., None, :, :],
        )
        return dataclasses.replace(problem, base=merged)


def _nees(beliefs: dict[str, np.ndarray], series: Series) -> float:
    gap = np.asarray(series.states, float) - beliefs["mean"]
    solved = np.linalg.solve(beliefs["cov"], gap[..., None])[..., 0]
    return float(np.mean(np.sum(gap * solved, axis=-1)) / gap.shape[-1])


def _pm(values: np.ndarray) -> str:
    return f"{np.mean(values):.3g} +- {1.96 * np.std(values) / np.sqrt(len(values)):.2g}"


def _parameters(network: Network) -> int:
    if not isinstance(network, nnx.Module):
        return 0
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
