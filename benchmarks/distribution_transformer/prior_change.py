"""Posteriors under priors that were chosen after training, beside Simformer, ACE and PriorGuide.

    python -m benchmarks.distribution_transformer

Priors are the published ones, ten of each family; data are drawn again, one data set for each prior. Answers and
references are compared by 1000 draws each. C2ST is the larger of two means over problems: by the multilayer perceptron
of the SBI benchmark and by the random forest that the published code uses by default; it needs scikit-learn. The three
published methods were trained on 10,000 simulations and never see a likelihood; every row says what ours used.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.distribution_transformer.two_samples import c2st, mmtv
from benchmarks.record import Row, rows_of
from probinf.representations.mixture import GaussianMixture
from transformers_gmm.components import Components
from transformers_gmm.correction.importance import defensive, importance_sample
from transformers_gmm.correction.target import Target
from transformers_gmm.examples import Problem
from transformers_gmm.tasks import prior_change as suite

Network = Callable[[Problem], Components]
_BY_NAME = {task.name: task for task in suite.SUITE}
DRAWS, PEERS = 1000, ("Simformer", "ACE", "PriorGuide")
#: Published means over five trainings: C2ST and MMTV of Simformer, ACE and PriorGuide by family.
PUBLISHED = {
    "two_moons": {
        "C2ST": {"mild": (0.56, 0.83, 0.52), "strong": (0.75, 0.79, 0.52), "mixture": (0.68, 0.80, 0.55)},
        "MMTV": {"mild": (0.21, 0.23, 0.11), "strong": (0.54, 0.35, 0.08), "mixture": (0.42, 0.34, 0.16)},
    },
    "oup": {
        "C2ST": {"mild": (0.58, 0.58, 0.52), "strong": (0.73, 0.56, 0.51), "mixture": (0.70, 0.62, 0.51)},
        "MMTV": {"mild": (0.18, 0.11, 0.08), "strong": (0.37, 0.12, 0.06), "mixture": (0.33, 0.20, 0.07)},
    },
    "turin": {
        "C2ST": {"mild": (0.80, 0.78, 0.64), "strong": (0.95, 0.92, 0.55), "mixture": (0.94, 0.91, 0.62)},
        "MMTV": {"mild": (0.31, 0.27, 0.13), "strong": (0.56, 0.47, 0.08), "mixture": (0.50, 0.44, 0.19)},
    },
    "gaussian_linear_10": {
        "C2ST": {"mild": (0.89, 0.67, 0.53), "strong": (1.00, 0.78, 0.54), "mixture": (0.99, 0.96, 0.57)},
        "MMTV": {"mild": (0.30, 0.12, 0.05), "strong": (0.65, 0.19, 0.06), "mixture": (0.61, 0.40, 0.12)},
    },
    "gaussian_linear_20": {
        "C2ST": {"mild": (0.95, 0.72, 0.54), "strong": (1.00, 0.82, 0.58), "mixture": (1.00, 0.99, 0.59)},
        "MMTV": {"mild": (0.29, 0.11, 0.05), "strong": (0.64, 0.16, 0.11), "mixture": (0.63, 0.44, 0.14)},
    },
    "causal_inference": {
        "C2ST": {"mild": (0.86, 0.84, 0.88), "strong": (0.98, 0.82, 0.72), "mixture": (0.98, 0.97, 0.78)},
        "MMTV": {"mild": (0.35, 0.28, 0.41), "strong": (0.61, 0.29, 0.21), "mixture": (0.63, 0.56, 0.37)},
    },
}
#: What each answer used.
SOURCES = {
    "two_moons": "base from the known simulator, network trained on fresh simulations",
    "oup": "base from the known likelihood, network trained on fresh simulations",
    "turin": "simulations only, fresh ones throughout training (not 10,000)",
    "gaussian_linear_10": "closed form, no training",
    "gaussian_linear_20": "closed form, no training",
    "causal_inference": "simulations only, fresh ones throughout training (not 10,000)",
}


@dataclasses.dataclass(frozen=True)
class Problems:
    """Problems of one task and family, all with leading axis B."""

    prior: suite.Prior
    theta: jax.Array
    data: jax.Array

    def one(self, i: int) -> tuple[suite.Prior, jax.Array]:
        """Prior and data of one problem, with a leading axis of one."""
        return _take(self.prior, np.array([i])), self.data[i : i + 1]


def problems(
    task: suite.AbstractPriorChange, family: suite.Family, num_priors: int, seed: int, repeats: int = 1
) -> Problems:
    """`repeats` data sets for each of the first published priors."""
    settings = {name: each.settings for name, each in _BY_NAME.items()}
    published = suite.published_priors(task.name, settings, family)
    prior = _take(published, np.repeat(np.arange(num_priors), repeats))
    key_theta, key_data = jax.random.split(jax.random.fold_in(jax.random.key(seed), suite.FAMILIES.index(family)))
    theta = prior.sample(key_theta)
    return Problems(prior, theta, task.observe(key_data, theta))


def answers(given: Problems, mixture: Components, key: jax.Array) -> np.ndarray:
    """`DRAWS` draws of each mixture inside the box, shape (B, DRAWS, D)."""
    draws = np.asarray(mixture.sample(key, 3 * DRAWS))
    inside = np.isfinite(np.asarray(given.prior.log_prob(jnp.asarray(draws))))
    if inside.sum(axis=1).min() < DRAWS:
        raise RuntimeError(f"a mixture has only {inside.sum(axis=1).min() / (3 * DRAWS):.0%} of its mass in the box")
    return np.stack([x[keep][:DRAWS] for x, keep in zip(draws, inside, strict=True)])


def corrected(task: suite.AbstractTractable, given: Problems, mixture: Components, key: jax.Array) -> np.ndarray:
    """Draws of each mixture resampled by posterior over mixture, shape (B, DRAWS, D)."""
    found = []
    for i, k in enumerate(jax.random.split(key, len(given.theta))):
        q = GaussianMixture(jnp.exp(mixture.log_weights[i]), mixture.means[i], scale_tril=mixture.scale_tril[i])
        weighed = importance_sample(defensive(q), _target(task, *given.one(i)), k, num_draws=5 * DRAWS)
        found.append(_resample(weighed.draws, weighed.log_weights, k))
    return np.stack(found)


def reference(task: suite.AbstractPriorChange, given: Problems, key: jax.Array) -> np.ndarray:
    """Draws of the true posteriors, shape (B, DRAWS, D)."""
    keys = jax.random.split(key, len(given.theta))
    if isinstance(task, suite.GaussianLinear):
        return np.asarray(task.base(given.prior, given.data).sample(key, DRAWS))
    draw = {suite.TwoMoons: _moons, suite.OUP: _grid, suite.CausalInference: _adaptive}[type(task)]
    return np.stack([draw(task, *given.one(i), k) for i, k in enumerate(keys)])


def _moons(task: Any, prior: suite.Prior, data: jax.Array, key: jax.Array) -> np.ndarray:
    """The simulator run backwards: each angle and radius leaves two parameters, equally likely but for the prior."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    a, r = rng.uniform(-np.pi / 2, np.pi / 2, 400 * DRAWS), rng.normal(0.1, 0.01, 400 * DRAWS)
    x = np.asarray(data[0])
    total = (r * np.cos(a) + 0.25 - x[0]) * rng.choice([-1, 1], a.size)
    gap = x[1] - r * np.sin(a)
    legal = r * np.cos(a) + 0.25 - x[0] >= 0
    points = (np.stack([total - gap, total + gap], axis=-1) / np.sqrt(2))[legal]
    return _resample(points, np.asarray(prior.log_prob(jnp.asarray(points, data.dtype)[None])[0]), key)


