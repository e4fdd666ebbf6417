"""Amortized inference for any program: train once on its own simulations, then posteriors for any prior and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, DataError, ModelError, UnknownNameError
from probinf.language.program import Program
from probinf.random import as_key
from probinf.representations.mixture import GaussianMixture
from transformers_gmm.batches import answer_all
from transformers_gmm.components import Components, heaviest
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.correction.result import Correction
from transformers_gmm.correction.rule import answer, correct
from transformers_gmm.correction.target import Target, program_target
from transformers_gmm.correction.training_range import TrainingRange, problem_features
from transformers_gmm.examples import Examples, Problem
from transformers_gmm.network import ResidualTransformer
from transformers_gmm.task import AbstractTask
from transformers_gmm.training import Training, train
from transformers_gmm.weights import load_network, save_network

MetaPrior = Callable[[jax.Array, int], Components]
_NUM_DRAWS = 2000  # of the program's own prior, for its mixture and the data's scale


class ProgramTask(AbstractTask):
    """Problems made by a program: a prior from the meta-prior, latents from it, data from the program.

    The base is the prior, so that nothing but simulation is needed.
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    program: Program = eqx.field(static=True)
    target: Target = eqx.field(static=True)
    data: str = eqx.field(static=True)
    sites: tuple[str, ...] | None = eqx.field(static=True)
    meta_prior: MetaPrior = eqx.field(static=True)
    centre: Float[Array, "*event"]
    spread: Float[Array, "*event"]

    def simulate(self, key: jax.Array, n: int) -> Examples:
        keys = jax.random.split(key, 3)
        prior = self.meta_prior(keys[0], n)
        latents = prior.sample(keys[1], 1)[:, 0]

        def data_of(x: Array, key: jax.Array) -> Array:
            assert self.target.constrain is not None
            values = self.target.constrain(x, *self.target.args)
            return self.program.given(**values).simulate(key)[self.data]

        data = jax.vmap(data_of)(latents, jax.random.split(keys[2], n))
        return Examples(self.problem(prior, data), latents[:, None], jnp.zeros((n, 1)))

    def problem(self, prior: Components, data: Array) -> Problem:
        """What the network sees of a batch of priors (B, K, ...) and data (B, ...)."""
        base = heaviest(prior, self.config.num_components)
        scaled = (data - self.centre[None]) / self.spread[None]
        row = jnp.arcsinh(scaled.reshape(len(data), 1, -1))
        location, scale = base.mean, jnp.sqrt(base.variance)
        frame = jnp.concatenate([location, jnp.log(scale)], axis=-1)[:, None]
        none = jnp.zeros((*base.log_weights.shape, 0), base.means.dtype)
        there = jnp.ones((len(data), 1), bool)
        return Problem(base, location, scale, none, {"data": row, "frame": frame}, {"data": there, "frame": there})


