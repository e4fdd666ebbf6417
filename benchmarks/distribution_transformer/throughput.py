"""Ten thousand posteriors in one batched call, against NUTS and importance sampling, by turns in one process.

NUTS is scored as a mixture of as many Gaussians as the network's, fitted to its draws (`GaussianMixture.from_samples`,
not timed). It gets its default number of draws, with which it does not reach the network's log score: the ratio is a
bound from below. Importance sampling from the prior gets as many draws as an equal log score takes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
from benchmarks.record import Row, rows_of
from probinf.representations.mixture import GaussianMixture
from transformers_gmm.batches import answer_all
from transformers_gmm.meta_priors import Beta, InverseGamma
from transformers_gmm.tasks.gaussian_process import GaussianProcess, Hyperprior, Regression
from transformers_gmm.tasks.quantum import Quantum
from transformers_gmm.tasks.registry import make_task
from transformers_gmm.tasks.static import Draws

Network = Callable[..., Any]
_PILOT = 4096  # draws that tell how many importance sampling needs
_FASTER = 1000.0


def rows(networks: Mapping[str, Network], *, quick: bool = False, seed: int = 88_000) -> list[Row]:
    """All rows; a network that is not there is a row that misses."""
    sizes = (200, 2, 4) if quick else (10_000, 20, 200)
    found = []
    for name in PROGRAMS:
        measure = functools.partial(throughput, networks, name, *sizes, seed)
        found += rows_of(f"throughput, {name}", "ratio", _FASTER, measure)
    return found


def throughput(
    networks: Mapping[str, Network], name: str, num: int, num_nuts: int, num_weighted: int, seed: int
) -> Iterator[Row]:
    """The network on `num` problems, the peers on the first of them."""
    task, network = make_task(name), networks[name]
    given = jax.jit(lambda key: task.draw(key, num))(jax.random.key(seed))
    answer = lambda: answer_all(network, task, given.prior, given.data)  # noqa: E731
    score = _Score(task, given, seed + 1)
    gap = score(answer().log_prob)
    method, k = pi.NUTS(), task.config.num_components
    program, latents = PROGRAMS[name]
    taken, gaps, own = [], [], []
    for i in range(num_nuts + 1):  # by turns; the first of each compiles
        one = jax.tree.map(lambda x, i=i: x[i], given)
        began = time.perf_counter()
        posterior = pi.infer(program(one), method, seed=seed + i, progress=False)
        taken.append(time.perf_counter() - began)
        own.append(_timed(answer))
        x = latents(posterior).reshape(-1, task.config.dim)
        mixture = GaussianMixture.from_samples(jnp.asarray(x), None, k, i)
        gaps.append(score.of_one(i, mixture.log_prob))
    seconds, theirs = float(np.median(own[1:])), float(np.median(taken[1:]))
    ours = seconds / num
    yield Row(f"throughput, {name}: {num:,} posteriors in one call", 1e6 * ours, "us a posterior", None,
              peer=f"{seconds:.3g} s in all; gap to the exact posterior {_pm(gap)} nats", n=num_nuts)  # fmt: skip
    count = method.num_chains * method.num_draws
    note = f"{1e3 * theirs:.3g} ms a posterior, pi.NUTS() with {method.num_chains} x {method.num_draws} draws; gap "
    note += f"{_pm(np.array(gaps))} nats ({count} draws as a mixture), network on the same {_pm(gap[: num_nuts + 1])}"
    claim = f"throughput, {name}: time of NUTS over the network's, a posterior"
    yield Row(claim, theirs / ours, "ratio", _FASTER, "higher", note, num_nuts)

    few = jax.tree.map(lambda x: x[:num_weighted], given)
    variance = _variance_of_weights(task, name, _PILOT, jax.random.key(seed + 2), few)
    # Bayes' rule with a normaliser from n draws is off by half the weights' variance over n on average.
    needed = variance / (2 * max(gap.mean(), 1e-12))
    draws = int(2 ** np.clip(np.ceil(np.log2(needed)), 6, 17))
    weigh = jax.jit(functools.partial(_normaliser, task, name, draws))
    weighted = lambda: weigh(jax.random.key(seed + 3), few.prior, few.data)  # noqa: E731
    jax.block_until_ready(weighted())
    turns = [(_timed(weighted), _timed(answer)) for _ in range(3)]
    seconds, again = (float(np.median(times)) for times in zip(*turns, strict=True))
    note = f"{1e6 * seconds / num_weighted:.3g} us a posterior, batched, {draws} draws; {needed:.3g} would have a log "
    note += f"score as near to the exact one (weights' variance {variance:.2g})"
    claim = f"throughput, {name}: time of importance sampling from the prior over the network's, equal log score"
    yield Row(claim, seconds / num_weighted / (again / num), "ratio", None, "higher", note, num_weighted)


def _timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


class _Score:
    """KL(exact || answer) of problems, by weighted points of each posterior."""

    def __init__(self, task: Any, given: Draws, seed: int) -> None:
        find = jax.jit(lambda key, prior, data: task.posterior_points(key, prior, data))
        self.points, log_masses = find(jax.random.key(seed), given.prior, given.data)
        self.masses = np.exp(np.asarray(log_masses, float))
        exact = jax.jit(lambda *given: task.log_posterior(*given))
        self.exact = np.asarray(exact(given.prior, given.data, self.points), float)

    def __call__(self, log_prob: Callable[..., Any]) -> np.ndarray:
        return np.sum(self.masses * (self.exact - np.asarray(log_prob(self.points), float)), axis=1)

    def of_one(self, i: int, log_prob: Callable[..., Any]) -> float:
        return float(np.sum(self.masses[i] * (self.exact[i] - np.asarray(log_prob(self.points[i]), float))))


def _normaliser(task: Any, name: str, num_draws: int, key: jax.Array, prior: Any, data: Any) -> tuple[Any, Any]:
    """Log of the mean weight of draws of each prior, and the variance of the weights over their squared mean."""

    def one(given: Any) -> Any:
        key, prior, data = given
        prior, data = jax.tree.map(lambda x: x[None], (prior, data))
        x, log_prior = _prior_draws(name, key, prior, num_draws)
        log_weights = task.log_posterior(prior, data, x)[0] - log_prior[0]
        log_mean = jax.nn.logsumexp(log_weights) - jnp.log(num_draws)
        return log_mean, jnp.var(jnp.exp(log_weights - log_mean))

    keys = jax.random.split(key, len(jax.tree.leaves(prior)[0]))
    return jax.lax.map(one, (keys, prior, data), batch_size=8)


def _variance_of_weights(task: Any, name: str, num_draws: int, key: jax.Array, given: Draws) -> float:
    _, variances = jax.jit(functools.partial(_normaliser, task, name, num_draws))(key, given.prior, given.data)
    return float(np.mean(np.asarray(variances, float)))


def _prior_draws(name: str, key: jax.Array, prior: Any, n: int) -> tuple[jax.Array, jax.Array]:
    """Draws (B, n, D) of each prior in the unconstrained space, and their log densities."""
    keys = jax.random.split(key, n)
    many = lambda draw: jnp.moveaxis(jax.vmap(draw)(keys), 0, 1)  # noqa: E731
    if name == "gaussian_process":
        log_scale = many(prior.length_scale.sample_log)
        sd = jnp.sqrt(prior.variance)[:, None]
        noise = jax.random.normal(jax.random.fold_in(key, n), log_scale.shape)
        log_prior = prior.length_scale.log_density(log_scale) - 0.5 * noise**2 - jnp.log(sd * jnp.sqrt(2 * jnp.pi))
        return jnp.stack([prior.mean[:, None] + sd * noise, log_scale], axis=-1), log_prior
    u = many(prior.sample_logit if isinstance(prior, Beta) else prior.sample_log)
    return u[..., None], prior.log_density(u)


@pi.model
def _variance(concentration: Any, rate: Any, z: Any) -> None:
    variance = pi.sample("variance", dist.InverseGamma(concentration, rate))
    pi.observe("z", dist.Normal(0.0, jnp.sqrt(variance)), z)


@pi.model
def _measurements(a: Any, b: Any, outcomes: Any) -> None:
    probability = pi.sample("probability", dist.Beta(a, b))
    success = Quantum().success(jnp.log(probability) - jnp.log1p(-probability))
    pi.observe("outcomes", dist.Bernoulli(probs=success).to_event(1), outcomes)


@pi.model
def _process(concentration: Any, rate: Any, mean: Any, variance: Any, inputs: Any, outputs: Any, query: Any) -> None:
    """The outputs given the length-scale alone, then the value given both: the same joint density."""
    scale = pi.sample("length-scale", dist.InverseGamma(concentration, rate))
    prior = Hyperprior(InverseGamma(concentration[None], rate[None]), mean[None], variance[None])
    data = Regression(inputs[None], outputs[None], query[None])
    known = GaussianProcess().conditional(prior, data, jnp.log(scale)[None, None])
    pi.factor("outputs", known.log_evidence[0, 0])
    pi.sample("value", dist.Normal(known.mean[0, 0], jnp.sqrt(known.variance[0, 0])))


#: Task -> its program for one problem, and its latents (draws, D) in the network's unconstrained space.
PROGRAMS: dict[str, tuple[Callable[[Draws], Any], Callable[[Any], np.ndarray]]] = {
    "conjugate_5": (
        lambda one: _variance(one.prior.concentration, one.prior.rate, one.data),
        lambda found: np.log(found["variance"]),
    ),
    "quantum": (
        lambda one: _measurements(one.prior.a, one.prior.b, one.data.astype(int)),
        lambda found: np.log(found["probability"]) - np.log1p(-found["probability"]),
    ),
    "gaussian_process": (
        lambda one: _process(
            one.prior.length_scale.concentration, one.prior.length_scale.rate, one.prior.mean, one.prior.variance,
            one.data.inputs, one.data.outputs, one.data.query,
        ),
        lambda found: np.stack([found["value"], np.log(found["length-scale"])], axis=-1),
    ),
}  # fmt: skip


def _pm(values: np.ndarray) -> str:
    return f"{np.mean(values):.2g} +- {1.96 * np.std(values) / np.sqrt(len(values)):.2g}"