def _grid(task: Any, prior: suite.Prior, data: jax.Array, key: jax.Array, size: int = 700) -> np.ndarray:
    """Cells of a grid over the box by posterior mass, uniform within a cell."""
    edge = (jnp.arange(size) + 0.5) / size * (task.settings.high - task.settings.low) + task.settings.low
    grid = jnp.stack(jnp.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2)
    log_mass = np.asarray(prior.log_prob(grid[None])[0] + _log_likelihoods(task.name)(grid, data[0]))
    cells = _resample(np.asarray(grid), log_mass, key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return cells + rng.uniform(-0.5, 0.5, cells.shape) * float(edge[1] - edge[0])


def _adaptive(task: Any, prior: suite.Prior, data: jax.Array, key: jax.Array) -> np.ndarray:
    """Importance sampling from mixtures fitted to earlier weighted draws, from the prior on; no network takes part."""
    whole = prior.components()
    start = GaussianMixture(jnp.exp(whole.log_weights[0]), whole.means[0], scale_tril=whole.scale_tril[0])
    proposal, target = start, _target(task, prior, data)
    *early, last = jax.random.split(key, 6)
    for k in early:
        weighed = importance_sample(proposal, target, k, num_draws=DRAWS)
        fitted = GaussianMixture.from_samples(weighed.draws, _tempered(weighed.log_weights, DRAWS / 5), 2, k)
        wide = GaussianMixture(fitted.weights, fitted.means, 1.5 * fitted.covariances)
        proposal = defensive(wide, start, share=0.2)
    weighed = importance_sample(proposal, target, last, num_draws=5 * DRAWS)
    if weighed.ess < DRAWS / 2:
        raise RuntimeError(f"the reference has an effective size of {weighed.ess:.0f} only")
    return _resample(weighed.draws, weighed.log_weights, last)


def _tempered(log_weights: np.ndarray, ess: float) -> np.ndarray:
    """Log weights times the largest power at most one that leaves that effective size."""
    log_weights = np.maximum(log_weights - log_weights.max(), -1e3)

    def size(power: float) -> float:
        weights = np.exp(power * log_weights)
        return float(weights.sum() ** 2 / np.sum(weights**2))

    low, high = 0.0, 1.0
    if size(high) >= ess:
        return log_weights
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) >= ess else (low, middle)
    return low * log_weights


