"""Networks corrected: filters by at most 256 points an event, single posteriors by 256 draws, a fusion update by 2000.

A refitted filter is scored by its mixture, a marginal particle filter by Bayes' rule on its prediction, normalised by
draws of its own; a corrected posterior by prior times likelihood, normalised by these draws: the gap is the size of
the error of that normaliser.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.distribution_transformer import exact_filters
from benchmarks.distribution_transformer.recurrent import particle_filter
from benchmarks.record import Row, in_lockstep, rows_of
from probinf.streaming.method import AbstractFilterMethod
from smc.small_normal import cholesky
from transformers_gmm.components import Components, heaviest
from transformers_gmm.correction.filter import CorrectedFilter
from transformers_gmm.correction.refit import refit
from transformers_gmm.correction.refitted import RefittedFilter
from transformers_gmm.correction.scoring import Seen, filtering_log_prob
from transformers_gmm.filtering import MixtureFilter
from transformers_gmm.packed import packed
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step, base_only
from transformers_gmm.tasks.beacons import Beacons
from transformers_gmm.tasks.fusion_update import FusionUpdate
from transformers_gmm.tasks.growth import Growth
from transformers_gmm.tasks.linear_sensors import LinearSensors
from transformers_gmm.tasks.range_bearing import RangeBearing
from transformers_gmm.tasks.registry import make_task

Network = Callable[..., Any]
POINTS = 256
_TARGET = 0.01  # nats
_NORMALISING = 1024  # draws of its own that normalise a belief; the error of its logarithm is far below the target
FUSION_DRAWS = 2000  # of the correction of one fusion update: the default of `importance_sample`
_AT_ONCE = 50  # series in lockstep on a processor: enough to share matrix products, few enough for the cache
#: Order of the sensors within an instant: the surer first, so that the other finds a narrow belief.
_ORDER = {"range_bearing": ("bearing", "range")}
STATIC = ("conjugate_2", "conjugate_5", "gaussian_process", "quantum", "quantum_as_run")


def rows(networks: Mapping[str, Network], *, quick: bool = False, seed: int = 77_000) -> list[Row]:
    """All rows; a network that is not there is a row that misses."""
    n, few = (8, 8) if quick else (1000, 400)  # 400 series: errors of gaps are well below the target
    found = rows_of("corrected linear sensors", "nats", _TARGET, functools.partial(linear_sensors, few, seed))
    found += rows_of("corrected growth", "nats", _TARGET, functools.partial(growth, networks, few, seed))
    found += rows_of("corrected beacons", "nats", _TARGET, functools.partial(beacons, networks, few, seed))
    found += rows_of("corrected range and bearing", "nats", 0, functools.partial(range_bearing, networks, n, seed))
    for name in STATIC:
        find = functools.partial(static, networks, name, 50 if quick else 4000, seed)
        found += rows_of(f"corrected {name}", "nats", _TARGET, find)
    return found + rows_of("fusion", "nats", _TARGET, functools.partial(fusion, networks, 20 if quick else 1000, seed))


def linear_sensors(n: int, seed: int) -> Iterator[Row]:
    """The base of eight components, corrected; 128 components stand for the exact filter."""
    task = LinearSensors()
    series = task.simulate(jax.random.key(seed), n)
    sized = {
        k: LinearSensors(config=dataclasses.replace(task.config, num_components=k), merge=k == 8) for k in (8, 128)
    }
    given = {k: dataclasses.replace(series, prior=heaviest(series.prior, k)) for k in sized}
    exact = plain(base_only, sized[128], given[128])
    method = RefittedFilter(MixtureFilter(sized[8]), POINTS)
    yield from _gap_rows(sized[8], method, base_only, given[8], exact, seed)


def growth(networks: Mapping[str, Network], n: int, seed: int) -> Iterator[Row]:
    """Motions are curved and wide: the marginal particle filter."""
    task = Growth()
    series, network = task.simulate(jax.random.key(seed + 1), n), networks[task.name]
    method = CorrectedFilter(MixtureFilter(task, network), POINTS // 2)
    yield from _gap_rows(task, method, network, series, exact_filters.growth(series), seed)


def beacons(networks: Mapping[str, Network], n: int, seed: int) -> Iterator[Row]:
    """Motions are linear: mixtures are predicted exactly."""
    task = Beacons()
    series, network = task.simulate(jax.random.key(seed + 2), n), networks[task.name]
    method = RefittedFilter(MixtureFilter(task, network), POINTS)
    yield from _gap_rows(task, method, network, series, exact_filters.beacons(series), seed)


def _gap_rows(
    task: AbstractRecurrentTask, method: Any, network: Network, series: Series, exact: np.ndarray, seed: int
) -> Iterator[Row]:
    found, alone = corrected(method, task, series, seed), plain(network, task, series)
    gap, without = (exact - found["score"]).mean(0), (exact - alone).mean(0)
    size = method.num_particles if isinstance(method, CorrectedFilter) else method.num_points
    ess = found["ess"][np.isfinite(found["ess"])] / size
    note = (
        f"{_pm(gap)}, median {np.median(gap):.2g}; uncorrected {_pm(without)}; {type(method).__name__}, {size} points"
    )
    note += f", effective share {np.median(ess):.2f}, in one event of a hundred {np.quantile(ess, 0.01):.2f}"
    note += f"; {gap.max():.2g} in the worst series, {_pm(np.delete(gap, np.argmax(gap)))} in the others"
    claim = f"{task.name}, corrected: gap to the exact filter, a step"
    yield Row(claim, gap.mean(), "nats", _TARGET, peer=note, n=len(gap))


def range_bearing(networks: Mapping[str, Network], n: int, seed: int) -> Iterator[Row]:
    """Section 4.3.1: its motion has singular noise. Against 20,000 particles, for which one Gaussian stands."""
    task = RangeBearing(dropout=0.0, random_priors=0.0)
    series, network = task.simulate(jax.random.key(seed + 3), n), networks[task.name]
    found = corrected(RefittedFilter(MixtureFilter(task, network), POINTS), task, series, seed)
    alone, particles = plain(network, task, series), particle_filter(series, 20_000, seed)
    gap = np.asarray(series.states, float) - found["mean"]
    cov = found["cov"] + 1e-3 * np.eye(4)
    distance = np.sum(gap * np.linalg.solve(cov, gap[..., None])[..., 0], axis=-1)
    gaussian = -0.5 * (distance + np.linalg.slogdet(cov)[1] + 4 * math.log(2 * math.pi))
    ess = found["ess"] / POINTS
    note = f"NLL {_pm(-found['score'].mean(0))}; effective share {np.median(ess):.2f}, 1 % {np.quantile(ess, 0.01):.2f}"
    claim = "range and bearing: 20,000-particle filter minus corrected network, paired"
    for label, score in (("", found["score"]), (", one Gaussian for both", gaussian), (", uncorrected", alone)):
        gap, target = (particles - score).mean(0), None if label == ", uncorrected" else 0.0
        yield Row(claim + label, gap.mean(), "nats", target, peer=f"{_pm(gap)}; {note}", n=n)
    gain = (found["score"] - alone).mean(0)
    yield Row("range and bearing: corrected minus network", gain.mean(), "nats", None, "higher", _pm(gain), n)


def corrected(method: Any, task: AbstractRecurrentTask, series: Series, seed: int) -> dict[str, np.ndarray]:
    """Log scores (T, n), means, covariances and effective sizes of a corrected filter's beliefs after every step."""

    def read(system: Any, state: Any, events: Any, truth: jax.Array, key: jax.Array) -> Any:
        if isinstance(method, RefittedFilter):
            score = method.log_prob(state, truth)
        else:
            score, _ = filtering_log_prob(system, state, events, truth, key, num_draws=_NORMALISING)
        return {"score": score, "mean": method.mean(state), "cov": method.cov(state), "ess": state.ess}

    return {name: np.asarray(part, float) for name, part in follow(method, task, series, seed, read).items()}


