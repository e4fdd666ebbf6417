"""Online Laplace approximation: the posterior of a task, as a Gaussian at its mode, is the prior of the next."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import positive
from continual.learner import AbstractPredictor, nothing_learnt
from continual.moments import in_batches
from continual.strategies.architecture import AbstractNetwork, Dense, Parameters
from continual.strategies.curvature import (
    AbstractCovariance,
    AbstractCurvature,
    Diagonal,
    Kronecker,
    penalty_of,
    with_task,
)
from continual.strategies.network import epochs_of, rows_of, trained
from continual.strategies.sequential import AbstractSequential, SequentialBelief
from probinf.errors import ArgumentError

Structure = Literal["diagonal", "kronecker"]


class LinearisedPredictor(AbstractPredictor):
    r"""Softmax of $m_c / \sqrt{1 + \pi v_c / 8}$: logits of mean m and variance v under the linearised network.

    References:
        MacKay (1992), The evidence framework applied to classification networks, Eq. 10; Gibbs (1998), Bayesian
        Gaussian processes for regression and classification, for several classes.
    """

    network: AbstractNetwork
    parameters: Parameters
    covariance: AbstractCovariance
    seen: Array
    width: int = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples classes"]:
        return in_batches(lambda rows: _probabilities(self, jnp.asarray(rows)), rows_of(inputs, self.width), 1000)


@eqx.filter_jit
def _probabilities(predictor: LinearisedPredictor, x: Array) -> Array:
    mean = predictor.network(predictor.parameters, x)
    variance = predictor.covariance.output_variance(predictor.network, predictor.parameters, x)
    logits = mean / jnp.sqrt(1 + np.pi / 8 * variance)
    return jax.nn.softmax(jnp.where(predictor.seen[None], logits, -jnp.inf), axis=1)


class Gaussian(NamedTuple):
    """Mean and precision of the posterior so far."""

    mean: Parameters
    precision: AbstractCurvature


class Laplace(AbstractSequential):
    r"""Minimises $-\log p(D_t\mid\theta) + \frac 1 2(\theta-\mu)^T\Lambda_{t-1}(\theta-\mu)$, then adds curvature.

    $\Lambda_t = \Lambda_{t-1} + H_t(\mu_t)$ with the Gauss-Newton matrix H; $\Lambda_0$ is the prior's precision.

    Args:
        num_classes: classes there will ever be; those without data have probability 0.
        training: network and optimiser.
        structure: "diagonal", or "kronecker" for dense layers.
        prior_precision: of every parameter, around 0.

    Raises:
        ArgumentError: the structure is unknown, or "kronecker" is asked of a network without dense layers.

    References:
        Ritter, Botev & Barber (2018), Online structured Laplace approximations for overcoming catastrophic forgetting.
    """

    structure: Structure = eqx.field(static=True, default="diagonal")
    prior_precision: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        positive("prior_precision", self.prior_precision)
        if self.structure not in get_args(Structure):
            raise ArgumentError(f"structure: expected one of {get_args(Structure)}, found {self.structure!r}.")
        if self.structure == "kronecker" and not isinstance(self.training.architecture, Dense):
            raise ArgumentError("structure: 'kronecker' needs dense layers; take 'diagonal' for other networks.")

    def fresh(self, key: Array, width: int, dtype: Any) -> tuple[Parameters, Gaussian]:
        parameters = self.training.architecture.initial(key, width, self.num_classes, dtype)
        prior = Kronecker.empty if self.structure == "kronecker" else Diagonal.prior
        zero = jax.tree.map(jnp.zeros_like, parameters)
        return parameters, Gaussian(zero, prior(parameters, self.prior_precision))

    def learnt(
        self, key: Array, parameters: Parameters, past: Gaussian, x: np.ndarray, y: np.ndarray
    ) -> tuple[Parameters, Gaussian, int, float]:
        penalty = penalty_of(past.precision, past.mean, 1 / len(x))
        state = self.with_optimiser(parameters, x.shape[1])
        state, steps, loss = trained(self.training, state, epochs_of(self.training, key, x, y), penalty)
        precision = with_task(past.precision, self.training.architecture, state.parameters, x)
        return state.parameters, Gaussian(state.parameters, precision), steps, loss

    def predictor(self, belief: SequentialBelief) -> LinearisedPredictor:
        if not belief.width:
            raise nothing_learnt()
        return LinearisedPredictor(
            self.training.architecture, belief.parameters, belief.past.precision.inverse(), belief.seen, belief.width
        )
