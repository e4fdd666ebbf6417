"""A Gaussian process with an unknown length-scale: the value at a query point and the length-scale, jointly."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from smc.small_normal import cholesky
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.meta_priors import InverseGamma
from transformers_gmm.tasks.static import AbstractStaticTask, Draws

NUM_ROWS, NUM_INPUTS = 5, 5
NOISE = 0.001  # variance, on the value at the query point only

_SPACING, _WIDTH = 0.7, 0.6  # of the pieces of the prior of log l, in its standard deviations
_NUM_SCALES, _NUM_VALUES = 16, 4  # points for training: length-scales, and values for each


class Hyperprior(eqx.Module):
    r"""A batch of priors: $\ell \sim IG(\alpha, \beta)$ and $y \sim N(\text{mean}, \text{variance})$, independent.

    Attributes:
        length_scale: of $\ell$.
        mean, variance: of the value at the query point; `mean` is the process's constant mean, too. Shape (n,).
    """

    length_scale: InverseGamma
    mean: Float[Array, " batch"]
    variance: Float[Array, " batch"]


class Regression(eqx.Module):
    """A batch of data sets with a query: inputs (n, 5, 5), outputs (n, 5), query (n, 5)."""

    inputs: Float[Array, "batch rows inputs"]
    outputs: Float[Array, "batch rows"]
    query: Float[Array, "batch inputs"]


class Conditional(eqx.Module):
    """What is known at given length-scales: log p(outputs), mean and variance of y; all of shape (n, G)."""

    log_evidence: Float[Array, "batch scales"]
    mean: Float[Array, "batch scales"]
    variance: Float[Array, "batch scales"]


class GaussianProcess(AbstractStaticTask):
    r"""Latents $(y, \log \ell)$ given five rows of a Gaussian process with kernel $\exp(-r^2 / 2 \ell^2)$ in 5-D.

    The prior of $\log \ell$ is cut into ten overlapping pieces. The base has the exact conditional of y at each
    centre, its slope in $\log \ell$ for the correlation, and weights by evidence; the network corrects the rest.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.2.1 and appendix G, with output scale 1.
    """

    name: str = eqx.field(static=True, default="gaussian_process")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=2, num_components=10, context={"rows": 7, "prior": 2}, width=32, heads=4, layers=2, feedforward=128,
            by_rank=False,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=4_000, batch=512, learning_rate=1e-3, seed=1)
    )

    def draw(self, key: jax.Array, n: int) -> Draws:
        keys = jr.split(key, 8)
        concentration = jr.uniform(keys[0], (n,), minval=100.0, maxval=105.0)
        rate = jr.uniform(keys[1], (n,), minval=100.0, maxval=700.0)
        narrow = 1e-5 * (jr.uniform(keys[2], (2, n)) - 0.5)
        prior = Hyperprior(InverseGamma(concentration, rate), narrow[0], 1 + narrow[1])
        log_scale = prior.length_scale.sample_log(keys[3])
        value = prior.mean + jnp.sqrt(prior.variance) * jr.normal(keys[4], (n,))
        inputs = jr.uniform(keys[5], (n, NUM_ROWS, NUM_INPUTS), maxval=5.0)
        query = jr.uniform(keys[6], (n, NUM_INPUTS), maxval=5.0)
        kernel = _kernel(inputs, query, log_scale[:, None])[:, 0]
        cross = kernel[:, :-1, -1]
        mean = prior.mean[:, None] + cross * ((value - prior.mean) / (1 + NOISE))[:, None]
        factor = cholesky(kernel[:, :-1, :-1] - cross[:, :, None] * cross[:, None] / (1 + NOISE))
        outputs = mean + jnp.einsum("nij,nj->ni", factor, jr.normal(keys[7], mean.shape))
        return Draws(prior, jnp.stack([value, log_scale], axis=-1), Regression(inputs, outputs, query))

    def conditional(self, prior: Hyperprior, data: Regression, log_scale: Float[Array, "batch scales"]) -> Conditional:
        """Evidence and conditional of y at `log_scale` (n, G), exactly: one Cholesky factor of outputs and y each."""
        kernel = _kernel(data.inputs, data.query, log_scale)
        cross, variance = kernel[..., :-1, -1], prior.variance[:, None]
        slope = variance / (1 + NOISE)  # of E[outputs | y] by y, times the variance of y
        shrink = (slope / (1 + NOISE) - 1 / (1 + NOISE))[..., None, None]
        outputs = kernel[..., :-1, :-1] + shrink * cross[..., :, None] * cross[..., None, :]
        column = (slope[..., None] * cross)[..., None]
        corner = jnp.broadcast_to(variance, log_scale.shape)[..., None, None]
        joint = jnp.concatenate(
            [jnp.concatenate([outputs, column], -1), jnp.concatenate([jnp.swapaxes(column, -1, -2), corner], -1)], -2
        )
        factor = cholesky(joint)
        gaps, white = data.outputs - prior.mean[:, None], []
        for i in range(NUM_ROWS):
            rest = gaps[:, None, i] - sum((factor[..., i, j] * white[j] for j in range(i)), jnp.zeros_like(log_scale))
            white.append(rest / factor[..., i, i])
        white = jnp.stack(white, axis=-1)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)[..., :-1]), axis=-1)
        return Conditional(
            -0.5 * jnp.sum(white**2, axis=-1) - log_det - 0.5 * NUM_ROWS * math.log(2 * math.pi),
            prior.mean[:, None] + jnp.sum(factor[..., -1, :-1] * white, axis=-1),
            factor[..., -1, -1] ** 2,
        )

    def problem(self, prior: Hyperprior, data: Regression) -> Problem:
        base = self._base(prior, data)
        log_scale = prior.length_scale.log_moments()[0]
        gaps = (data.inputs - data.query[:, None]) * jnp.exp(-log_scale)[:, None, None]
        distances = jnp.sqrt(jnp.sum(gaps**2, axis=-1, keepdims=True))
        outputs = (data.outputs - prior.mean[:, None]) / jnp.sqrt(prior.variance)[:, None]
        context = {
            "rows": jnp.concatenate([gaps, distances, outputs[..., None]], axis=-1),
            "prior": jnp.stack([log_scale, jnp.log(prior.length_scale.concentration / 100)], axis=-1)[:, None],
        }
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.zeros((*base.log_weights.shape, 0), log_scale.dtype),
            context,
            {name: jnp.ones(rows.shape[:2], bool) for name, rows in context.items()},
        )

    def posterior_points(self, key: jax.Array, prior: Hyperprior, data: Regression) -> tuple[Array, Array]:
        """Length-scales on an even grid, shifted at random; for each, values at quantiles with a random shift."""
        key_scales, key_values = jr.split(key)
        mean, sd = prior.length_scale.log_moments()
        n, kind = mean.shape[0], mean.dtype
        shift = jr.uniform(key_scales, (n, 1), kind)
        steps = (jnp.arange(_NUM_SCALES, dtype=kind)[None] + shift) / _NUM_SCALES
        log_scale = mean[:, None] + sd[:, None] * (10 * steps - 5)
        given = self.conditional(prior, data, log_scale)
        log_weights = jax.nn.log_softmax(prior.length_scale.log_density(log_scale) + given.log_evidence, axis=-1)
        strata = jnp.arange(_NUM_VALUES, dtype=kind)[None, None]
        shares = (strata + jr.uniform(key_values, (n, _NUM_SCALES, 1), kind, 1e-4, 1 - 1e-4)) / _NUM_VALUES
        values = given.mean[..., None] + jnp.sqrt(given.variance)[..., None] * jax.scipy.special.ndtri(shares)
        points = jnp.stack([values, jnp.broadcast_to(log_scale[..., None], values.shape)], axis=-1)
        each = jnp.broadcast_to(log_weights[..., None] - math.log(_NUM_VALUES), values.shape)
        return points.reshape(n, -1, 2), each.reshape(n, -1)

    def log_posterior(self, prior: Hyperprior, data: Regression, points: Float[Array, "batch points two"]) -> Array:
        value, log_scale = points[..., 0], points[..., 1]
        given = self.conditional(prior, data, log_scale)
        return self._log_scale_density(prior, data, log_scale) + _normal(value, given.mean, given.variance)

    def log_marginals(
        self, prior: Hyperprior, data: Regression, points: Float[Array, "batch points two"]
    ) -> tuple[Array, Array]:
        r"""Exact marginal log densities of y and of $\log \ell$, nats, each (n, M)."""
        grid, log_weights = self._grid(prior, data)
        given = self.conditional(prior, data, grid)
        each = _normal(points[..., 0, None], given.mean[:, None], given.variance[:, None])
        of_value = jax.nn.logsumexp(jax.nn.log_softmax(log_weights, axis=-1)[:, None] + each, axis=-1)
        return of_value, self._log_scale_density(prior, data, points[..., 1])

    def parameters(self, prior: Hyperprior) -> dict[str, Array]:
        hyper = prior.length_scale
        return {
            "value": jnp.stack([prior.mean, jnp.log(prior.variance)], axis=-1),
            "length_scale": jnp.log(jnp.stack([hyper.concentration, hyper.rate], axis=-1)),
        }

    def sources(self, data: Regression) -> dict[str, Array]:
        rows = jnp.concatenate([data.inputs, data.outputs[..., None]], axis=-1)
        return {"rows": rows, "query": data.query[:, None]}

    def _grid(self, prior: Hyperprior, data: Regression) -> tuple[Array, Array]:
        r"""Nodes of $\log \ell$ and their unnormalised log weights, (n, 96) each."""
        mean, sd = prior.length_scale.log_moments()
        grid = mean[:, None] + sd[:, None] * jnp.linspace(-7.0, 7.0, 96, dtype=mean.dtype)[None]
        return grid, prior.length_scale.log_density(grid) + self.conditional(prior, data, grid).log_evidence

    def _log_scale_density(self, prior: Hyperprior, data: Regression, log_scale: Float[Array, "batch points"]) -> Array:
        grid, log_weights = self._grid(prior, data)
        log_sum = jax.nn.logsumexp(log_weights, axis=-1) + jnp.log(grid[:, 1] - grid[:, 0])
        evidence = self.conditional(prior, data, log_scale).log_evidence
        return prior.length_scale.log_density(log_scale) + evidence - log_sum[:, None]

    def _base(self, prior: Hyperprior, data: Regression) -> Components:
        """Gaussian pieces that add up to one, times prior and evidence expanded to second order in each."""
        mean, sd = prior.length_scale.log_moments()
        k = self.config.num_components
        centres = _SPACING * (jnp.arange(k, dtype=mean.dtype) - 0.5 * (k - 1))[None]
        log_scale = mean[:, None] + sd[:, None] * centres
        given = self.conditional(prior, data, log_scale)
        height = prior.length_scale.log_density(log_scale) + given.log_evidence
        slope, bend = _derivative(height), _second_derivative(height)
        precision = jnp.maximum(1 / _WIDTH**2 - bend, 0.5 / _WIDTH**2)
        move = slope / precision
        gain = _derivative(given.mean)  # of the mean of y, by log l in standard deviations
        own = given.variance * jnp.exp(_derivative(jnp.log(given.variance)) * move)
        value_sd = jnp.sqrt(own + gain**2 / precision)
        below = sd[:, None] * gain / precision / value_sd
        corner = sd[:, None] * jnp.sqrt(own / precision) / value_sd
        rows = [jnp.stack([value_sd, jnp.zeros_like(below)], -1), jnp.stack([below, corner], -1)]
        return Components(
            jax.nn.log_softmax(height + 0.5 * slope * move - 0.5 * jnp.log(precision), axis=-1),
            jnp.stack([given.mean + gain * move, log_scale + sd[:, None] * move], axis=-1),
            jnp.stack(rows, axis=-2),
        )


def _kernel(
    inputs: Float[Array, "batch rows inputs"],
    query: Float[Array, "batch inputs"],
    log_scale: Float[Array, "batch scales"],
) -> Float[Array, "batch scales all all"]:
    """Kernel matrices of the five inputs and the query, in this order."""
    points = jnp.concatenate([inputs, query[:, None]], axis=1)
    squares = jnp.sum((points[:, :, None] - points[:, None]) ** 2, axis=-1)
    return jnp.exp(-0.5 * squares[:, None] * jnp.exp(-2 * log_scale)[..., None, None])


def _normal(x: Array, mean: Array, variance: Array) -> Array:
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))


def _derivative(values: Float[Array, "batch comps"]) -> Float[Array, "batch comps"]:
    """By the position in standard deviations, from neighbouring pieces."""
    return jnp.asarray(jnp.gradient(values, axis=-1)) / _SPACING


def _second_derivative(values: Float[Array, "batch comps"]) -> Float[Array, "batch comps"]:
    inner = (values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]) / _SPACING**2
    return jnp.concatenate([inner[:, :1], inner, inner[:, -1:]], axis=-1)