@dataclasses.dataclass(frozen=True)
class MixturePosterior:
    """A network that answers one program: posteriors of its latent sites as Gaussian mixtures, in milliseconds.

    Mixtures live on the unconstrained space of the sites (log for positive values, logit for shares).

    Example:
        posterior = MixturePosterior.train(program, data="y")
        q = posterior(y)                    # under the program's own prior
        q = posterior(y, prior=mixture)     # under any other
        posterior.corrected(y, key=0)       # exact up to Monte Carlo error, with evidence and Pareto k

    Attributes:
        task: the program as a source of problems.
        network: trained.
        prior: the program's own prior as a mixture.
        training_range: of the problems it was trained on.
        run: the training, or None if loaded from a file.
    """

    task: ProgramTask
    network: Any
    prior: GaussianMixture
    training_range: TrainingRange
    run: Training | None = None

    @classmethod
    def train(
        cls,
        program: Program,
        meta_prior: MetaPrior | None = None,
        *,
        data: str,
        sites: Sequence[str] | None = None,
        config: NetworkConfig | None = None,
        training: TrainingConfig | None = None,
        checkpoint: Any = None,
        progress: bool = True,
        devices: Sequence[Any] | None = None,
    ) -> MixturePosterior:
        """Train on simulations of a program.

        Args:
            program: without data; its latent sites but `data` are the parameters.
            meta_prior: (key, n) to n mixtures over the unconstrained parameters, the priors that the network shall
                serve; by default the program's own prior, moved, scaled, or replaced by a few Gaussians near it.
            data: name of the site that will be observed.
            sites: parameters in the order of the mixtures' coordinates; alphabetical by default.
            config: sizes of the network.
            training: settings of the run.
            checkpoint: a folder, from which an interrupted run goes on.
            progress: show a bar.
            devices: that share every batch; one if left out.

        Raises:
            ArgumentError: the batch cannot be shared evenly among the devices.
            UnknownNameError: no site `data`.
            ModelError: a discrete parameter, or one that is not always there.
        """
        task, prior = _task(program, data, sites, meta_prior, config, training)
        run = train(task, checkpoint=checkpoint, progress=progress, devices=devices)
        examples = task.simulate(jax.random.fold_in(as_key(task.training.seed), 2), _NUM_DRAWS)
        seen = TrainingRange.fit(*problem_features(examples.problem))
        return cls(task, run.network(), prior, seen, run)

    def __call__(self, data: Any, prior: GaussianMixture | None = None, *, key: int | jax.Array = 0) -> GaussianMixture:
        """The posterior given data of the site's shape, under `prior` or else the program's own.

        Outside of the training range the network's answer is not returned: it is corrected by importance sampling, or
        by tempered SMC, and fitted again; `key` is for that.

        Raises:
            ArgumentError: the prior has other dimensions or more components than the network has room for.
            DataError: the data have another shape, or values that are not finite.

        Warns:
            OutOfRangeWarning: the answer was corrected, and which features lie outside.
        """
        data, batch = self._checked(data, prior)
        features, _ = problem_features(self.task.problem(batch, data[None]))
        rule: dict[str, Any] = {"features": features, "training": self.training_range, "num_probes": 0}
        return answer(self._raw(data, batch), self._target(data, prior), key, **rule).mixture

    def batch(self, data: Any, priors: Components) -> Components:
        """Posteriors of many problems in one call: data (B, ...) and priors (B, K, ...)."""
        return self._answer(priors, jnp.asarray(data, float))

    def corrected(
        self, data: Any, prior: GaussianMixture | None = None, *, key: int | jax.Array, num_draws: int = 2000
    ) -> Correction:
        """Importance sampling from the network's answer, or tempered SMC from it where that cannot be trusted."""
        data, batch = self._checked(data, prior)
        return correct(self._raw(data, batch), self._target(data, prior), key, num_draws=num_draws)

    def _raw(self, data: Array, batch: Components) -> GaussianMixture:
        return jax.tree.map(lambda x: x[0], self._answer(batch, data[None])).as_mixture()

    def _target(self, data: Array, prior: GaussianMixture | None) -> Target:
        """The posterior on unconstrained space: the program's likelihood times the prior in use."""
        values: dict[str, Any] = {self.task.data: data}
        program = self.task.program.given(**values)
        if prior is None:
            return program_target(program, self.task.sites)
        whole = program.unconstrained()
        observed = [site.name for site in program.sites if site.kind == "observe"]
        split = getattr(self.task.target.log_density, "split", None)
        assert split is not None

        def log_density(x: Array, mixture: GaussianMixture, operands: Any) -> Array:
            scores = whole.site_logdensities(operands, split(x))
            return mixture.log_prob(x) + sum(scores[name] for name in observed)

        return Target(log_density, (prior, whole.operands), name=repr(program.name))

    def constrain(self, x: Float[Array, "n dim"]) -> dict[str, Array]:
        """Unconstrained points to values by site, each with leading axis n."""
        target = self.task.target
        assert target.constrain is not None
        return dict(jax.vmap(lambda one: target.constrain(one, *target.args))(x))  # type: ignore[misc]

    def save(self, path: str | Path) -> Path:
        """Write the network to a safetensors file; the program is not in it."""
        record: dict[str, Any] = {"training_range": self.training_range.to_dict()}
        if self.run is not None:
            record |= {"steps": self.run.done, "held_out": [float(x) for x in self.run.held_out]}
        return save_network(path, self.network, kind="ResidualTransformer", task=self.task.name, record=record)

    @classmethod
    def load(
        cls, path: str | Path, program: Program, *, data: str, sites: Sequence[str] | None = None
    ) -> MixturePosterior:
        """The network of a file, for the program it was trained on.

        Raises:
            CheckpointError: the file is damaged or for another program.
        """
        kinds = {"ResidualTransformer": ResidualTransformer}
        network, header = load_network(path, kinds, task=program.name)
        task, prior = _task(program, data, sites, None, header["config"], None)
        return cls(task, network, prior, TrainingRange.from_dict(header["record"]["training_range"]))

    def _checked(self, data: Any, prior: GaussianMixture | None) -> tuple[Array, Components]:
        prior, room = self.prior if prior is None else prior, self.task.config.num_components
        if prior.dim != self.prior.dim:
            raise ArgumentError(f"prior: expected {self.prior.dim} dimensions, found {prior.dim}.")
        if prior.num_components > room:
            raise ArgumentError(
                f"prior: {prior.num_components} components, the network has room for {room}; call prior.reduce({room})."
            )
        data = jnp.asarray(data, float)
        if data.shape != self.task.centre.shape:
            raise DataError(f"data: site {self.task.data!r} has shape {self.task.centre.shape}, found {data.shape}.")
        bad = np.argwhere(~np.isfinite(np.asarray(data)))
        if len(bad):
            raise DataError(f"data: {len(bad)} values are not finite, the first at index {tuple(map(int, bad[0]))}.")
        return data, jax.tree.map(lambda x: jnp.asarray(x, float)[None], Components.from_mixture(prior))

    def _answer(self, priors: Components, data: Array) -> Components:
        return answer_all(self.network, self.task, priors, data)


