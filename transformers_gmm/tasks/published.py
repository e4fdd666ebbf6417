"""The published networks on the published tasks: absolute outputs, single draws, the prior in the loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
from flax import nnx
from jaxtyping import Array

from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.meta_priors import GaussianMixtures
from transformers_gmm.published import DistributionTransformer, published_loss
from transformers_gmm.task import AbstractTask
from transformers_gmm.tasks.conjugate import Conjugate
from transformers_gmm.tasks.quantum import Quantum
from transformers_gmm.tasks.range_bearing import simulate_values


class Published(AbstractTask):
    """A task as the paper trains it: one draw for each problem, and no analytic part in the answer.

    Attributes:
        task: with `draw`, `parameters` and `sources`.
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    task: Any = eqx.field(static=True)

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        return DistributionTransformer(self.config, rngs=rngs)

    def simulate(self, key: jax.Array, n: int) -> tuple[Any, dict[str, Array], Array]:
        draws = self.task.draw(key, n)
        return self.task.parameters(draws.prior), self.task.sources(draws.data), draws.latents

    def loss(self, network: Any, piece: Any) -> Array:
        return published_loss(network, *piece)


@dataclasses.dataclass(frozen=True)
class RangeBearingUpdate:
    """One update of the tracking task from a random mixture of four components (spec of the meta-prior: `meta`)."""

    meta: GaussianMixtures

    def draw(self, key: jax.Array, n: int) -> Any:
        """Priors, states and values."""
        keys = jax.random.split(key, 3)
        prior = self.meta.sample(keys[0], n)
        states = prior.sample(keys[1], 1)[:, 0]
        return _Draws(prior, states, simulate_values(keys[2], states))

    def parameters(self, prior: Any) -> Any:
        """The components themselves."""
        return prior

    def sources(self, data: dict[str, Array]) -> dict[str, Array]:
        """One token a sensor."""
        return {name: value[:, None, :] for name, value in data.items()}


class _Draws(eqx.Module):
    prior: Any
    latents: Array
    data: Any


def published_conjugate_5() -> Published:
    """Section 4.1, K = 5: 0.43 M parameters."""
    return Published(
        "published_conjugate_5",
        NetworkConfig(
            dim=1, num_components=5, context={"observation": 1}, width=64, heads=8, layers=6, feedforward=256,
            prior_parameters={"variance": 2},
        ),
        TrainingConfig(steps=2_000, batch=5_000, learning_rate=5e-3, seed=11),
        Conjugate(5),
    )  # fmt: skip


def published_quantum() -> Published:
    """Section 4.2.2 as written, K = 5: 1.8 M parameters."""
    task = Quantum()
    shapes = jax.eval_shape(
        lambda: (lambda d: (task.sources(d.data), task.parameters(d.prior)))(task.draw(jax.random.key(0), 1))
    )
    return Published(
        "published_quantum",
        NetworkConfig(
            dim=1, num_components=5, context={name: s.shape[-1] for name, s in shapes[0].items()}, width=64, heads=8,
            layers=6, feedforward=2048, prior_parameters={name: s.shape[-1] for name, s in shapes[1].items()},
        ),
        TrainingConfig(steps=2_000, batch=5_000, learning_rate=1e-3, seed=12),
        task,
    )  # fmt: skip


def published_range_bearing() -> Published:
    """Section 4.3.1, one update, K = 4: 1.7 M parameters."""
    return Published(
        "published_range_bearing",
        NetworkConfig(
            dim=4, num_components=4, context={"range": 1, "bearing": 1}, width=64, heads=8, layers=6, feedforward=2048,
        ),
        TrainingConfig(steps=15_000, batch=5_000, learning_rate=1e-3, seed=13),
        RangeBearingUpdate(GaussianMixtures(4, 4)),
    )  # fmt: skip
