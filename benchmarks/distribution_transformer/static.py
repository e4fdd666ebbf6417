"""Single updates with a known posterior: the gap of each network to the exact answer, beside base and prior alone.

Every problem is fresh and independent of the others, so problems are the clusters of the standard errors. Networks see
32-bit numbers; gaps are taken on the same problems for every row of a task (paired).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import special

from benchmarks.distribution_transformer.floors import floors_at
from benchmarks.record import Row, rows_of
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig
from transformers_gmm.meta_priors import NARROW, WIDE, PositivePairs
from transformers_gmm.network import ResidualTransformer
from transformers_gmm.packed import packed
from transformers_gmm.published import DistributionTransformer
from transformers_gmm.tasks.conjugate import Conjugate
from transformers_gmm.tasks.gaussian_process import GaussianProcess
from transformers_gmm.tasks.linear_gaussian import LinearGaussian
from transformers_gmm.tasks.quantum import Quantum
from transformers_gmm.tasks.range_bearing import RangeBearing
from transformers_gmm.tasks.static import AbstractStaticTask, Draws
from transformers_gmm.tasks.volatility import Volatility

Network = Callable[..., Any]  # Problem -> Components, or a published network

#: Both parameters IG(24, 6): far below what the networks were trained on.
SHIFTED = PositivePairs(24.0, 6.0)
_META_PRIORS = {"wide": WIDE, "narrow": NARROW, "shifted": SHIFTED}
_PUBLISHED = {
    (2, "wide"): "DT-2 0.0058",
    (2, "narrow"): "DT-2 0.0044",
    (5, "wide"): "DT-5 0.0003",
    (5, "narrow"): "DT-5 0.0004",
    (5, "shifted"): "DT-5 0.0054, ACE-5 0.0132",
}
_LARGE = 4096  # published feed-forward width of the Gaussian process; 2048 and 256 elsewhere
_TAIL = 16.0  # standard deviations to the right that posteriors of log x need


def rows(networks: Mapping[str, Network], *, quick: bool = False, seed: int = 20_260) -> list[Row]:
    """All rows.

    Args:
        networks: name of the task -> trained network, a function from problems to mixtures. One that is not there is
            a row that misses. "published_conjugate_5" and "published_quantum" add rows that have no target.
        quick: few problems; the numbers mean little.
        seed: of the problems. Training uses other seeds.
    """
    n, found = (100 if quick else 4000), []
    for name, k in (("conjugate_2", 2), ("conjugate_5", 5)):
        found += rows_of(name, "x floor", 1.3, lambda name=name, k=k: list(conjugate(networks[name], k, n, seed)))
    found += rows_of("Gaussian process", "nats", 0.01, lambda: list(process(networks["gaussian_process"], n, seed)))
    for as_run in (False, True):
        name = "quantum_as_run" if as_run else "quantum"
        target = None if as_run else 0.03
        found += rows_of(name, "nats", target, lambda name=name, r=as_run: list(measured(networks[name], r, n, seed)))
    if published := networks.get("published_conjugate_5"):
        found += rows_of("published K = 5", "x floor", None, lambda: list(conjugate(published, 5, n, seed)))
    if measures := networks.get("published_quantum"):
        found += rows_of("published quantum", "nats", None, lambda: list(measured(measures, False, n, seed)))
    found += rows_of("linear-Gaussian", "nats", 1e-5, lambda: list(linear(200 if quick else 1000, seed)))
    return found + rows_of("latency", "ms", 1.0, lambda: list(latency(networks, 50 if quick else 1000, seed)))


def conjugate(network: Network, k: int, n: int, seed: int) -> Iterator[Row]:
    """KL(exact || answer) by a sum over 1,200 points, over the least that K Gaussians leave on the same problems."""
    for index, (label, meta_prior) in enumerate(_META_PRIORS.items()):
        if label == "shifted" and k == 2:
            continue
        task = Conjugate(k, meta_prior)
        draws = _draw(task, seed + 10 * k + index, n)
        shape = np.asarray(draws.prior.concentration, float) + 0.5
        rate = np.asarray(draws.prior.rate, float) + 0.5 * np.asarray(draws.data, float) ** 2
        centre, sd = np.log(rate) - special.digamma(shape), np.sqrt(special.polygamma(1, shape))
        points = centre[:, None] + sd[:, None] * np.linspace(-7.0, _TAIL, 1200)
        excess = points - np.log(rate)[:, None]
        log_p = -shape[:, None] * excess - np.exp(-excess) - special.gammaln(shape)[:, None]
        weights = special.softmax(log_p, axis=1)

        def gap(log_q: np.ndarray, log_p: np.ndarray = log_p, weights: np.ndarray = weights) -> np.ndarray:
            return np.sum(weights * (log_p - log_q), axis=1)

        answer, base = _answers(task, network, draws)
        trained, untrained = gap(_log_density(answer, points)), gap(_log_density(base, points))
        log_prior = np.asarray(draws.prior.log_density(jnp.asarray(points, jnp.float32)), float)
        floor = float(np.mean(floors_at(shape, k)))
        error = 1.96 * trained.std() / np.sqrt(n)
        note = (
            f"KL {trained.mean():.3g} +- {error:.2g} nats, floor {floor:.3g}, base only {untrained.mean():.3g}, "
            f"prior only {gap(log_prior).mean():.3g}; published {_PUBLISHED[k, label]} nats"
        )
        target = None if label == "shifted" or _is_published(network) else 1.3
        claim = (
            f"{_name(network)}conjugate check, K = {k}, {label} meta-prior: KL(exact || answer) over the family's floor"
        )
        yield Row(claim, trained.mean() / floor, "x floor", target, peer=note, n=n)


def process(network: Network, n: int, seed: int) -> Iterator[Row]:
    """Gaps of the marginals and of the joint posterior: means over weighted points of each posterior."""
    task = GaussianProcess()
    draws = _draw(task, seed + 100, n)
    exact = jax.jit(lambda *given: (*task.log_marginals(*given), task.log_posterior(*given)))
    points, weights = _posterior(task, draws, seed + 101)
    truth = [np.asarray(v, float) for v in exact(draws.prior, draws.data, points)]
    answers = [_parts(answer, points) for answer in _answers(task, network, draws)]
    at_truth = [np.asarray(v, float)[:, 0] for v in exact(draws.prior, draws.data, draws.latents[:, None])]
    value, log_scale = draws.latents[:, 0], draws.latents[:, 1]
    of_prior = [
        np.asarray(jax.scipy.stats.norm.logpdf(value, draws.prior.mean, jnp.sqrt(draws.prior.variance)), float),
        np.asarray(draws.prior.length_scale.log_density(log_scale), float),
    ]
    of_prior.append(of_prior[0] + of_prior[1])
    units = [0.0, np.asarray(log_scale, float), np.asarray(log_scale, float)]  # the length-scale itself, not its log
    for i, (label, target) in enumerate((("y", 0.01), ("length-scale", 0.02), ("joint", None))):
        claim = f"Gaussian process, {label}: negative log score minus the exact posterior's"
        note = f"exact score {_mean_error(units[i] - at_truth[i])}, prior only {_mean_error(at_truth[i] - of_prior[i])}"
        scores = (np.asarray(part.log_prob(x), float) for part, x in (parts[i] for parts in answers))
        trained, untrained = (np.sum(weights * (truth[i] - score), axis=1) for score in scores)
        yield _gap_row(claim, trained, untrained, target, note)


def measured(network: Network, as_run: bool, n: int, seed: int) -> Iterator[Row]:
    """The same for the quantum parameter."""
    task = Quantum(as_run=as_run)
    draws = _draw(task, seed + 200 + as_run, n)
    points, weights = _posterior(task, draws, seed + 202)
    exact = jax.jit(lambda *given: task.log_posterior(*given))
    truth = np.asarray(exact(draws.prior, draws.data, points), float)
    trained, untrained = (
        np.sum(weights * (truth - np.asarray(answer.log_prob(points), float)), axis=1)
        for answer in _answers(task, network, draws)
    )
    at_truth = np.asarray(exact(draws.prior, draws.data, draws.latents[:, None]), float)[:, 0]
    logit = np.asarray(draws.latents[:, 0], float)
    jacobian = special.log_expit(logit) + special.log_expit(-logit)
    of_prior = np.asarray(draws.prior.log_density(draws.latents[:, 0]), float)
    version = "as the public code ran it" if as_run else "as written"
    claim = f"{_name(network)}quantum parameter, {version}: negative log score minus the exact posterior's"
    note = f"exact score {_mean_error(jacobian - at_truth)}, prior only {_mean_error(at_truth - of_prior)}"
    yield _gap_row(claim, trained, untrained, None if as_run or _is_published(network) else 0.03, note)


def linear(n: int, seed: int) -> Iterator[Row]:
    """An untrained network on linear-Gaussian problems: by dimension, then by K."""
    for dim, k in ((1, 8), (8, 8), (24, 8), (8, 2), (8, 5), (8, 10), (8, 20)):
        task = LinearGaussian(dim, k)
        draws = _draw(task, seed + 300 + dim + k, n)
        answer, base = _answers(task, ResidualTransformer(task.config, rngs=nnx.Rngs(0)), draws)
        points = base.sample(jax.random.key(seed + 301), 16)
        gaps = np.mean(np.asarray(base.log_prob(points) - answer.log_prob(points), float), axis=1)
        note = f"{_mean_error(gaps)} nats; no training"
        claim = f"linear-Gaussian, D = {dim}, K = {k}: KL(Kalman update || untrained network), size"
        yield Row(claim, abs(float(gaps.mean())), "nats", 1e-5, peer=note, n=n)


def latency(networks: Mapping[str, Network], repeats: int, seed: int) -> Iterator[Row]:
    """One update, data in to mixture out, compiled, batch of one: the networks here, and at the published sizes."""
    cases: list[tuple[str, AbstractStaticTask, Network | None, float | None]] = []
    for task, feedforward, target in (
        (Conjugate(5), 256, 1.0),
        (Quantum(), 2048, 1.0),
        (GaussianProcess(), _LARGE, None),
    ):
        cases.append((task.name, task, networks.get(task.name), 1.0))
        cases.append((f"{task.name}, published size", task, of_published_size(task.config, feedforward), target))
    for label, task, network, target in cases:
        claim = f"latency of one update, {label}"
        if network is None:
            yield Row(claim, None, "ms", target, peer="no network of this name")
            continue
        draws = _draw(task, seed + 400, 1)
        update = jax.jit(lambda network, prior, data, task=task: network(task.problem(prior, data)))
        yield timed_update(
            claim, network, functools.partial(update, packed(network), draws.prior, draws.data), target, repeats
        )
    four = dataclasses.replace(RangeBearing().config, num_components=4)  # as published; ours has 8
    for filtering in (RangeBearing(config=four), Volatility()):
        series = jax.jit(lambda key, task=filtering: task.simulate(key, 1))(jax.random.key(seed + 400))
        step = jax.tree.map(lambda x: x[0], series.steps)
        network = of_published_size(filtering.config, 2048)
        update = jax.jit(lambda network, belief, step, task=filtering: network(task.problem(belief, step)))
        claim = f"latency of one update, {filtering.name}, published size"
        yield timed_update(claim, network, functools.partial(update, packed(network), series.prior, step), 1.0, repeats)


def of_published_size(config: NetworkConfig, feedforward: int) -> ResidualTransformer:
    """An untrained network of the published depth and widths."""
    width, heads = (256, 16) if feedforward == _LARGE else (64, 8)
    paper = dataclasses.replace(config, width=width, heads=heads, layers=6, feedforward=feedforward, by_rank=False)
    return ResidualTransformer(paper, rngs=nnx.Rngs(0))


def timed_update(claim: str, network: Network, update: Callable[[], Any], target: float | None, repeats: int) -> Row:
    """Median milliseconds of one compiled update."""
    jax.block_until_ready(update())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(update())
        taken.append(1e3 * (time.perf_counter() - began))
    low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75])
    note = f"{jax.devices()[0].platform}, {_num_parameters(network):,} parameters, base included"
    return Row(claim, float(middle), "ms", target, peer=note, n=repeats, spread=(float(low), float(high)))


def _draw(task: AbstractStaticTask, seed: int, n: int) -> Draws:
    return jax.jit(lambda key: task.draw(key, n))(jax.random.key(seed))


def _posterior(task: AbstractStaticTask, draws: Draws, seed: int) -> tuple[jax.Array, np.ndarray]:
    """Points of each posterior and their weights: gaps take means over them, not over the one latent drawn."""
    find = jax.jit(lambda key, prior, data: task.posterior_points(key, prior, data))
    points, log_weights = find(jax.random.key(seed), draws.prior, draws.data)
    return points, np.exp(np.asarray(log_weights, float))


def _answers(task: AbstractStaticTask, network: Network, draws: Draws) -> tuple[Components, Components]:
    """The network's answers and the bases."""

    # Weights are arguments: as constants of a large batch, zeros of an untrained network were compiled wrongly.
    definition, weights = nnx.split(network)

    @jax.jit
    def answer(weights: Any, prior: Any, data: Any) -> tuple[Components, Components]:
        network, problem = nnx.merge(definition, weights), task.problem(prior, data)
        if _is_published(network):
            return network(task.parameters(prior), task.sources(data))[1], problem.base
        return network(problem), problem.base

    return answer(weights, draws.prior, draws.data)