def _task(
    program: Program,
    data: str,
    sites: Sequence[str] | None,
    meta_prior: MetaPrior | None,
    config: NetworkConfig | None,
    training: TrainingConfig | None,
) -> tuple[ProgramTask, GaussianMixture]:
    draws = program.simulate(0, _NUM_DRAWS)
    if data not in draws:
        raise UnknownNameError(data, sorted(draws), "site", f"model {program.name!r}")
    example = np.asarray(draws[data], float)
    if not np.all(np.isfinite(example)):
        raise ModelError(f"program: site {data!r} of {program.name!r} is not finite under the prior.")
    values: dict[str, Any] = {data: draws[data][0]}
    target = program_target(program.given(**values), sites)
    unconstrained = program.given(**values).unconstrained()
    layout = target.log_density
    positions = jax.vmap(lambda key: _flat(layout, unconstrained.prior_position(unconstrained.operands, key)))(
        jax.random.split(as_key(1), _NUM_DRAWS)
    )
    config = NetworkConfig(
        dim=positions.shape[-1], num_components=5, context={"data": example[0].size, "frame": 2 * positions.shape[-1]}
    ) if config is None else config  # fmt: skip
    prior = GaussianMixture.from_samples(positions, k=min(3, config.num_components))
    spread = np.maximum(np.quantile(example, 0.84, axis=0) - np.quantile(example, 0.16, axis=0), 1e-6) / 2
    task = ProgramTask(
        program.name,
        config,
        TrainingConfig(steps=3000, batch=256) if training is None else training,
        program,
        target,
        data,
        None if sites is None else tuple(sites),
        _around(prior) if meta_prior is None else meta_prior,
        jnp.asarray(np.median(example, axis=0), float),
        jnp.asarray(spread, float),
    )
    return task, prior


def _around(prior: GaussianMixture) -> MetaPrior:
    """The prior itself, moved and scaled, or one to K Gaussians where it lies: a third each."""

    def draw(key: jax.Array, n: int) -> Components:
        keys = jax.random.split(key, 7)
        k, dim = prior.num_components, prior.dim
        sd = jnp.sqrt(jnp.diagonal(prior.cov))[None, None]
        kind = jax.random.randint(keys[0], (n, 1, 1), 0, 3)
        shift = jnp.where(kind == 0, 0.0, jax.random.normal(keys[1], (n, 1, dim)) * sd)
        width = jnp.where(kind == 0, 1.0, jnp.exp(0.5 * jax.random.normal(keys[2], (n, 1, 1)) - 0.3))
        centre = prior.mean[None, None]
        near = centre + (prior.means[None] - centre) * width + shift
        means = jnp.where(kind == 2, centre + sd * jax.random.normal(keys[3], (n, k, dim)), near)
        own = jnp.exp(0.5 * jax.random.normal(keys[4], (n, k, dim)) - 0.5) * sd
        factors = jnp.where(
            kind[..., None] == 2, own[..., None] * jnp.eye(dim)[None, None], prior.scale_tril[None] * width[..., None]
        )
        count = jax.random.randint(keys[5], (n, 1), 1, k + 1)
        few = jnp.where(jnp.arange(k)[None] < count, jax.random.normal(keys[6], (n, k)), -jnp.inf)
        weights = jnp.where(kind[..., 0] == 2, jax.nn.log_softmax(few, axis=-1), prior.log_weights[None])
        return Components(weights, means, factors)

    return draw


def _flat(density: Any, position: dict[str, Array]) -> Array:
    """A position as the vector that `density.split` takes apart."""
    size = density.dim
    index = density.split(jnp.arange(size, dtype=float))
    flat = jnp.zeros(size, jnp.result_type(*position.values()))
    for name, where in index.items():
        flat = flat.at[where.astype(int).reshape(-1)].set(position[name].reshape(-1))
    return flat
