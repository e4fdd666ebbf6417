"""What every task of the prior-change suite shares: priors to train on, frames, and points of the posterior."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Examples, Problem
from transformers_gmm.task import AbstractTask
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings


def context_widths(dim: int, **sources: int) -> dict[str, int]:
    """Widths of all tokens: of the data's sources, of the prior's components and of the frame."""
    return {"prior": 1 + 2 * dim, "frame": 2 * dim} | sources


class AbstractPriorChange(AbstractTask):
    """A simulator whose prior may change at test time.

    Networks work in the parameters themselves, scaled as in the suite: its test priors lie three standard deviations
    inside their box, where Gaussians fit better than in a space that stretches the edges. Draws outside the box are
    to be rejected (`Prior.log_prob` is `-inf` there).
    """

    settings: eqx.AbstractVar[PriorSettings]

    @abc.abstractmethod
    def observe(self, key: jax.Array, theta: Float[Array, "n dim"]) -> Float[Array, "n data"]:
        """Data of the simulator for n parameters."""

    @abc.abstractmethod
    def base(self, prior: Prior, data: Float[Array, "n data"]) -> Components:
        """The posterior before learning."""

    @abc.abstractmethod
    def features(self, data: Float[Array, "n data"]) -> dict[str, Array]:
        """Tokens of the data by source, each of shape (n, S, W)."""

    def points(
        self, key: jax.Array, theta: Float[Array, "n dim"], prior: Prior, data: Float[Array, "n data"], base: Components
    ) -> tuple[Float[Array, "n points dim"], Float[Array, "n points"]]:
        """Weighted points whose expectations over simulations are those of the posterior: here the truth alone."""
        return theta[:, None], jnp.zeros((theta.shape[0], 1), theta.dtype)

    def problem(self, prior: Prior, data: Float[Array, "n data"]) -> Problem:
        """What the network sees of n priors (leading axis n) and their data."""
        base = self.base(prior, data)
        location, scale = base.mean, jnp.sqrt(base.variance)
        unit = self.settings.scale
        middle = (self.settings.low + self.settings.high) / 2
        frame = jnp.concatenate([(location - middle) / unit, jnp.log(scale / unit)], axis=-1)
        prior_tokens = jnp.concatenate(
            [
                jnp.exp(prior.log_weights)[..., None],
                (prior.means - location[:, None]) / scale[:, None],
                jnp.log(prior.scales / scale[:, None]),
            ],
            axis=-1,
        )
        context = {"prior": prior_tokens, "frame": frame[:, None]} | self.features(data)
        mask = {name: jnp.ones(tokens.shape[:2], bool) for name, tokens in context.items()}
        mask["prior"] = jnp.isfinite(prior.log_weights)
        tokens = jnp.zeros((*base.log_weights.shape, 0), base.means.dtype)
        return Problem(base, location, scale, tokens, context, mask)

    def simulate(self, key: jax.Array, n: int) -> Examples:
        """`n` problems: a fresh prior, parameters from it, fresh data."""
        key_prior, key_theta, key_data, key_points = jax.random.split(key, 4)
        prior = self.settings.draw(key_prior, n)
        theta = prior.sample(key_theta)
        return self.examples(key_points, prior, theta, self.observe(key_data, theta))

    def examples(
        self, key: jax.Array, prior: Prior, theta: Float[Array, "n dim"], data: Float[Array, "n data"]
    ) -> Examples:
        """Problems for given priors, parameters from them and their data."""
        problem = self.problem(prior, data)
        points, log_weights = self.points(key, theta, prior, data, problem.base)
        return Examples(problem, points, log_weights)


class AbstractTractable(AbstractPriorChange):
    """A simulator whose likelihood can be computed: training uses many posterior points of each problem."""

    num_points: eqx.AbstractVar[int]

    @abc.abstractmethod
    def log_likelihood(self, theta: Float[Array, "points dim"], data: Float[Array, " data"]) -> Float[Array, " points"]:
        """Log likelihood of one data set at several parameters, up to a constant."""

    def points(
        self, key: jax.Array, theta: Float[Array, "n dim"], prior: Prior, data: Float[Array, "n data"], base: Components
    ) -> tuple[Float[Array, "n points dim"], Float[Array, "n points"]]:
        r"""The truth among draws of the base, weighted by posterior over base.

        The truth is a draw from the posterior, and choosing among it and fresh proposals by importance weight leaves
        the posterior invariant, so weighted averages over the set are unbiased however poor the base.

        References:
            Andrieu, Lee & Vihola (2018), Uniform ergodicity of the iterated conditional SMC, section 3 (i-SIR).
        """
        if self.num_points == 1:
            return super().points(key, theta, prior, data, base)
        proposals = base.sample(key, self.num_points - 1)
        points = jnp.concatenate([theta[:, None], proposals], axis=1)
        log_weights = prior.log_prob(points) - base.log_prob(points)
        log_weights = log_weights + jax.vmap(self.log_likelihood)(points, data)
        # Draws outside the box have no weight; they are moved to the truth so that no loss is taken far out there.
        points = jnp.where(jnp.isfinite(log_weights)[..., None], points, theta[:, None])
        return points, jax.nn.log_softmax(log_weights, axis=-1)


class FromStored(AbstractTask):
    """A task trained on stored simulations only, whatever the prior: pairs are drawn again by importance weight.

    Of N pairs with parameters from the training prior p, a problem with prior q takes pair j with probability
    proportional to q(theta_j) / p(theta_j).

    Attributes:
        task: the task.
        theta, data: the pairs, shapes (N, D) and (N, ...).
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    task: AbstractPriorChange
    theta: Float[Array, "sims dim"]
    data: Float[Array, "sims data"]

    def __init__(
        self, task: AbstractPriorChange, theta: Float[Array, "sims dim"], data: Float[Array, "sims data"]
    ) -> None:
        self.name, self.config, self.training = f"{task.name}_stored", task.config, task.training
        self.task, self.theta, self.data = task, theta, data

    @classmethod
    def draw(cls, task: AbstractPriorChange, key: jax.Array, num_simulations: int) -> FromStored:
        """Simulate the pairs; at most 1000 at a time."""
        settings, shape = task.settings, (num_simulations, task.settings.dim)
        key_theta, key_data = jax.random.split(key)
        if settings.is_bounded:
            theta = jax.random.uniform(key_theta, shape, minval=settings.low, maxval=settings.high)
        else:
            theta = settings.scale * jax.random.normal(key_theta, shape)
        parts = np.array_split(np.arange(num_simulations), -(-num_simulations // 1000))
        keys = jax.random.split(key_data, len(parts))
        observe = jax.jit(lambda key, theta: task.observe(key, theta))
        return cls(task, theta, jnp.concatenate([observe(k, theta[part]) for k, part in zip(keys, parts, strict=True)]))

    def problem(self, prior: Prior, data: Float[Array, "n data"]) -> Problem:
        """As the task."""
        return self.task.problem(prior, data)

    def simulate(self, key: jax.Array, n: int) -> Examples:
        """`n` problems: fresh priors, stored pairs."""
        key_prior, key_pair, key_points = jax.random.split(key, 3)
        settings = self.task.settings
        prior = settings.draw(key_prior, n)
        log_weights = prior.log_prob(jnp.broadcast_to(self.theta, (n, *self.theta.shape)))
        if not settings.is_bounded:
            log_weights = log_weights + 0.5 * jnp.sum((self.theta / settings.scale) ** 2, axis=-1)
        which = jax.random.categorical(key_pair, log_weights)
        return self.task.examples(key_points, prior, self.theta[which], self.data[which])
