r"""A filter that corrects another one: a marginal particle filter whose proposal is the other filter's posterior.

With weighted particles before the event and points x_i from a proposal r,

$$v_i = \frac{p(z \mid x_i)\, \sum_j w_j\, p(x_i \mid x_j)}{r(x_i)}, \qquad
  r = \tfrac{1 - a}{2}\, q + \tfrac{1 - a}{2}\, g + a \sum_j w_j\, p(\cdot \mid x_j),$$

q the other filter's posterior mixture and g the motions tilted by what it learned (Klaas, de Freitas & Doucet 2005).
q serves where the motion is wide against the posterior, g where it is narrow. The mean weight is unbiased for the
predictive density, and products of them for the evidence, whatever q and g are; where the other filter is nearly right,
weights are nearly equal. No particle has an ancestor, so nothing is resampled.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.random import as_key
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from smc.particles import summed
from transformers_gmm.correction.guided import guide
from transformers_gmm.correction.proposals import (
    Proposal,
    check_share,
    fault_of,
    gaussian_motion,
    moments_on_circle,
    on_circle,
    sensor_log_probs,
)


class CorrectedState(eqx.Module):
    """Weighted points, and what the next ones are weighed by.

    Attributes:
        particles: (N, d).
        log_weights: (N,) nats; the weights have mean one.
        ess: effective sample size.
        key: for the next step.
        prediction: the density before the events of this instant: N Gaussian motions, one from each earlier point.
        is_fresh: whether no event has been weighed since `prediction` was made; the next one draws new points.
        base: the other filter's state.
        before: the other filter's belief before the events of this instant, as a mixture.
        posterior: its belief now.
        angles: indices of the entries that are angles.
    """

    particles: Float[Array, "particles dim"]
    log_weights: Float[Array, " particles"]
    ess: Float[Array, ""]
    key: Array
    prediction: GaussianMixture
    is_fresh: Bool[Array, ""]
    base: Any
    before: GaussianMixture
    posterior: GaussianMixture
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class CorrectedFilter(AbstractFilterMethod):
    """Another filtering method, made exact in the limit of many points and unbiased for any number.

    Needs motions that are Gaussian given the state (any mean, any regular covariance). A Gaussian or mixture prior is
    proposed for like everything else; of other priors the first event weighs plain draws. Events of one instant are
    weighed one after the other, at the points that the first of them proposed.

    O(N^2) an event. Points carry no memory of how they came about, so where the other filter is good, few are enough.

    Args:
        base: any filtering method that offers `as_mixture`: `smc.GaussianSum()`, `smc.UKF()`, a network.
        num_particles: N.
        num_components: of the mixture that proposes, at most.
        share: a, share of points drawn from the prediction. It bounds the weights and so guards against a bad base.

    Raises:
        ArgumentTypeError, ArgumentError: a setting of the wrong kind or value.

    References:
        Klaas, de Freitas & Doucet (2005), Toward practical N^2 Monte Carlo: the marginal particle filter, UAI.

    Example:
        `system.filter(CorrectedFilter(smc.GaussianSum(smc.UKF()), 256)).run(log, key=0).log_evidence`
    """

    base: AbstractFilterMethod
    num_particles: int = eqx.field(static=True)
    num_components: int = eqx.field(static=True)
    share: float = eqx.field(static=True)

    def __init__(self, base: Any, num_particles: int = 256, *, num_components: int = 8, share: float = 0.1) -> None:
        if not isinstance(base, AbstractFilterMethod):
            raise ArgumentTypeError(f"base: expected a filtering method, found {type(base).__name__}.")
        self.base = base
        self.num_particles = positive_integer("num_particles", num_particles)
        if self.num_particles < 4:
            raise ArgumentError(f"num_particles: expected at least 4, found {num_particles}.")
        self.num_components = positive_integer("num_components", num_components)
        self.share = check_share(share)

    def init(self, key: jax.Array, system: System) -> CorrectedState:
        key, key_points, key_base = jax.random.split(as_key(key, argument="key"), 3)
        particles = system.sample_prior(key_points, self.num_particles)
        if not system.needs_control:
            _check_motion(system, particles[0])
        base = self.base.init(key_base, system)
        belief = self.base.as_mixture(base, self.num_components)
        prior = _as_mixture(system.prior, system.dtype)
        known = prior is not None and prior.num_components <= self.num_particles
        return CorrectedState(
            particles,
            jnp.zeros(self.num_particles, system.dtype),
            jnp.asarray(self.num_particles, system.dtype),
            key,
            _padded(prior, self.num_particles) if prior is not None and known else _nowhere(particles),
            jnp.asarray(known),
            base,
            belief,
            belief,
            system.angles,
        )

    def predict(self, state: CorrectedState, system: System, dt: Array, control: Array | None) -> CorrectedState:
        key, key_noise = jax.random.split(state.key)
        means, factors = jax.vmap(lambda x: gaussian_motion(system.move_distribution(x, dt, control), system.name))(
            state.particles
        )
        noise = jax.random.normal(key_noise, means.shape, means.dtype)
        moved = system.wrap_angles(means + jnp.einsum("nij,nj->ni", factors, noise))
        prediction = eqx.tree_at(
            lambda m: (m.log_weights, m.means, m.scale_tril),
            state.prediction,
            (jax.nn.log_softmax(state.log_weights), means.astype(system.dtype), factors.astype(system.dtype)),
        )
        base = self.base.predict(state.base, system, dt, control)
        belief = self.base.as_mixture(base, self.num_components)
        return CorrectedState(
            moved.astype(system.dtype),
            state.log_weights,
            state.ess,
            key,
            prediction,
            jnp.asarray(True),
            base,
            belief,
            belief,
            state.angles,
        )

    def update(
        self, state: CorrectedState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[CorrectedState, UpdateInfo]:
        key, key_points = jax.random.split(state.key)
        base, base_info = self.base.update(state.base, system, sensor, value, observed, inputs)
        # A base that has failed proposes what it believed before.
        sound = base_info.fault == 0
        base = jax.tree.map(lambda new, old: jax.lax.select(sound, new, old), base, state.base)
        posterior = self.base.as_mixture(base, self.num_components)
        proposal = proposal_of(state.prediction, state.before, posterior, self.share, state.angles)
        x, log_ratio = proposal.draw(key_points, self.num_particles)
        anew = state.is_fresh & jnp.any(observed)
        x = jnp.where(anew, x, state.particles)
        before = jnp.where(anew, log_ratio, state.log_weights)
        log_weights = before + sensor_log_probs(system, sensor, x, value, observed, inputs)
        increment, ess = summed(log_weights)
        # What is missing altogether changes nothing, to the bit.
        seen = jnp.any(observed)
        increment = jnp.where(seen, increment, 0)
        info = UpdateInfo.create(increment, observed, ess=jnp.where(seen, ess, state.ess), fault=fault_of(increment))
        new = CorrectedState(
            x,
            jnp.where(seen, log_weights - increment, state.log_weights),
            info.ess,
            key,
            state.prediction,
            state.is_fresh & ~seen,
            base,
            state.before,
            posterior,
            state.angles,
        )
        return new, info

    def mean(self, state: CorrectedState) -> Array:
        return moments_on_circle(state.particles, state.log_weights, state.angles)[0]

    def cov(self, state: CorrectedState) -> Array:
        return moments_on_circle(state.particles, state.log_weights, state.angles)[1]

    def sample(self, state: CorrectedState, key: jax.Array, n: int) -> Array:
        return state.particles[jax.random.categorical(key, state.log_weights, shape=(n,))]

    def log_prob(self, state: CorrectedState, x: Array) -> Array:
        """Log density of the base's mixture, refined by the points; `filtering_log_prob` estimates the exact one."""
        return on_circle(self._fitted(state).log_prob, x, state.angles)

    def as_mixture(self, state: CorrectedState, k: int) -> GaussianMixture:
        return self._fitted(state).reduce(k)

    def _fitted(self, state: CorrectedState) -> GaussianMixture:
        return state.posterior.refine(state.particles, state.log_weights)

    def claim(self, system: System) -> str:
        return "unbiased"

    def reason(self, system: System) -> str:
        return f"evidence unbiased, means consistent in num_particles, whatever {type(self.base).__name__} says"

    def check(self, state: CorrectedState) -> Array:
        regular = jnp.all(jnp.diagonal(state.prediction.scale_tril, axis1=1, axis2=2) > 0)
        sound = jnp.all(jnp.isfinite(state.particles)) & regular
        return jnp.where(sound, 0, int(Fault.PREDICTION)).astype(jnp.int32)