def _target(task: Any, prior: suite.Prior, data: jax.Array) -> Target:
    """The unnormalised posterior of one problem."""
    return Target(_log_posterior(task.name), (prior, data), name=f"the posterior of {task.name}")


@functools.cache
def _log_posterior(name: str) -> Callable[..., jax.Array]:
    """One function for all problems of a task, so that it is compiled once."""
    task: Any = _BY_NAME[name]

    def log_posterior(theta: jax.Array, prior: suite.Prior, data: jax.Array) -> jax.Array:
        return prior.log_prob(theta[None, None])[0, 0] + task.log_likelihood(theta[None], data[0])[0]

    return log_posterior


@functools.cache
def _log_likelihoods(name: str) -> Callable[..., jax.Array]:
    task: Any = _BY_NAME[name]
    return jax.jit(lambda theta, data: task.log_likelihood(theta, data))


def _resample(points: np.ndarray, log_weights: np.ndarray, key: jax.Array) -> np.ndarray:
    """`DRAWS` of weighted points, without replacement where weights allow (systematic), in random order."""
    weights = np.exp(log_weights - log_weights.max())
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order = rng.permutation(len(points))
    places = (np.arange(DRAWS) + rng.uniform()) / DRAWS
    cumulative = np.cumsum(weights[order]) / weights.sum()
    return points[order[np.minimum(np.searchsorted(cumulative, places), len(points) - 1)]][rng.permutation(DRAWS)]


def _take(prior: suite.Prior, which: np.ndarray) -> suite.Prior:
    return dataclasses.replace(
        prior, log_weights=prior.log_weights[which], means=prior.means[which], scales=prior.scales[which]
    )


def rows_of_task(task: suite.AbstractPriorChange, network: Network | None, num_priors: int, seed: int) -> Iterator[Row]:
    """C2ST and MMTV of a task's answers by family."""
    has_reference = not isinstance(task, suite.Turin)
    for number, family in enumerate(suite.FAMILIES):
        began = time.perf_counter()
        given = problems(task, family, num_priors, seed, 1 if has_reference else 100)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed + 1), number), 3)
        problem = jax.jit(lambda prior, data: task.problem(prior, data))(given.prior, given.data)
        mixtures = {"base, untrained": problem.base}
        if isinstance(task, suite.GaussianLinear):
            mixtures = {"closed form": problem.base}
        elif network is not None:
            mixtures["network"] = network(problem)
        if not has_reference:
            yield from _rows_without_reference(task, family, given, mixtures)
            continue
        drawn = {name: answers(given, mixture, keys[0]) for name, mixture in mixtures.items()}
        truth = reference(task, given, keys[1])
        if isinstance(task, suite.AbstractTractable) and network is not None:
            drawn["network, corrected"] = corrected(task, given, mixtures["network"], keys[2])
        for name, found in drawn.items():
            values = {"MMTV": float(np.mean([mmtv(x, y) for x, y in zip(truth, found, strict=True)]))}
            values["C2ST"], judges = _worst_c2st(truth, found)
            for metric in ("C2ST", "MMTV"):
                published = PUBLISHED[task.name][metric][family]
                beside = ", ".join(f"{peer} {value:.2f}" for peer, value in zip(PEERS, published, strict=True))
                target = None if name.startswith("base") else min(published)
                source = SOURCES[task.name] + (", then weighted by the likelihood" if "corrected" in name else "")
                note = f"{beside}; {source}{judges if metric == 'C2ST' else ''}"
                claim = f"Prior change: {task.name}, {family}, {name}: {metric}"
                seconds = time.perf_counter() - began
                yield Row(claim, values[metric], metric, target, "lower", note, len(truth), seconds=seconds)