def follow(
    method: Any,
    task: AbstractRecurrentTask,
    series: Series,
    seed: int,
    read: Callable[..., Any],
    until: np.ndarray | None = None,
) -> Any:
    """What `read` makes of a corrected filter's state after every step, leading axes (T, n); or after one of each.

    Args:
        read: (system, state, events of the instant, true state, key) to arrays.
        until: step (n,) at which each series is read and left; then the leading axis is (n,), and no events are given.
    """
    system = task.system(jax.tree.map(lambda x: x[0], series.prior).as_mixture())
    start = jnp.zeros(system.dim, system.dtype)
    shapes = {name: system.sensor_distribution(name, start).shape() for name in system.sensors}
    sensors = _ORDER.get(task.name, tuple(task.sensors))

    def one(
        method: AbstractFilterMethod, key: jax.Array, prior: Components, steps: Step, states: jax.Array, last: jax.Array
    ) -> Any:
        mine = system.with_prior(prior.as_mixture())
        key_start, key_scores = jax.random.split(key)

        def instant(state: Any, step: Step) -> tuple[Any, list[Seen]]:
            moved = method.predict(state, mine, step.elapsed, step.control if task.num_controls else None)
            state = jax.tree.map(lambda new, old: jnp.where(step.elapsed > 0, new, old), moved, state)
            events: list[Seen] = []
            for name in sensors:
                value = step.values[name].reshape(shapes[name])  # of a series: always a vector
                observed = jnp.broadcast_to(step.present[name], value.shape)
                state, _ = method.update(state, mine, name, value, observed, None)
                events.append(Seen(name, value, observed))
            return state, events

        def instant_and_read(state: Any, given: Any) -> Any:
            step, truth, key = given
            state, events = instant(state, step)
            return state, read(mine, state, events, truth, key)

        begun = method.init(key_start, mine)
        if until is None:
            keys = jax.random.split(key_scores, len(states))
            return jax.lax.scan(instant_and_read, begun, (steps, states, keys))[1]
        _, state = jax.lax.while_loop(
            lambda carry: carry[0] <= last,
            lambda carry: (carry[0] + 1, instant(carry[1], jax.tree.map(lambda x: x[carry[0]], steps))[0]),
            (jnp.zeros_like(last), begun),
        )
        return read(mine, state, [], states[last], key_scores)

    @jax.jit
    def every(method: AbstractFilterMethod, *given: Any) -> Any:
        at_once = in_lockstep(len(given[0]), _AT_ONCE)
        return jax.lax.map(lambda a: one(method, *a), given, batch_size=at_once)

    by_series = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (series.steps, series.states))
    n = series.states.shape[1]
    keys = jax.random.split(jax.random.key(seed + 10), n)
    if until is None:
        found = every(method, keys, series.prior, *by_series, jnp.zeros(n, int))
        return jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), found)
    order = np.argsort(until)  # series that are left at the same time go together
    given = jax.tree.map(lambda x: x[order], (keys, series.prior, *by_series, jnp.asarray(until)))
    return jax.tree.map(lambda x: np.asarray(x)[np.argsort(order)], every(method, *given))