def _is_published(network: Network) -> bool:
    return isinstance(network, DistributionTransformer)


def _name(network: Network) -> str:
    return "published network, " if _is_published(network) else ""


def _parts(answer: Components, points: jax.Array) -> list[tuple[Components, jax.Array]]:
    """Marginals of y and log length-scale and the joint, each with its points."""
    below = jnp.sqrt(jnp.sum(answer.scale_tril[..., 1, :] ** 2, axis=-1))[..., None, None]
    value = Components(answer.log_weights, answer.means[..., :1], answer.scale_tril[..., :1, :1])
    scale = Components(answer.log_weights, answer.means[..., 1:], below)
    return [(value, points[..., :1]), (scale, points[..., 1:]), (answer, points)]


def _log_density(answer: Components, points: np.ndarray) -> np.ndarray:
    """Of mixtures on the line at points (n, M), in 64 bits: the floors are below what 32 bits resolve."""
    log_weights, means, sds = (
        np.asarray(part, float).reshape(len(points), 1, -1)
        for part in (answer.log_weights, answer.means, answer.scale_tril)
    )
    log_weights = log_weights - special.logsumexp(log_weights, axis=-1, keepdims=True)
    each = log_weights - np.log(sds) - 0.5 * ((points[..., None] - means) / sds) ** 2
    return special.logsumexp(each, axis=-1) - 0.5 * np.log(2 * np.pi)


def _gap_row(claim: str, gap: np.ndarray, base: np.ndarray, target: float | None, note: str) -> Row:
    note = f"{_mean_error(gap)}, base only {_mean_error(base)}; {note} nats"
    return Row(claim, float(gap.mean()), "nats", target, peer=note, n=len(gap))


def _mean_error(values: np.ndarray) -> str:
    return f"{np.mean(values):.3g} +- {1.96 * np.std(values) / np.sqrt(len(values)):.2g}"


def _num_parameters(network: Network) -> int:
    if not isinstance(network, nnx.Module):
        return 0
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
