"""A normalising flow fitted to draws, by flowjax."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import positive
from continual.sequential_sampling.coordinates import AbstractCoordinates, standard_normal_log_prob
from continual.sequential_sampling.densities import AbstractEstimator, require_enough
from probinf.arguments import positive_integer
from probinf.errors import InferenceError
from probinf.representations.belief import AbstractBelief
from probinf.representations.mixture import GaussianMixture

_MOMENT_DRAWS = 4096  # mean and covariance of a flow have no closed form


class FlowBelief(AbstractBelief):
    """A flow on whitened weights: x = shift + scale z, with z from a flowjax distribution.

    Attributes:
        arrays: of the distribution of z.
        skeleton: the rest of it.
        shift: (weights,).
        scale: (weights, weights), lower triangular.
        key: of the draws that moments are taken from.
    """

    arrays: Any
    skeleton: Any = eqx.field(static=True)
    shift: Float[Array, " dim"]
    scale: Float[Array, "dim dim"]
    key: jax.Array

    @property
    def flow(self) -> Any:
        """The flowjax distribution of z."""
        return eqx.combine(self.arrays, self.skeleton)

    @property
    def mean(self) -> Float[Array, " dim"]:
        """Mean of 4096 draws."""
        return jnp.mean(self.sample(self.key, _MOMENT_DRAWS), axis=0)

    @property
    def cov(self) -> Float[Array, "dim dim"]:
        """Covariance of 4096 draws."""
        return jnp.cov(self.sample(self.key, _MOMENT_DRAWS), rowvar=False)

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Zero: a flow is normalised."""
        return jnp.zeros((), self.shift.dtype)

    def sample(self, key: jax.Array, n: int) -> Float[Array, "n dim"]:
        return self.shift[None] + self.flow.sample(key, (n,)) @ self.scale.T

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, " *batch"]:
        centred = (x - self.shift).reshape(-1, self.shift.size)
        z = jax.scipy.linalg.solve_triangular(self.scale, centred.T, lower=True).T
        return self.flow.log_prob(z).reshape(x.shape[:-1]) - jnp.sum(jnp.log(jnp.diagonal(self.scale)))

    def coordinates(self) -> FlowCoordinates:
        """Where this density is standard normal."""
        return FlowCoordinates(self)

    def as_mixture(self, k: int) -> GaussianMixture:
        """A mixture fitted to 4096 draws."""
        return GaussianMixture.from_samples(self.sample(self.key, _MOMENT_DRAWS), k=k, key=self.key)


class FlowCoordinates(AbstractCoordinates):
    """Weights as what a flow makes of standard normal z.

    References:
        Hoffman et al. (2019), NeuTra-lizing bad geometry in Hamiltonian Monte Carlo using neural transport.
    """

    belief: FlowBelief

    def weights(self, z: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.belief.shift + self.belief.scale @ self.belief.flow.bijection.transform(z)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return standard_normal_log_prob(z)

    def sample(self, key: jax.Array) -> Float[Array, " dim"]:
        return jax.random.normal(key, self.belief.shift.shape, self.belief.shift.dtype)


class FlowEstimator(AbstractEstimator):
    """An affine coupling flow (real NVP) on whitened draws, fitted by maximum likelihood with early stopping.

    Whitening leaves the flow only what a Gaussian cannot say. Needs flowjax: `pip install 'probinf[flows]'`.

    Args:
        layers: coupling layers, with a permutation in between.
        width: hidden units of each conditioner.
        learning_rate: of Adam.
        epochs: passes over the draws, at most.
        patience: epochs without a better held-out loss after which the fit stops.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using real NVP.
    """

    layers: int = eqx.field(static=True, default=4)
    width: int = eqx.field(static=True, default=100)
    learning_rate: float = eqx.field(static=True, default=1e-3)
    epochs: int = eqx.field(static=True, default=100)
    patience: int = eqx.field(static=True, default=5)

    def __check_init__(self) -> None:
        for name in ("layers", "width", "epochs", "patience"):
            positive_integer(name, getattr(self, name))
        positive("learning_rate", self.learning_rate)

    def fit(self, key: jax.Array, draws: Float[np.ndarray, "draws weights"]) -> FlowBelief:
        """The density that stands for the draws.

        Raises:
            DataError: too few draws for the number of weights.
            InferenceError: flowjax is not installed.
        """
        require_enough(self, draws)
        try:
            from flowjax.distributions import StandardNormal  # pyright: ignore[reportMissingImports]
            from flowjax.flows import coupling_flow  # pyright: ignore[reportMissingImports]
            from flowjax.train import fit_to_data  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InferenceError("FlowEstimator needs flowjax: pip install 'probinf[flows]'.") from error
        key_flow, key_fit, key_moments = jax.random.split(key, 3)
        gaussian = GaussianMixture.from_samples(jnp.asarray(draws))
        shift, scale = gaussian.means[0], gaussian.scale_tril[0]
        z = jax.scipy.linalg.solve_triangular(scale, (jnp.asarray(draws) - shift[None]).T, lower=True).T
        start: Any = coupling_flow(
            key_flow,
            base_dist=StandardNormal((draws.shape[1],)),
            flow_layers=self.layers,
            nn_width=self.width,
            nn_depth=2,
        )
        fitted, _ = fit_to_data(
            key_fit,
            start,
            z,
            learning_rate=self.learning_rate,
            max_epochs=self.epochs,
            max_patience=self.patience,
            show_progress=False,
        )
        return FlowBelief(*eqx.partition(fitted, eqx.is_array), shift, scale, key_moments)
