"""Closed-form beliefs that a small set of particles corrects where they are far from exact conditioning."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, DataError, ModelError
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.filtering import Traces, advance, batch_shape, begin
from probinf.predictive_coding.nodes import BinaryInput, ContinuousInput
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry
from probinf.predictive_coding.run import NetworkRun
from probinf.predictive_coding.step import Outcome
from probinf.predictive_coding.stream import conditional, emission
from probinf.random import as_key
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import effective_sample_size
from probinf.transformations.tempering import next_inverse_temperature

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

_ROUNDS = 6
_WIDER = 1.5  # tails of the proposal, at a cost of 6 % of the particles for each state


@dataclasses.dataclass(frozen=True)
class CorrectedRun:
    """Beliefs, and where they were corrected.

    Attributes:
        run: the beliefs after every step; means and precisions of corrected steps are the particles'.
        overlap: (T,): effective sample size, as a share, of draws from the closed-form belief weighted to the exact
            posterior of the step; 1 where they agree.
        corrected: (T,): whether the overlap was below the threshold.
        inverse_temperature: (T,): of the weights that gave the moments; below 1 where the fit had not yet reached the
            posterior (raise `num_particles`).
    """

    run: NetworkRun
    overlap: jax.Array
    corrected: jax.Array
    inverse_temperature: jax.Array


def corrected_filter(
    network: Network,
    data: Any,
    *,
    num_particles: int = 256,
    threshold: float = 0.9,
    seed: int | jax.Array = 0,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
) -> CorrectedRun:
    r"""The network's filter, with moments from importance sampling at the steps where its updates are far off.

    Given the beliefs $q_{t-1}$ of the step before, single Gaussians, every state's prediction given its parents' new
    values is Gaussian too, so that the exact posterior of the step is known up to its constant:

    $$p(x) \propto g(u \mid x) \prod_i N\big(x_i;\ \lambda_i m_i + d_i(x),\ \lambda_i^2/\pi_i + V_i(x)\big)$$

    with $d_i$ and $V_i$ what the value and volatility parents of i in x add.

    The rule: particles are drawn from the closed-form belief and weighted to p; where their effective sample size is
    below `threshold` times their number, means and precisions become those of p. These are found by importance sampling
    from a Gaussian that is fitted in rounds, each tempered so that half of the particles count, and widened; a belief
    of the wrong place is left behind that way. Correlations between states are dropped, as in every belief of a
    network; an unsound closed-form belief is always corrected.

    Args:
        network: of continuous and binary inputs.
        data: one series, as in `Network.filter`.
        num_particles: of every round.
        threshold: between 0 (never) and 1 (always).
        seed: an integer or a key.
        time_steps: as in `Network.filter`.
        observed: as in `Network.filter`.

    Raises:
        ModelError: inputs of other kinds.
        DataError: a batch of series or of numbers.
        ArgumentError: an impossible setting.
    """
    for node in network.fed_inputs():
        if not isinstance(node, ContinuousInput | BinaryInput):
            raise ModelError(f"{node.KIND} {node.name!r}: only continuous and binary inputs have a generative model.")
    if positive_integer("num_particles", num_particles) < 16:
        raise ArgumentError(f"num_particles: expected at least 16, found {num_particles}.")
    if not 0.0 <= threshold <= 1.0:
        raise ArgumentError(f"threshold: expected a share between 0 and 1, found {threshold!r}.")
    plan, numbers = network.plan(), network.numbers()
    given = network.prepare(data, time_steps=time_steps, observed=observed)
    if batch_shape(plan, numbers, given) != ():
        raise DataError("corrected_filter: expected one series and numbers without a batch axis.")
    keys = jax.random.split(as_key(seed), given.values[0].shape[0])
    share = jnp.asarray(threshold, given.dtype)
    carry, outcome, told = _scan(plan, num_particles, numbers, given, share, keys)
    return CorrectedRun(NetworkRun.assemble(network, plan, given, carry, outcome), *told)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scan(
    plan: Plan, num_particles: int, numbers: Numbers, data: Data, threshold: Array, keys: Array
) -> tuple[Carry, Outcome, tuple[Array, Array, Array]]:
    Traces.count += 1
    numbers, carry = begin(plan, numbers, data)

    def one(before: Carry, row: tuple[Data, Array]) -> tuple[Carry, tuple]:
        now, key = row
        after, outcome = advance(plan, numbers, before, now, flagged=True)
        m, p = jnp.stack(before.means), jnp.stack(before.precisions)

        def log_target(x: Float[Array, " states"]) -> Array:
            return _log_prediction(plan, numbers, m, p, now.time_step, x) + _log_seen(plan, numbers, now, x)

        start = jnp.stack(after.means), 1.0 / jnp.stack(after.precisions)
        key_overlap, key_fit = jax.random.split(key)
        _, log_weights = _weighted(log_target, key_overlap, *start, num_particles)
        overlap = effective_sample_size(log_weights) / num_particles
        corrected = (overlap < threshold) | ~jnp.isfinite(outcome.log_density)
        kept = _Fit(*start, outcome.log_density, jnp.ones_like(overlap))
        found = jax.lax.cond(
            corrected, lambda: _fitted(log_target, key_fit, *start, num_particles), lambda: _as_dtypes(kept, m.dtype)
        )
        nodes = dict(outcome.nodes)
        for k, i in enumerate(plan.states):
            nodes[i] = nodes[i]._replace(mean=found.mean[k], precision=1.0 / found.variance[k])
        flag = jax.tree.map(lambda x: jnp.where(corrected, jnp.zeros_like(x), x), outcome.flag)
        outcome = outcome._replace(nodes=nodes, log_density=found.log_density, flag=flag)
        carry = Carry(tuple(found.mean), tuple(1.0 / found.variance), ())
        return carry, (outcome, (overlap, corrected, found.inverse_temperature))

    carry, (outcome, told) = jax.lax.scan(one, carry, (data, keys))
    return carry, outcome, told


class _Fit(NamedTuple):
    mean: Array
    variance: Array
    log_density: Array
    inverse_temperature: Array


def _as_dtypes(fit: _Fit, dtype: Any) -> _Fit:
    return _Fit(*(jnp.asarray(part, dtype) for part in fit))


def _weighted(
    log_target: Callable, key: Array, mean: Float[Array, " states"], variance: Array, num: int
) -> tuple[Array, Array]:
    """Draws from a Gaussian, (num, states), and their log weights to the target."""
    law = dist.Normal(mean, jnp.sqrt(variance))
    x = law.sample(key, (num,))
    return x, jax.vmap(lambda row: log_target(row) - jnp.sum(law.log_prob(row)))(x)


def _fitted(log_target: Callable, key: Array, mean: Array, variance: Array, num: int) -> _Fit:
    """Moments and constant of the target by importance sampling from a Gaussian that moves towards it."""
    zero = jnp.zeros((), mean.dtype)

    def moments(x: Array, log_weights: Array, share: float) -> tuple[Array, Array, Array]:
        beta, _ = next_inverse_temperature(log_weights, zero, share)
        weights = jax.nn.softmax(jnp.where(log_weights > -jnp.inf, beta * log_weights, -jnp.inf))
        centre = weights @ x
        return centre, weights @ (x - centre[None]) ** 2, beta

    def adapt(place: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        x, log_weights = _weighted(log_target, key, place[0], _WIDER * place[1], num)
        return moments(x, log_weights, 0.5)[:2], None

    *rounds, last = jax.random.split(key, _ROUNDS + 1)
    (mean, variance), _ = jax.lax.scan(adapt, (mean, variance), jnp.stack(rounds))
    x, log_weights = _weighted(log_target, last, mean, _WIDER * variance, num)
    centre, spread, beta = moments(x, log_weights, 0.1)
    return _Fit(centre, spread, log_mean_exp(log_weights), beta)


def _law(plan: Plan, numbers: Numbers, states: dict, m: Array, p: Array, dt: Any, i: int) -> tuple[Array, Array]:
    """Mean and standard deviation of a state given its parents' new values, its own last value integrated out."""
    mean, sd = conditional(plan, numbers, states, m, dt, i)
    autoconnection = numbers.nodes[i]["autoconnection"]
    kept = autoconnection if dt is None else jnp.where(dt > 0.0, autoconnection, 1.0)
    return mean, jnp.sqrt(sd**2 + kept**2 / p[plan.states.index(i)])


def _log_prediction(plan: Plan, numbers: Numbers, m: Array, p: Array, dt: Any, x: Float[Array, " states"]) -> Array:
    states = dict(zip(plan.states, x, strict=True))
    total = jnp.zeros((), x.dtype)
    for i in plan.states:
        mean, sd = _law(plan, numbers, states, m, p, dt, i)
        total = total + dist.Normal(mean, sd).log_prob(states[i])
    return total


def _log_seen(plan: Plan, numbers: Numbers, row: Data, x: Float[Array, " states"]) -> Array:
    states = dict(zip(plan.states, x, strict=True))
    total = jnp.zeros((), x.dtype)
    for i, value, flag in zip(plan.fed, row.values, row.flags, strict=True):
        term = jnp.asarray(emission(plan, numbers, states, i).log_prob(value), x.dtype)
        total = total + (term if flag is None else jnp.where(flag, term, 0.0))
    return total
