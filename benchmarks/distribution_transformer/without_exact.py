"""Networks as filters where no exact answer is known: large particle filters stand for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Row, in_lockstep
from benchmarks.reference_filter import systematic
from transformers_gmm.components import Components
from transformers_gmm.packed import packed
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step, base_only, run
from transformers_gmm.tasks import range_tracking, ranges, volatility
from transformers_gmm.tasks.range_tracking import RangeTracking
from transformers_gmm.tasks.volatility import Volatility

Network = Callable[..., Any]
_DRAWS = 512  # for energy scores and predictive densities


class Scores(NamedTuple):
    """What each filter is judged by, every array (T, n).

    Attributes:
        predictive: log density of the values of a step given the past, nats; 0 where nothing was heard.
        energy: E|X - x*| - E|X - X'| / 2 with X, X' from the belief.
        above: probability of a positive y.
    """

    predictive: np.ndarray
    energy: np.ndarray
    above: np.ndarray


def tracking_rows(networks: Mapping[str, Network], n: int, size: int, seed: int) -> Iterator[Row]:
    """Range tracking with a mirror prior: gaps to a particle filter, itself compared with a second one."""
    task = RangeTracking()
    series = task.simulate(jax.random.key(seed), n)
    reference, second = (tracking_particles(task, series, size, seed + i) for i in range(2))
    heard = np.asarray(sum(np.asarray(there) for there in series.steps.present.values()), float)
    never = np.cumsum(np.asarray(series.steps.present["north"]), axis=0) == 0
    filters = {"second particle filter": second}
    for name, network in (("network", networks["range_tracking"]), ("base, no network", base_only)):
        filters[name] = mixture_scores(network, task, series, seed)
    for name, scores in filters.items():
        gap = (reference.predictive - scores.predictive).sum(0) / np.maximum(heard.sum(0), 1)
        side = np.abs(scores.above - 0.5)[never].mean()
        note = f"{_pm(gap)}; energy score {scores.energy.mean():.2f} against {reference.energy.mean():.2f}; "
        note += f"|Q(y > 0) - 1/2| until the third beacon is heard {side:.3f}"
        claim = f"range tracking, {name}: predictive gap to {size:,} particles, a range"
        yield Row(claim, float(gap.mean()), "nats", None, peer=note, n=n)


def volatility_rows(networks: Mapping[str, Network], n: int, size: int, seed: int) -> Iterator[Row]:
    """Section 4.3.2: log score of ten log volatilities, paired with a particle filter's moment-matched Gaussian."""
    task = Volatility()
    series = task.simulate(jax.random.key(seed), n)
    theirs = volatility_particles(series, size, seed)
    yield Row(f"volatility, {size:,} particles: NLL", -theirs.mean(), "nats", None, peer=_pm(-theirs.mean(0)), n=n)
    filters = {"base, no network": base_only}
    if "volatility" in networks:
        filters["network"] = networks["volatility"]
    for name, network in filters.items():
        ours = np.asarray(_all_scores(network, task, series), float)
        gap = (theirs - ours).mean(0)
        note = (
            f"{_pm(gap)}; NLL {_pm(-ours.mean(0))}; log volatilities x' = 0.95 x + 0.3 e, ten of them, thirty returns"
        )
        yield Row(
            f"volatility, {name}: gap to {size:,} particles, a step", float(gap.mean()), "nats", 0.0, peer=note, n=n
        )


def mixture_scores(network: Network, task: RangeTracking, series: Series, seed: int) -> Scores:
    """Scores of a filter whose belief is a mixture."""

    @eqx.filter_jit
    def all_steps(network: Any, series: Series, keys: jax.Array) -> Any:
        def one(belief: Components, given: Any) -> Any:
            step, state, key = given
            silent = Step(step.elapsed, step.control, step.values, jax.tree.map(jnp.zeros_like, step.present))
            predicted = network(task.problem(belief, silent))
            after = network(task.problem(belief, step))
            draws = jnp.concatenate(
                [part.sample(k, _DRAWS) for part, k in zip((predicted, after), jax.random.split(key), strict=True)],
                axis=1,
            )
            prior = predicted.log_prob(draws)
            proposal = jnp.logaddexp(prior, after.log_prob(draws)) - jnp.log(2)
            fit = jax.nn.logsumexp(prior + _fit(step, draws) - proposal, axis=1) - jnp.log(2 * _DRAWS)
            heard = jnp.any(jnp.stack(list(step.present.values())), axis=0)
            return after, (jnp.where(heard, fit, 0), *_judged(draws[:, _DRAWS:], state))

        return jax.lax.scan(one, series.prior, (series.steps, series.states, keys))[1]

    keys = jax.random.split(jax.random.key(seed), series.states.shape[0])
    return Scores(*(np.asarray(part, float) for part in all_steps(packed(network), series, keys)))


