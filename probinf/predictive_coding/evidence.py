"""Log evidence of a model of behaviour, subject by subject: one tempered population for each, all in one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import InferenceError
from probinf.predictive_coding.coordinates import Coordinates, check_priors
from probinf.predictive_coding.fitting import check_addresses, prepared, subject_log_likelihood
from probinf.predictive_coding.responses import AbstractResponse
from probinf.random import as_key
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import systematic_ancestors
from probinf.transformations.tempering import next_inverse_temperature

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

_SHARE = 0.5  # of the living particles, to which the effective sample size may fall between two temperatures
_MOST_TEMPERATURES = 200
_ACCEPTANCE = 0.3  # near the best rates of random walks in one to five dimensions (Roberts, Gelman & Gilks 1997)


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectModel:
    """How one subject learns and responds, with unknown numbers.

    Attributes:
        network: the perceptual model.
        response: the response model; None takes the likelihood of the data themselves.
        priors: address to a continuous distribution of one number, as in `subject_program`.
    """

    network: Network
    response: AbstractResponse | None
    priors: Mapping[str, dist.Distribution]


@dataclasses.dataclass(frozen=True)
class SubjectEvidence:
    """What tempering found for S subjects, in R independent runs of N particles.

    Attributes:
        log_evidence: nats, (S,): log of the mean over the runs.
        standard_error: of `log_evidence`, nats, (S,), from the spread of the runs; NaN for one run.
        draws: address to particles of the posterior, (R, N, S), equally weighted within a run.
        autocorrelation: (S,): the largest correlation of a coordinate before and after the moves of a temperature.
            Near 1 the particles hardly moved: raise `num_moves`.
        num_temperatures: (R,), of the subject that needed most.
    """

    log_evidence: np.ndarray
    standard_error: np.ndarray
    draws: dict[str, np.ndarray]
    autocorrelation: np.ndarray
    num_temperatures: np.ndarray


def subject_evidence(
    model: SubjectModel,
    data: Any,
    responses: Any = None,
    *,
    missing: str | None = None,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
    num_particles: int = 512,
    num_moves: int = 12,
    num_runs: int = 2,
    seed: int | jax.Array = 0,
) -> SubjectEvidence:
    r"""Log evidence $\log \int p(\theta)\, p(\text{responses} \mid \theta)\, d\theta$ of every subject at once.

    Adaptive tempering from the prior to the posterior with random-walk moves in the particles' covariance: the
    algorithm of `smc.TemperedSMC(moves="rwm")`, which takes one subject's `subject_program`, with subjects as a batch
    axis of the network's scan. Every subject has temperatures of its own. Consistent in the number of particles.

    Args:
        model: network, response model and priors.
        data: as in `subject_program`: (T,), or (T, S) for S subjects.
        responses: likewise.
        missing: as in `subject_program`.
        time_steps: as in `Network.filter`.
        observed: as in `Network.filter`.
        num_particles: N.
        num_moves: random-walk steps at each temperature.
        num_runs: R.
        seed: an integer or a key.

    Raises:
        ArgumentError: a prior that is not of one continuous number, and as `subject_program`.
        InferenceError: a subject whose responses have probability zero at every draw from the prior.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers.
    """
    check_addresses(model.network, model.response, model.priors)
    check_priors(model.priors)
    given, rows, subjects = prepared(
        model.network, model.response, model.priors, data, responses, missing, time_steps, observed
    )
    sizes = positive_integer("num_particles", num_particles), positive_integer("num_moves", num_moves)
    keys = jax.random.split(as_key(seed), positive_integer("num_runs", num_runs))
    operands = jax.tree.map(lambda x: jnp.asarray(x, given.dtype), (model.network, model.response))
    found = _tempered(sizes, subjects or 1, dict(model.priors), (*operands, given, rows), keys)
    done = np.asarray(found.inverse_temperature) >= 1.0
    if not (done.all() and np.isfinite(found.log_evidence).all()):
        subject = int(np.argwhere(~(done & np.isfinite(found.log_evidence)))[0][-1])
        raise InferenceError(
            f"subject_evidence: tempering of subject {subject} did not reach the posterior: its likelihood is zero or "
            "not finite at nearly all draws from the prior. Raise num_particles, or take priors nearer to the data."
        )
    log_z = np.asarray(found.log_evidence, np.float64)
    spread = np.std(log_z, axis=0, ddof=1) / np.sqrt(len(keys)) if len(keys) > 1 else np.full(log_z.shape[1], np.nan)
    return SubjectEvidence(
        np.logaddexp.reduce(log_z, axis=0) - np.log(len(keys)),
        spread,
        {address: np.asarray(values) for address, values in found.draws.items()},
        np.asarray(found.autocorrelation).max(axis=0),
        np.asarray(found.num_temperatures),
    )


class _Found(NamedTuple):
    draws: dict[str, Array]
    log_evidence: Array
    inverse_temperature: Array
    autocorrelation: Array
    num_temperatures: Array


class _State(NamedTuple):
    """Populations of all subjects between two temperatures: particles (N, S, d), densities (N, S), others (S,)."""

    x: Array
    log_prior: Array
    log_likelihood: Array
    inverse_temperature: Array
    log_evidence: Array
    log_step: Array
    autocorrelation: Array
    count: Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tempered(sizes: tuple[int, int], subjects: int, priors: dict, operands: tuple, keys: Array) -> _Found:
    num_particles, num_moves = sizes
    network, response, data, rows = operands
    dtype = data.dtype
    coordinates = Coordinates(priors, dtype)

    def log_prior(x: Array) -> Array:
        return jnp.sum(coordinates.log_priors(x), axis=-1)

    def log_likelihood(x: Array) -> Array:
        found = jax.vmap(lambda row: subject_log_likelihood(network, response, coordinates.values(row), data, rows))(x)
        return jnp.where(jnp.isnan(found), -jnp.inf, found)

    def start(key: Array) -> _State:
        x = coordinates.sample(key, (num_particles, subjects))
        zeros = jnp.zeros(subjects, dtype)
        first_step = zeros + jnp.log(2.38 / x.shape[-1] ** 0.5)
        return _State(x, log_prior(x), log_likelihood(x), zeros, zeros, first_step, zeros, jnp.zeros((), jnp.int32))

    def advance(key: Array, state: _State) -> _State:
        key_resample, key_moves = jax.random.split(key)
        beta, _ = jax.vmap(next_inverse_temperature, in_axes=(1, 0, None))(
            state.log_likelihood, state.inverse_temperature, _SHARE
        )
        rise = (beta - state.inverse_temperature)[None]
        log_weights = jnp.where(rise > 0.0, rise * state.log_likelihood, jnp.zeros_like(state.log_likelihood))
        log_z = state.log_evidence + jax.vmap(log_mean_exp, in_axes=1)(log_weights)
        roots = jax.vmap(_root, in_axes=(1, 1))(log_weights, state.x)
        uniforms = jax.random.uniform(key_resample, (subjects,), dtype)
        ancestors = jax.vmap(lambda u, w: systematic_ancestors(u, w, num_particles), in_axes=(0, 1), out_axes=1)(
            uniforms, log_weights
        )
        chosen = tuple(
            jnp.take_along_axis(a, ancestors.reshape(ancestors.shape + (1,) * (a.ndim - 2)), axis=0) for a in state[:3]
        )

        def move(carry: tuple, key: Array) -> tuple[tuple, None]:
            x, prior, likelihood, log_step = carry
            key_propose, key_accept = jax.random.split(key)
            noise = jax.random.normal(key_propose, x.shape, dtype)
            proposal = x + jnp.exp(log_step)[None, :, None] * jnp.einsum("sij,nsj->nsi", roots, noise)
            new_prior, new_likelihood = log_prior(proposal), log_likelihood(proposal)
            log_ratio = new_prior - prior + _tempered_difference(beta[None], new_likelihood, likelihood)
            log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
            accepted = -jax.random.exponential(key_accept, log_ratio.shape, dtype) < log_ratio
            x = jnp.where(accepted[..., None], proposal, x)
            prior, likelihood = (
                jnp.where(accepted, a, b) for a, b in ((new_prior, prior), (new_likelihood, likelihood))
            )
            rate = jnp.mean(jnp.exp(jnp.minimum(log_ratio, 0.0)), axis=0)
            return (x, prior, likelihood, log_step + 0.5 * (rate - _ACCEPTANCE)), None

        moved, _ = jax.lax.scan(move, (*chosen, state.log_step), jax.random.split(key_moves, num_moves))
        x, prior, likelihood, log_step = moved
        memory = jnp.maximum(state.autocorrelation, _correlation(chosen[0], x))
        return _State(x, prior, likelihood, beta, log_z, log_step, memory, state.count + 1)

    def one(key: Array) -> _Found:
        key_start, key_steps = jax.random.split(key)

        def unfinished(state: _State) -> Array:
            going = (state.inverse_temperature < 1.0) & jnp.isfinite(state.log_evidence)
            return jnp.any(going) & (state.count < _MOST_TEMPERATURES)

        def step(state: _State) -> _State:
            return advance(jax.random.fold_in(key_steps, state.count), state)

        end = jax.lax.while_loop(unfinished, step, start(key_start))
        return _Found(
            coordinates.values(end.x), end.log_evidence, end.inverse_temperature, end.autocorrelation, end.count
        )

    return jax.lax.map(one, keys)


def _root(log_weights: Float[Array, " particles"], x: Float[Array, "particles dim"]) -> Float[Array, "dim dim"]:
    """Lower Cholesky factor of the weighted covariance, a little more on the diagonal."""
    weights = jax.nn.softmax(log_weights)
    centred = x - (weights @ x)[None]
    covariance = centred.T @ (weights[:, None] * centred)
    diagonal = jnp.maximum(jnp.diagonal(covariance), jnp.finfo(x.dtype).tiny ** 0.5)
    root = jnp.linalg.cholesky(covariance + jnp.diag(1e-4 * diagonal))
    return jnp.where(jnp.all(jnp.isfinite(root)), root, jnp.diag(jnp.sqrt(diagonal)))


def _tempered_difference(beta: Array, new: Array, old: Array) -> Array:
    """The number beta (new - old), where a new value of -inf is a legal zero."""
    return jnp.where(new == -jnp.inf, -jnp.inf, beta * (new - old))


def _correlation(before: Float[Array, "particles subjects dim"], after: Array) -> Float[Array, " subjects"]:
    """The largest correlation over the particles of a coordinate with itself before the moves."""
    x, y = before - jnp.mean(before, axis=0)[None], after - jnp.mean(after, axis=0)[None]
    scale = jnp.sqrt(jnp.sum(x**2, axis=0) * jnp.sum(y**2, axis=0))
    return jnp.max(
        jnp.where(scale > 0.0, jnp.abs(jnp.sum(x * y, axis=0)) / jnp.where(scale > 0.0, scale, 1.0), 1.0), axis=-1
    )
