"""Calibration of every shipped network, alone and corrected: ranks by coordinate and by density, and TARP.

    python -m benchmarks.distribution_transformer --group calibration --out pictures

Right answers fail with probability at most 1 % in all: a task's value is its smallest p-value times the number of its
quantities and of tasks, to be at least 0.01. Each row says how large an error of the ranks' distribution function is
found in nine cases of ten. Of a series one step counts, drawn at random, since steps depend on each other. Pictures are
`<task>.png` and `<task>-corrected.png`.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.distribution_transformer.corrected import FUSION_DRAWS, POINTS, STATIC, drawn, follow, mixed, widened
from benchmarks.record import Row, rows_of
from transformers_gmm.calibration.ranks import CalibrationReport, calibrate_draws, calibrate_mixtures
from transformers_gmm.components import Components, heaviest
from transformers_gmm.correction.filter import CorrectedFilter
from transformers_gmm.correction.refitted import RefittedFilter
from transformers_gmm.filtering import MixtureFilter
from transformers_gmm.packed import packed
from transformers_gmm.recurrent import base_only
from transformers_gmm.tasks.fusion_update import FusionUpdate
from transformers_gmm.tasks.registry import make_task

Network = Callable[..., Any]
RECURRENT = ("linear_sensors", "growth", "beacons", "range_bearing", "range_tracking", "volatility")
PRIOR_CHANGE = ("two_moons", "oup", "causal_inference")
FUSION = ("fusion_update",)
_NUM_TASKS = len(STATIC) + len(RECURRENT) + len(PRIOR_CHANGE) + len(FUSION)
_UNTRAINED = ("linear_sensors", "volatility")  # their bases leave nothing to learn
FALSE_ALARMS = 0.01  # of all tasks together
_DRAWS = 1000  # of the correction in the prior-change suite; else `POINTS`
#: Fewer where a correction is slow: a likelihood that is a sum over 98 x 729 nodes, mixtures fitted in ten dimensions.
_PROBLEMS = {"causal_inference": 500, "volatility": 100}


def rows(
    networks: Mapping[str, Network],
    *,
    quick: bool = False,
    seed: int = 99_000,
    out: pathlib.Path | None = None,
    tasks: Collection[str] | None = None,
) -> list[Row]:
    """Rows of all tasks, or of those named; a network that is not there is a row that misses."""
    kinds: dict[str, Callable[..., Iterator[Row]]] = dict.fromkeys(STATIC, static)
    kinds |= dict.fromkeys(RECURRENT, recurrent) | dict.fromkeys(PRIOR_CHANGE, prior_change)
    kinds |= dict.fromkeys(FUSION, fusion)
    found = []
    for number, (name, measure) in enumerate(kinds.items()):
        if tasks is not None and name not in tasks:
            continue
        network = base_only if name in _UNTRAINED else networks.get(name)
        n = 20 if quick else _PROBLEMS.get(name, 500 if name in RECURRENT else 2000)
        find = functools.partial(measure, name, network, n, seed + 10 * number, out)
        found += rows_of(f"calibration, {name}, corrected", "p", FALSE_ALARMS, find)
    return found


def static(name: str, network: Network, n: int, seed: int, out: pathlib.Path | None) -> Iterator[Row]:
    """Single updates; corrected by importance sampling."""
    task, network = make_task(name), packed(network)

    @eqx.filter_jit
    def find(network: Any, key: jax.Array) -> Any:
        key_problem, key_draws = jax.random.split(key)
        given = task.draw(key_problem, n)
        answer = network(task.problem(given.prior, given.data))
        x, log_r = drawn(key_draws, answer, widened(answer), POINTS)
        return given.latents, answer, x, task.log_posterior(given.prior, given.data, x) - log_r

    yield from _reports(name, *find(network, jax.random.key(seed)), seed, out)


def fusion(name: str, network: Network, n: int, seed: int, out: pathlib.Path | None) -> Iterator[Row]:
    """The published fusion update; corrected by draws of network, base and prior together."""
    task, network = FusionUpdate(), packed(network)

    @eqx.filter_jit
    def find(network: Any, key: jax.Array) -> Any:
        key_problem, key_draws = jax.random.split(key)
        given = task.draw(key_problem, n)
        problem = task.problem(given.prior, given.data)
        answer = network(problem)
        x, log_r = drawn(key_draws, mixed(answer, problem.base, 0.5), given.prior, FUSION_DRAWS, share=0.25)
        return given.latents, answer, x, task.log_joint(given.prior, given.data, x) - log_r

    yield from _reports(name, *find(network, jax.random.key(seed)), seed, out)


def prior_change(name: str, network: Network, n: int, seed: int, out: pathlib.Path | None) -> Iterator[Row]:
    """Priors as in training, all families; corrected by importance sampling."""
    task, network, size = make_task(name), packed(network), _DRAWS

    @eqx.filter_jit
    def find(network: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, 4)
        prior = task.settings.draw(keys[0], n)
        theta = prior.sample(keys[1])
        data = task.observe(keys[2], theta)
        answer = network(task.problem(prior, data))
        x, log_r = drawn(keys[3], answer, widened(answer), size)
        log_likelihood = jax.lax.map(lambda given: task.log_likelihood(*given), (x, data))
        return theta, answer, x, prior.log_prob(x) + log_likelihood - log_r

    yield from _reports(name, *find(network, jax.random.key(seed)), seed, out)


def recurrent(name: str, network: Network, n: int, seed: int, out: pathlib.Path | None) -> Iterator[Row]:
    """Filters; corrected by `CorrectedFilter` where motions are curved, else by `RefittedFilter`."""
    task = make_task(name)
    series = task.simulate(jax.random.key(seed), n)
    at = np.random.default_rng(seed).integers(len(series.states), size=n), np.arange(n)
    truths = series.states[at]

    @eqx.filter_jit
    def run(network: Any, series: Any) -> Components:
        def one(belief: Components, step: Any) -> tuple[Components, Components]:
            belief = network(task.problem(belief, step))
            return belief, belief

        return jax.lax.scan(one, heaviest(series.prior, task.config.num_components), series.steps)[1]

    alone = jax.tree.map(lambda x: x[at], run(packed(network), series))
    yield _row(name, "", calibrate_mixtures(alone, truths, seed + 1, name=name), out)
    base = MixtureFilter(task, None if network is base_only else network)
    if name != "growth":
        method = RefittedFilter(base, POINTS)
        read = lambda system, state, *_: Components.from_mixture(state.mixture)  # noqa: E731
        beliefs = jax.tree.map(jnp.asarray, follow(method, task, series, seed, read, at[0]))
        yield _row(name, "corrected", calibrate_mixtures(beliefs, truths, seed + 2, name=name), out)
        return
    method = CorrectedFilter(base, POINTS // 2)
    read = lambda system, state, *_: (state.particles, state.log_weights)  # noqa: E731
    particles, log_weights = (jnp.asarray(x) for x in follow(method, task, series, seed, read, at[0]))
    densities = alone.log_prob(particles), alone.log_prob(truths[:, None])[:, 0]
    report = calibrate_draws(particles, truths, seed + 2, densities=densities, log_weights=log_weights, name=name)
    yield _row(name, "corrected", report, out)


def _reports(
    name: str, truths: Any, answer: Components, x: Any, log_weights: Any, seed: int, out: pathlib.Path | None
) -> Iterator[Row]:
    """The answer alone, and its draws weighted."""
    yield _row(name, "", calibrate_mixtures(answer, truths, seed + 1, name=name), out)
    densities = answer.log_prob(x), answer.log_prob(truths[:, None])[:, 0]
    report = calibrate_draws(x, truths, seed + 2, densities=densities, log_weights=log_weights, name=name)
    weights = np.exp(np.asarray(log_weights, float) - np.max(np.asarray(log_weights), axis=1, keepdims=True))
    share = np.median(weights.sum(1) ** 2 / np.sum(weights**2, axis=1)) / x.shape[1]
    yield _row(name, "corrected", report, out, f"; {x.shape[1]} draws, effective share {share:.2f}")


def _row(name: str, kind: str, report: CalibrationReport, out: pathlib.Path | None, note: str = "") -> Row:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report.plot().savefig(out / f"{name}{'-' * bool(kind)}{kind}.png", dpi=110)
    p_values = report.calibration.p_values
    worst = min(p_values, key=p_values.__getitem__)
    ranks = report.ranks[worst]
    adjusted = min(1.0, p_values[worst] * len(p_values) * _NUM_TASKS)
    regions = ", ".join(f"{c:.0%} hold {held:.1%}" for c, (held, _) in report.coverage().items())
    detail = f"worst: {worst}, mean rank {ranks.mean():.3f}, spread {ranks.std() * np.sqrt(12):.3f}; "
    detail += f"regions of {regions}"
    num = len(ranks)
    # Largest distance that passes, and 1.28 standard deviations of a share near one half.
    found = np.sqrt(np.log(2 * len(p_values) * _NUM_TASKS / FALSE_ALARMS) / (2 * num)) + 0.64 / np.sqrt(num)
    detail += f"; finds errors of {found:.3f} in the ranks' distribution"
    claim = f"calibration, {name}, {kind or 'network alone'}: least p-value of {len(p_values)} quantities, Bonferroni"
    target = FALSE_ALARMS if kind else None
    return Row(claim, adjusted, "p", target, "higher", detail + note, num)
