"""Smoothing by a second filter that runs from the last observation to the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.claims import Claim
from probinf.errors import ArgumentTypeError, ModelError
from probinf.language.distributions import draw, log_density, standard_promotion
from probinf.transformations.resampling import effective_sample_size, systematic_ancestors
from smc.filtering import History
from smc.gaussian_approximation import moments
from smc.kalman import symmetric
from smc.small_normal import SmallNormal
from smc.smoothing.backward_weights import over_blocks
from smc.smoothing.method import Draws, SmoothingMethod
from smc.state_space_model import StateSpaceModel

# The artificial prior must have heavier tails than what it is fitted to, or weights blow up where it is thin.
_INFLATION = 2.0


class TwoFilter(SmoothingMethod):
    r"""Two-filter smoothing (Briers, Doucet & Maskell 2010). O(T N^2).

    The information filter targets $\gamma_t(x_t)\, p(y_{t:T} \mid x_t)$ for an artificial prior $\gamma_t$, which makes
    it a density in $x_t$; its particles are then weighted by the predictive density of the forward filter,
    $\sum_n W_{t-1}^n\, p(x_t \mid x_{t-1}^n) / \gamma_t(x_t)$. Its states are new ones, chosen with the later
    observations in view: useful where the forward filter has few particles in the right place. Claim: consistent.

    Args:
        prior: (model, t) to the distribution $\gamma_t$. By default the Gaussian with the mean of the filtering
            distribution and twice its covariance.
        proposal: (model, t, x_{t+1}) to the distribution that x_t is drawn from. By default the Gaussian conditional of
            x_t given x_{t+1} under the prior and the transition linearised at the prior's mean.
    """

    claim: ClassVar[Claim] = Claim.CONSISTENT
    prior: Callable[..., Any] | None = eqx.field(static=True)
    proposal: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(self, prior: Callable[..., Any] | None = None, *, proposal: Callable[..., Any] | None = None) -> None:
        for name, function in (("prior", prior), ("proposal", proposal)):
            if not (function is None or callable(function)):
                raise ArgumentTypeError(f"{name}: expected a function, found {type(function).__name__}.")
        self.prior, self.proposal = prior, proposal

    def check(self, model: StateSpaceModel) -> None:
        state = jax.eval_shape(lambda: draw(model.initial(), jax.random.key(0)))
        if not jnp.issubdtype(state.dtype, jnp.floating) and (self.prior is None or self.proposal is None):
            raise ModelError(
                f"TwoFilter: the states of {type(model).__name__} are {state.dtype}, to which no Gaussian can be "
                "fitted; give both prior and proposal, or use smc.BackwardSampling."
            )

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape
        dtype = history.log_weights.dtype
        priors = self._priors(model, history)
        last = steps - 1
        k_last, k_rest = jax.random.split(key)

        def start(key: Array) -> tuple[Array, Array]:
            x = draw(priors(last), key)
            return x, model.log_observation(last, x, ys[last]).astype(dtype)

        x, log_weights = jax.vmap(start)(jax.random.split(k_last, num))
        x = x.astype(history.particles.dtype)

        def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            after, log_weights = carry
            t, y, key = row
            k_resample, k_move = jax.random.split(key)
            poor = effective_sample_size(log_weights) <= 0.5 * num
            ancestors = systematic_ancestors(jax.random.uniform(k_resample, (), dtype), log_weights, num)
            after = jnp.where(jnp.reshape(poor, (1,) * after.ndim), after[ancestors], after)
            log_weights = jnp.where(poor, jnp.zeros((), dtype), log_weights - jnp.max(log_weights))

            def move(x_after: Array, key: Array) -> tuple[Array, Array]:
                law = self._proposal(model, priors, t, x_after)
                x = draw(law, key).astype(x_after.dtype)
                score = log_density(priors(t), x) + model.log_transition(t + 1, x, x_after)
                score = score + model.log_observation(t, x, y)
                return x, (score - log_density(priors(t + 1), x_after) - log_density(law, x)).astype(dtype)

            x, score = jax.vmap(move)(after, jax.random.split(k_move, num))
            new = (x, log_weights + score)
            return new, new

        rows = (jnp.arange(last), ys[:-1], jax.random.split(k_rest, last))
        _, (earlier, weights) = jax.lax.scan(step, (x, log_weights), rows, reverse=True)
        particles = jnp.concatenate([earlier, x[None]])
        log_weights = jnp.concatenate([weights, log_weights[None]])

        def combine(t: Array, x: Array, log_weights: Array, before: Array, log_weights_before: Array) -> Array:
            def predict(weights: Array, peak: Array, _: None) -> Array:
                return peak + jnp.log(jnp.sum(weights, axis=1))

            ahead = over_blocks(model, t, before, log_weights_before, x, None, predict)
            return log_weights + ahead - jax.vmap(lambda v: log_density(priors(t), v))(x).astype(dtype)

        first = jax.vmap(lambda v: log_density(_law(model.initial), v) - log_density(priors(0), v))(particles[0])
        rows = (jnp.arange(1, steps), particles[1:], log_weights[1:], history.particles[:-1], history.log_weights[:-1])
        _, later = jax.lax.scan(lambda _, row: (None, combine(*row)), None, rows)
        smoothed = jnp.concatenate([(log_weights[0] + first.astype(dtype))[None], later])
        top = jnp.max(smoothed, axis=1)
        return Draws(particles, smoothed, None, False, None, jnp.isfinite(top[1:]) & jnp.isfinite(top[:-1]))

    def _priors(self, model: StateSpaceModel, history: History) -> Callable[[Any], dist.Distribution]:
        if self.prior is not None:
            given = self.prior
            return lambda t: _checked("prior", _law(given, model, t))
        steps, num = history.log_weights.shape
        shape = history.particles.shape[2:]
        flat = history.particles.reshape(steps, num, -1)
        weights = jax.nn.softmax(history.log_weights, axis=1)
        mean = jnp.einsum("tn,tnd->td", weights, flat)
        gaps = flat - mean[:, None, :]
        cov = jnp.einsum("tn,tni,tnj->tij", weights, gaps, gaps)
        scale = jnp.trace(cov, axis1=1, axis2=2)[:, None, None] / cov.shape[1]
        floor = 1e-6 * jnp.maximum(scale, jnp.finfo(cov.dtype).tiny ** 0.5)  # a collapsed cloud still has a factor
        factor = jnp.linalg.cholesky(_INFLATION * (cov + floor * jnp.eye(cov.shape[1], dtype=cov.dtype)[None]))
        if shape == ():
            return lambda t: dist.Normal(mean[t, 0], factor[t, 0, 0])
        return lambda t: _shaped(SmallNormal(mean[t], factor[t]), shape)

    def _proposal(self, model: StateSpaceModel, priors: Callable, t: Any, x_after: Array) -> dist.Distribution:
        if self.proposal is not None:
            return _checked("proposal", _law(self.proposal, model, t, x_after))
        shape = x_after.shape
        mean, cov = moments(priors(t), "nominal")

        def ahead(x: Array) -> tuple[Array, Array]:
            return moments(_law(model.transition, t + 1, jnp.reshape(x, shape)), "nominal")

        predicted, noise = ahead(mean)
        slope = jax.jacfwd(lambda x: ahead(x)[0])(mean)
        cross = slope @ cov
        gain = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(symmetric(cross @ slope.T + noise)), True), cross).T
        centre = mean + gain @ (jnp.reshape(x_after, (-1,)) - predicted)
        keep = jnp.eye(mean.shape[0], dtype=cov.dtype) - gain @ slope
        factor = jnp.linalg.cholesky(symmetric(keep @ cov @ keep.T + gain @ noise @ gain.T))
        if shape == ():
            return dist.Normal(centre[0], factor[0, 0])
        return _shaped(SmallNormal(centre, factor), shape)


def _shaped(law: dist.Distribution, shape: tuple[int, ...]) -> Any:
    if len(shape) == 1:
        return law
    return dist.TransformedDistribution(law, dist.transforms.ReshapeTransform(shape, (law.event_shape[0],)))


def _law(function: Callable[..., Any], *args: Any) -> Any:
    with standard_promotion():
        return function(*args)


def _checked(name: str, law: Any) -> dist.Distribution:
    if not isinstance(law, dist.Distribution):
        raise ModelError(f"TwoFilter.{name}: expected a distribution, found {type(law).__name__}.")
    return law