def _worst_c2st(truth: np.ndarray, found: np.ndarray) -> tuple[float, str]:
    """The larger of the mean accuracies of both classifiers, and a note with the two."""
    if importlib.util.find_spec("sklearn") is None:
        return np.nan, "; scikit-learn is not installed"
    from joblib import Parallel, delayed  # pyright: ignore[reportMissingImports]

    parallel, kinds = Parallel(n_jobs=-1), ("mlp", "forest")
    pairs = list(zip(truth, found, strict=True))
    by = [float(np.mean(parallel(delayed(c2st)(x, y, kind) for x, y in pairs))) for kind in kinds]
    return max(by), f"; perceptron {by[0]:.3f}, forest {by[1]:.3f}"


def _rows_without_reference(
    task: suite.AbstractPriorChange, family: suite.Family, given: Problems, mixtures: Mapping[str, Components]
) -> Iterator[Row]:
    """Turin has no likelihood and so no reference: gain in log score over the prior, coverage, and a joint C2ST.

    The joint C2ST tells (true parameters, data's moments, prior) from (one draw, the same): 0.5 if posteriors are right
    on average over data with the same moments. It is no substitute for the published C2ST, problem by problem.
    """
    theta = given.theta[:, None]
    prior = np.asarray(given.prior.log_prob(theta))[:, 0]
    moments = np.asarray(task.features(given.data)["moments"])[:, 0]
    known = np.concatenate([moments, np.asarray(given.prior.means).reshape(len(moments), -1)], axis=1)
    beside = ", ".join(f"{p} {v:.2f}" for p, v in zip(PEERS, PUBLISHED[task.name]["C2ST"][family], strict=True))
    why = f"{SOURCES[task.name]}; no reference for the published C2ST ({beside})"
    for name, mixture in mixtures.items():
        gain = np.asarray(mixture.log_prob(theta))[:, 0] - prior
        draws = np.asarray(mixture.sample(jax.random.key(0), DRAWS))
        rank = (draws < np.asarray(theta)).mean(axis=1)
        covered = float(np.mean((rank > 0.05) & (rank < 0.95)))
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        # Of different data sets: a judge that knows the twin of what it is shown is right less often than by chance.
        halves = ((np.asarray(given.theta), slice(0, None, 2)), (draws[:, 0], slice(1, None, 2)))
        joint, judges = _worst_c2st(*(np.concatenate([x[part], known[part]], axis=1)[None] for x, part in halves))
        head, n = f"Prior change: {task.name}, {family}, {name}", len(gain)
        yield Row(f"{head}: joint C2ST", joint, "C2ST", None, "lower", f"{why}{judges}", n)
        note = f"standard error {error:.3f}; {why}"
        yield Row(f"{head}: log score above the prior's", float(gain.mean()), "nats", None, "higher", note, n)
        yield Row(f"{head}: coverage of central 90 % intervals", covered, "share", None, "higher", why, rank.size)


def rows(
    networks: Mapping[str, Network], *, quick: bool = False, seed: int = 0, tasks: Collection[str] | None = None
) -> list[Row]:
    """Rows of the whole suite.

    Args:
        networks: name of the task -> trained network; a missing one leaves its base and a row that misses.
        quick: two priors of each family instead of ten; the numbers mean little.
        seed: of data and draws. Training uses other seeds.
        tasks: names of those to measure; all if left out, and only then the number of tasks that are beaten.
    """
    found: list[Row] = []
    for task in suite.SUITE:
        if tasks is not None and task.name not in tasks:
            continue
        network = networks.get(task.name)
        if network is None and not isinstance(task, suite.GaussianLinear):
            found.append(Row(f"Prior change: {task.name}: network", None, "C2ST", 0.5, "lower", "no trained network"))
        claim = f"Prior change: {task.name}"
        make = functools.partial(rows_of_task, task, network, 2 if quick else 10, seed)
        found += rows_of(claim, "C2ST", 0.5, make)
    if tasks is not None:
        return found
    found.append(beaten(found))
    print(found[-1], flush=True)
    return found


def beaten(found: list[Row]) -> Row:
    """How many tasks the rows of the whole suite beat."""
    names = [task.name for task in suite.SUITE if _beats(found, task.name, "network")]
    only = "; ".join(f"{name}: {SOURCES[name]}" for name in names)
    claim = "Prior change: tasks with every C2ST and MMTV below all three published methods"
    return Row(claim, len(names), "of 6 tasks", 5, "higher", only)


def _beats(found: list[Row], name: str, which: str) -> bool:
    """Whether all rows of a task's network, or of its closed form, meet their targets."""
    heads = tuple(
        f"Prior change: {name}, {family}, {kind}:" for family in suite.FAMILIES for kind in (which, "closed form")
    )
    mine = [row.met for row in found if row.claim.startswith(heads)]
    return len(mine) == 2 * len(suite.FAMILIES) and all(mine)