def tracking_particles(task: RangeTracking, series: Series, size: int, seed: int) -> Scores:
    """Scores of a bootstrap filter."""
    root = jnp.asarray(np.linalg.cholesky(range_tracking.NOISE).T)
    matrix = jnp.asarray(range_tracking.MATRIX.T)

    def one(key: jax.Array, prior: Components, states: Any, steps: Step) -> Any:
        def step(carry: Any, given: Any) -> Any:
            x, key = carry
            step, state = given
            key, *keys = jax.random.split(key, 4)
            x = x @ matrix + jax.random.normal(keys[0], x.shape) @ root
            fit = _fit(jax.tree.map(lambda v: v[None], step), x[None])[0]
            x = x[systematic(jax.random.uniform(keys[1]), jax.nn.softmax(fit))]
            some = x[jax.random.randint(keys[2], (_DRAWS,), 0, size)]
            judged = _judged(some[None], state[None])
            return (x, key), (jax.nn.logsumexp(fit) - jnp.log(size), judged[0][0], jnp.mean(x[:, 1] > 0))

        key_start, key = jax.random.split(key)
        return jax.lax.scan(step, (prior.sample(key_start, size), key), (steps, states))[1]

    return Scores(*_by_series(one, series, seed))


def volatility_particles(series: Series, size: int, seed: int) -> np.ndarray:
    """log density at the truth of one Gaussian with the particles' moments plus 1e-3 I, (T, n)."""

    def one(key: jax.Array, prior: Components, states: Any, steps: Step) -> Any:
        def step(carry: Any, given: Any) -> Any:
            x, key = carry
            step, state = given
            key, *keys = jax.random.split(key, 3)
            noise = volatility.SCALE * jax.random.normal(keys[0], x.shape)
            x = volatility.LEVEL * (1 - volatility.PERSISTENCE) + volatility.PERSISTENCE * x + noise
            weights = jax.nn.softmax(volatility.log_density(step.values["returns"][None], x))
            mean = weights @ x
            cov = (weights[:, None] * (x - mean)).T @ (x - mean) + 1e-3 * jnp.eye(volatility.DIM)
            score = jax.scipy.stats.multivariate_normal.logpdf(state, mean, cov)
            return (x[systematic(jax.random.uniform(keys[1]), weights)], key), (score,)

        key_start, key = jax.random.split(key)
        return jax.lax.scan(step, (prior.sample(key_start, size), key), (steps, states))[1]

    return _by_series(one, series, seed)[0]


def _by_series(one: Callable[..., Any], series: Series, seed: int) -> list[np.ndarray]:
    """Every series by itself; results (T, n)."""
    by_series = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (series.states, series.steps))
    keys = jax.random.split(jax.random.key(seed), series.states.shape[1])
    at_once = in_lockstep(len(keys), 1)
    all_series = jax.jit(lambda *given: jax.lax.map(lambda a: one(*a), given, batch_size=at_once))
    return [np.asarray(part, float).T for part in all_series(keys, series.prior, *by_series)]


def _all_scores(network: Network, task: AbstractRecurrentTask, series: Series) -> jax.Array:
    score = eqx.filter_jit(lambda network, given: run(network, task, given.prior, given.steps, given.states)[1])
    return score(packed(network), series)


def _fit(step: Step, x: jax.Array) -> jax.Array:
    """Log density of the ranges of one step at states (n, M, D), (n, M)."""
    total = jnp.zeros(x.shape[:-1])
    for name, place in zip(ranges.NAMES, ranges.BEACONS, strict=True):
        distance = jnp.linalg.norm(x[..., :2] - jnp.asarray(place, x.dtype), axis=-1)
        total += jnp.where(step.present[name][:, None], ranges.log_density(step.values[name], distance), 0)
    return total


def _judged(draws: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Energy score and share of positive y of draws (n, M, D)."""
    to_truth = jnp.mean(jnp.linalg.norm(draws - state[:, None], axis=-1), axis=1)
    half = draws.shape[1] // 2
    among = jnp.mean(jnp.linalg.norm(draws[:, :half] - draws[:, half : 2 * half], axis=-1), axis=1)
    return to_truth - among / 2, jnp.mean(draws[..., 1] > 0, axis=1)


def _pm(values: np.ndarray) -> str:
    return f"{np.mean(values):.3g} +- {1.96 * np.std(values) / np.sqrt(len(values)):.2g}"