def plain(network: Network, task: AbstractRecurrentTask, series: Series) -> np.ndarray:
    """Log scores (T, n) of the network alone."""

    @eqx.filter_jit
    def run(network: Any, series: Series) -> jax.Array:
        def one(belief: Components, given: Any) -> Any:
            step, state = given
            belief = network(task.problem(belief, step))
            return belief, belief.log_prob(state[:, None])[:, 0]

        return jax.lax.scan(one, series.prior, (series.steps, series.states))[1]

    return np.asarray(run(packed(network), series), float)


def static(networks: Mapping[str, Network], name: str, n: int, seed: int) -> Iterator[Row]:
    """One posterior, corrected by importance sampling from the answer and, a tenth, from a wide Gaussian around it."""
    task = make_task(name)

    @eqx.filter_jit
    def find(network: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_problem, key_draws, key_points = jax.random.split(key, 3)
        given = task.draw(key_problem, n)
        answer = network(task.problem(given.prior, given.data))
        x, log_r = drawn(key_draws, answer, widened(answer), POINTS)
        points, log_masses = task.posterior_points(key_points, given.prior, given.data)
        gap = task.log_posterior(given.prior, given.data, points) - answer.log_prob(points)
        return task.log_posterior(given.prior, given.data, x) - log_r, jnp.sum(jnp.exp(log_masses) * gap, axis=-1)

    log_weights, uncorrected = (np.asarray(v, float) for v in find(packed(networks[name]), jax.random.key(seed + 20)))
    yield _normaliser_row(f"{name}, corrected", log_weights, f"uncorrected {_pm(uncorrected)}", _TARGET)


def fusion(networks: Mapping[str, Network], n: int, seed: int) -> Iterator[Row]:
    """One range and one bearing under a mixture from the published meta-prior, K = 4.

    Uncorrected beside the untrained update: each component moment-matched by 4096 draws, weighted by its evidence.
    """
    task = FusionUpdate()

    def one(network: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, 5)
        given = task.draw(keys[0], 1)
        prior, problem = given.prior, task.problem(given.prior, given.data)
        answer = network(problem)

        def log_joint(x: jax.Array) -> jax.Array:
            return task.log_joint(prior, given.data, x)

        # The exact posterior: many points from all that is known of it.
        matched = _moment_matched(keys[1], prior, lambda x: log_joint(x) - prior.log_prob(x))
        x, log_r = drawn(keys[2], mixed(answer, matched, 0.5), prior, 8192)
        log_masses = log_joint(x) - log_r
        log_z = jax.nn.logsumexp(log_masses, axis=-1, keepdims=True) - math.log(8192)
        masses = jax.nn.softmax(log_masses, axis=-1)
        few, log_few = drawn(keys[3], mixed(answer, problem.base, 0.5), prior, FUSION_DRAWS, share=0.25)
        log_weights = log_joint(few) - log_few - log_z
        unit = log_weights[0] - jax.nn.logsumexp(log_weights[0]) + math.log(FUSION_DRAWS)
        fitted = jax.tree.map(lambda v: v[None], refit(jax.tree.map(lambda v: v[0], answer), few[0], unit, log_few[0]))
        exact = log_joint(x) - log_z
        gaps = [jnp.sum(masses * (exact - q.log_prob(x))) for q in (answer, matched, fitted, prior, problem.base)]
        return log_weights[0], jnp.stack(gaps)

    at_once = in_lockstep(n, 20)
    find = eqx.filter_jit(lambda network, keys: jax.lax.map(functools.partial(one, network), keys, batch_size=at_once))
    network = packed(networks.get("fusion_update", base_only))
    log_weights, gaps = find(network, jax.random.split(jax.random.key(seed + 30), n))
    answer, matched, fitted, prior, base = np.asarray(gaps, float).T
    note = f"moment-matched, untrained {_pm(matched)} (published 0.127 +- 0.027), network {_pm(answer)}, "
    note += f"its base {_pm(base)}, "
    note += f"median {np.median(answer):.2g} and {np.median(matched):.2g}; prior only {_pm(prior)} nats"
    claim = "one fusion update, network: gap to the exact posterior over that of the untrained moment-matched update"
    yield Row(claim, answer.mean() / matched.mean(), "ratio", 0.5, peer=note, n=n)
    note = f"one mixture refitted to them {_pm(fitted)}"
    yield _normaliser_row("one fusion update, corrected", np.asarray(log_weights, float), note, _TARGET)


def drawn(key: jax.Array, q: Components, other: Components, n: int, share: float = 0.1) -> tuple[jax.Array, jax.Array]:
    """Points (B, n, D), an exact share of them from `other`, and the log density of both together there."""
    few = round(share * n)
    keys = jax.random.split(key)
    x = jnp.concatenate([q.sample(keys[0], n - few), other.sample(keys[1], few)], axis=1)
    return x, jnp.logaddexp(math.log(1 - few / n) + q.log_prob(x), math.log(few / n) + other.log_prob(x))


def widened(answer: Components) -> Components:
    """One Gaussian with each answer's mean and four times its covariance: a guard against thin tails."""
    variances = jnp.einsum("bii,ij->bij", answer.cov, jnp.eye(answer.dim))
    factors = cholesky(4 * answer.cov + 1e-6 * variances)
    return Components(jnp.zeros((len(answer.means), 1)), answer.mean[:, None], factors[:, None])


def _moment_matched(key: jax.Array, prior: Components, log_likelihood: Callable[..., Any]) -> Components:
    """Each component with its moments after the update, by 4096 draws, and its weight by its evidence."""
    parts = Components(jnp.zeros(prior.means.shape[1])[:, None], prior.means[0][:, None], prior.scale_tril[0][:, None])
    x = parts.sample(key, 4096)
    log_weights = jax.vmap(lambda points: log_likelihood(points[None])[0])(x)
    weights = jax.nn.softmax(log_weights, axis=-1)
    means = jnp.einsum("kn,kni->ki", weights, x)
    gaps = x - means[:, None]
    spread = jnp.einsum("kn,kni,knj->kij", weights, gaps, gaps) + 1e-8 * jnp.eye(x.shape[-1])[None]
    log_evidence = jax.nn.logsumexp(log_weights, axis=-1)
    log_weights = jax.nn.log_softmax(prior.log_weights[0] + log_evidence)
    return Components(log_weights[None], means[None], cholesky(spread, 1e-6)[None])


def mixed(one: Components, two: Components, share: float) -> Components:
    """Both mixtures together."""
    log_weights = [math.log(1 - share) + one.log_weights, math.log(share) + two.log_weights]
    parts = ([one.means, two.means], [one.scale_tril, two.scale_tril])
    return Components(jnp.concatenate(log_weights, 1), *(jnp.concatenate(part, 1) for part in parts))


def _normaliser_row(label: str, log_weights: np.ndarray, note: str, target: float) -> Row:
    """Errors of the log normaliser from log weights (n, draws) whose mean should be one."""
    weights = np.exp(log_weights)
    errors = np.log(weights.mean(1))
    ess = weights.sum(1) ** 2 / np.sum(weights**2, axis=1) / weights.shape[1]
    note = f"mean {_pm(errors)}; effective share {np.median(ess):.2f}, 1 % {np.quantile(ess, 0.01):.2f}; {note} nats"
    claim = f"{label}: mean size of the gap left by {weights.shape[1]} draws"
    return Row(claim, np.abs(errors).mean(), "nats", target, peer=note, n=len(errors))


def _pm(values: np.ndarray) -> str:
    return f"{np.mean(values):.3g} +- {1.96 * np.std(values) / np.sqrt(len(values)):.2g}"