def proposal_of(
    prediction: GaussianMixture,
    before: GaussianMixture,
    posterior: GaussianMixture,
    share: float,
    angles: tuple[int, ...],
) -> Proposal:
    """Half of the points from the base's posterior, half from guided motions, a share from the prediction itself."""
    parts = (posterior, guide(prediction, before, posterior), prediction)
    return Proposal(parts, (0.5 - 0.5 * share, 0.5 - 0.5 * share, share), angles)


def _check_motion(system: System, x: Array) -> None:
    """Refuse motions without a density before anything runs."""
    second = jnp.ones((), system.dtype)
    # Compiled, because NumPyro refuses a singular factor that it can look at, in words of its own.
    factor = jax.jit(lambda x: gaussian_motion(system.move_distribution(x, second, None), system.name)[1])(x)
    if is_concrete(factor) and not np.all(np.diagonal(np.asarray(factor)) > 0):
        raise ModelError(
            f"move of {system.name!r}: its covariance is singular, so the motion has no density to weigh points by. "
            "Use RefittedFilter, whose predictions are mixtures."
        )


def _as_mixture(prior: Any, dtype: Any) -> GaussianMixture | None:
    """A Gaussian or mixture prior as a mixture; None for others."""
    if isinstance(prior, dist.Distribution):
        try:
            mean, factor = gaussian_motion(prior, "the prior")
        except ModelError:
            return None
        prior = GaussianMixture(jnp.ones(1, dtype), mean[None], scale_tril=factor[None])
    if not isinstance(prior, GaussianMixture):
        return None
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), prior)


def _padded(mixture: GaussianMixture, n: int) -> GaussianMixture:
    """With empty components, so that there are `n`."""
    missing = n - mixture.num_components
    return GaussianMixture(
        jnp.pad(mixture.weights, (0, missing)),
        jnp.pad(mixture.means, ((0, missing), (0, 0)), mode="edge"),
        scale_tril=jnp.pad(mixture.scale_tril, ((0, missing), (0, 0), (0, 0)), mode="edge"),
    )


def _nowhere(particles: Array) -> GaussianMixture:
    """A stand-in of the right shape for a density that is not known; it is never drawn from or looked at."""
    n, dim = particles.shape
    eye = jnp.broadcast_to(jnp.eye(dim, dtype=particles.dtype), (n, dim, dim))
    return GaussianMixture(jnp.full(n, 1 / n, particles.dtype), particles, scale_tril=eye)
