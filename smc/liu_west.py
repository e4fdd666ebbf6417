"""The filter of Liu & West: states and parameters online, the parameters moved by a kernel that shrinks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.language.distributions import standard_promotion
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.random import as_key
from probinf.transformations.algorithms import check_particles
from probinf.transformations.population import Resampling, log_mean_exp
from probinf.transformations.resampling import effective_sample_size, scheme
from probinf.transformations.stepping import emit_population
from smc.filtering import Settings, WeightedRows, check_alive, resample_rows, weigh
from smc.kalman import square_root
from smc.parameter_block import check_priors, constrain, unconstrain
from smc.state_space_model import StateSpaceModel

CLAIM = Claim.APPROXIMATE


class LiuWestRun(eqx.Module):
    """What the filter of Liu & West found; all of it approximate.

    Attributes:
        log_evidence: scalar, nats; not unbiased.
        log_increments: (T,), estimates of log p(y_t | y_0, ..., y_{t-1}).
        ess: (T,), effective sample sizes.
        mean: parameter to its posterior means given y_0, ..., y_t, (T, *shape).
        variance: the variances, (T, *shape).
        state_mean: (T, *state), filtering means of the state.
        parameters: the last population: parameter to (N, *shape).
        states: (N, *state).
        log_weights: (N,), unnormalised, nats.
        claim: `approximate`.
    """

    log_evidence: jax.Array
    log_increments: jax.Array
    ess: jax.Array
    mean: dict[str, jax.Array]
    variance: dict[str, jax.Array]
    state_mean: jax.Array
    parameters: dict[str, jax.Array]
    states: jax.Array
    log_weights: jax.Array
    claim: str = eqx.field(static=True, default=str(CLAIM))


class Augmented(NamedTuple):
    """A state together with its parameters: as a vector on unconstrained space, and as the model takes them."""

    state: Any
    vector: Any
    values: Any


@dataclasses.dataclass(frozen=True)
class _Settings:
    common: Settings
    shrink: float
    lookahead: bool


def learn_online(
    model: Callable[..., StateSpaceModel],
    priors: Mapping[str, dist.Distribution],
    ys: Any,
    key: Any = 0,
    *,
    num_particles: int = 1000,
    discount: float = 0.98,
    lookahead: bool = False,
    resample: str = "systematic",
    threshold: float = 1.0,
) -> LiuWestRun:
    r"""Filter states and unknown constants at once (Liu & West 2001). Claim: approximate.

    A parameter that never moves has few distinct values left after some resamplings. Here each particle's parameters
    are drawn, on unconstrained space, from $N(a \theta_i + (1 - a) \bar\theta, (1 - a^2) V)$ with
    $a = (3 \delta - 1) / (2 \delta)$ and the cloud's mean and covariance $\bar\theta$, V, both of which this keeps.
    It is an approximation for every number of particles: the posterior is smoothed once per step, its shape drifts
    towards the Gaussian, and the discount fixes how far. `smc.SMC2` is exact, at a cost that grows with time.

    Args:
        model: from the parameters, by name, to a `StateSpaceModel`: a class, or `functools.partial` of one.
        priors: parameter to its law, continuous.
        ys: observations, (T, *observation).
        key: key or integer seed.
        num_particles: N.
        discount: delta, above 1/3 and at most 1 (parameters do not move at all); 0.95 to 0.99 is usual.
        lookahead: choose ancestors by how well the mean of their next state explains the observation, as the paper
            does. That suits observations that are vague beside the state's noise. Where they are precise the guess is
            too narrow, above all for parameters that call for small observation noise: these then die out unless N is
            very large.
        resample: name of a resampling scheme.
        threshold: 1 resamples before every move, 0 never.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
        ModelError: a prior is discrete or a batch, `model` does not give a `StateSpaceModel`, or a law fails.
        InferenceError: all particles have weight zero, or a weight is NaN; the time is named.

    References:
        Liu & West (2001), Combined parameter and state estimation in simulation-based filtering, section 10.4.
    """
    check_particles(num_particles, threshold)
    scheme(resample)
    if not callable(model):
        raise ArgumentTypeError(f"model: expected a function from parameters to a model, found {type(model).__name__}.")
    if not 1 / 3 < discount <= 1:
        raise ArgumentError(f"discount: expected a number above 1/3 and at most 1, found {discount!r}.")
    priors = check_priors(priors)
    with standard_promotion():
        example = model(**{name: law.sample(jax.random.key(0)) for name, law in priors.items()})
    if not isinstance(example, StateSpaceModel):
        raise ModelError(f"model: expected a StateSpaceModel from its parameters, found {type(example).__name__}.")
    common = Settings(int(num_particles), Resampling(resample, float(threshold)), moments=True, history=False)
    settings = _Settings(common, (3 * float(discount) - 1) / (2 * float(discount)), bool(lookahead))
    name = type(example).__name__
    arguments = Arguments.split((model, priors, example.check_data(ys), settings), {})
    found, _ = Program(f"learn_online({name})", _filter, arguments).run(as_key(key, argument="key"))
    check_alive(found, name, "learn_online")
    return found


def shrunk(vectors: jax.Array, log_weights: jax.Array, shrink: float) -> tuple[jax.Array, jax.Array]:
    r"""Locations (N, p) and a factor (p, p) of the kernels, with $\sum_i w_i N(m_i, S S')$ of the cloud's moments.

    Args:
        vectors: the cloud, (N, p).
        log_weights: (N,), unnormalised, nats.
        shrink: a; locations are $a \theta_i + (1 - a) \bar\theta$, the factor is that of $(1 - a^2) V$.
    """
    weights = jax.nn.softmax(log_weights)
    mean = weights @ vectors
    gaps = vectors - mean[None]
    root = square_root((weights[:, None] * gaps).T @ gaps)
    return mean[None] + shrink * gaps, (1 - shrink**2) ** 0.5 * root


def _filter(model: Any, priors: dict, ys: jax.Array, settings: _Settings) -> LiuWestRun:
    common = settings.common
    num, dtype = common.num, jnp.result_type(float)
    zero = jnp.zeros(num, dtype)
    index = jnp.arange(num, dtype=jnp.int32)

    def at(values: Mapping[str, Any]) -> StateSpaceModel:
        with standard_promotion():
            return model(**values)

    def begin(_: jax.Array) -> Augmented:
        values = {name: bind_sample(Site(name), law)[0] for name, law in priors.items()}
        here = at(values)
        with standard_promotion():
            law = here.initial()
        (state,) = bind_sample(Site("x0"), law)
        bind_factor(Site("y0"), here.log_observation(jnp.asarray(0), state, ys[0]))
        return Augmented(state, unconstrain(priors, values), values)

    def guess(t: Any, y: jax.Array, state: jax.Array, vector: jax.Array) -> jax.Array:
        here = at(constrain(priors, vector))
        with standard_promotion():
            expected = jnp.asarray(here.transition(t, state).mean)
        return here.log_observation(t, expected, y)

    first, log_weights, _ = emit_population(begin, zero, zero)
    if settings.lookahead and not jnp.issubdtype(first.state.dtype, jnp.inexact):
        raise ModelError("lookahead: a discrete state has no mean to look ahead with; pass lookahead=False.")
    start, report = weigh(first, log_weights, index, common)

    def step(now: WeightedRows, row: tuple) -> tuple[WeightedRows, tuple]:
        t, y = row
        by, log_mean, ess = now.log_weights, now.log_mean, now.ess
        locations, factor = shrunk(now.x.vector, by, settings.shrink)
        ahead = jnp.zeros_like(by)
        if settings.lookahead:
            ahead = jax.vmap(lambda state, vector: guess(t, y, state, vector))(now.x.state, locations).astype(dtype)
            by = by + ahead
            log_mean, ess = log_mean_exp(by), effective_sample_size(by)
        rows, by, collected = resample_rows(common.rule, (now.x.state, locations, ahead), by, log_mean, ess)

        def move(row: tuple) -> Augmented:
            state, location, ahead = row
            (noise,) = bind_sample(Site("kernel"), dist.Normal(jnp.zeros_like(location), 1.0).to_event(1))
            vector = location + factor @ noise
            values = constrain(priors, vector)
            here = at(values)
            with standard_promotion():
                law = here.transition(t, state)
            (state,) = bind_sample(Site("x"), law)
            bind_factor(Site("y"), here.log_observation(t, state, y) - ahead)
            return Augmented(state, vector, values)

        moved, log_weights, _ = emit_population(move, rows, by)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, now.x)
        new, report = weigh(moved, log_weights, index, common)
        return new, (collected + new.log_mean - now.log_mean, report)

    last, (increments, later) = jax.lax.scan(step, start, (jnp.arange(1, ys.shape[0]), ys[1:]))
    increments, (ess, mean, variance, _) = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b]), (start.log_mean, report), (increments, later)
    )
    return LiuWestRun(
        jnp.sum(increments),
        increments,
        ess,
        mean.values,
        variance.values,
        mean.state,
        last.x.values,
        last.x.state,
        last.log_weights,
    )
