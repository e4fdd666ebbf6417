"""The particle filter of a `StateSpaceModel`: evidence, moments, and the history if it is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentTypeError, InferenceError
from probinf.inference.posterior import Posterior
from probinf.language.distributions import standard_promotion
from probinf.language.primitives import Site, bind_sample
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.random import as_key
from probinf.representations.concrete import is_concrete
from probinf.transformations.algorithms import check_particles
from probinf.transformations.population import Resampling, log_mean_exp
from probinf.transformations.resampling import effective_sample_size, scheme
from probinf.transformations.stepping import emit_population
from smc.paired_threefry import sooner
from smc.proposals import Bootstrap, Proposal
from smc.rider import Rider
from smc.sharding import ONE_DEVICE, Placement, check_generator, placement
from smc.state_space_model import StateSpaceModel


class History(eqx.Module):
    """All particles of a filter run: what smoothers work on. Memory O(T N).

    Attributes:
        particles: (T, N, *state), an array, or a pytree of arrays where a particle is one.
        log_weights: (T, N) nats, unnormalised: filtering weights at each time, before any resampling.
        ancestors: (T, N) integers: the particle at t - 1 that each particle at t came from; row 0 counts up.
    """

    particles: Any
    log_weights: jax.Array
    ancestors: jax.Array


class FilterRun(eqx.Module):
    """What a particle filter found.

    Attributes:
        log_evidence: scalar, log of an unbiased estimate of p(y_0, ..., y_{T-1}), nats.
        log_increments: (T,), estimates of log p(y_t | y_0, ..., y_{t-1}); their sum is `log_evidence`.
        ess: (T,), effective sample sizes of the filtering weights.
        mean: (T, *state) filtering means, or None.
        variance: (T, *state) filtering variances, or None.
        particles: (N, *state), the last population.
        log_weights: (N,), its unnormalised weights, nats.
        history: every population, or None.
    """

    log_evidence: jax.Array
    log_increments: jax.Array
    ess: jax.Array
    mean: Any
    variance: Any
    particles: Any
    log_weights: jax.Array
    history: History | None

    def to_posterior(self, name: str = "x") -> Posterior:
        """The last population as a `Posterior` with one site: the state given all observations."""
        return Posterior(
            {name: np.asarray(self.particles)[None]},
            log_weights=np.asarray(self.log_weights)[None],
            log_evidence=float(self.log_evidence),
            method=f"particle filter, {self.log_weights.shape[0]} particles",
            claim="consistent",
        )


def particle_filter(
    model: Any,
    ys: Any,
    key: Any = 0,
    *,
    num_particles: int = 1000,
    proposal: Any = None,
    resample: str = "systematic",
    threshold: float = 0.5,
    moments: bool = True,
    history: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> FilterRun:
    r"""Sequential Monte Carlo on a state-space model, compiled once per shape.

    Before each move the population resamples if its effective sample size is at most `threshold * num_particles`
    (weights times look-ahead, where the proposal has one). Claim: unbiased (evidence), consistent (moments).

    It may be called inside `jax.jit`, `jax.vmap` (over keys, data or parameters: thousands of tracks as one batch) and
    `jax.lax.scan`; values are then not checked.

    Args:
        model: the model.
        ys: observations, (T, *observation).
        key: key or integer seed.
        num_particles: N.
        proposal: `Bootstrap()` by default; `Guided`, `Linearised`.
        resample: name of a resampling scheme.
        threshold: 1 resamples before every move, 0 never.
        moments: compute filtering means and variances.
        history: keep every population, memory O(T N) instead of O(N).
        mesh: devices over which the particles are split, of one process or of several. Draws and ancestors are the same
            bit for bit on any number of devices, and so are the claims; see the page "Devices".

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
        ModelError: a law of the model is not one distribution.
        InferenceError: all particles have weight zero, or a weight is NaN; the time is named.

    References:
        Chopin & Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 10.
    """
    check_call(model, num_particles, proposal, resample, threshold)
    where, key = placement(mesh, num_particles, "num_particles"), as_key(key, argument="key")
    check_generator(key, where)
    program = filter_program(
        model,
        ys,
        num_particles=num_particles,
        proposal=proposal,
        resample=resample,
        threshold=threshold,
        moments=moments,
        history=history,
        where=where,
    )
    if mesh is not None:
        program = program.with_operands(where.put(program.operands))
    found, _ = program.run(sooner(where.put(key)))
    check_alive(found, type(model).__name__)
    return found


def check_call(model: Any, num_particles: Any, proposal: Any, resample: str, threshold: Any) -> None:
    """The checks that every filter of a `StateSpaceModel` shares.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
    """
    if not isinstance(model, StateSpaceModel):
        raise ArgumentTypeError(f"model: expected a StateSpaceModel, found {type(model).__name__}.")
    check_particles(num_particles, threshold)
    scheme(resample)
    if not (proposal is None or isinstance(proposal, Proposal)):
        raise ArgumentTypeError(f"proposal: expected a Proposal, found {type(proposal).__name__}.")


def filter_program(
    model: Any,
    ys: Any,
    *,
    num_particles: int,
    proposal: Proposal | None = None,
    resample: str = "systematic",
    threshold: float = 0.5,
    moments: bool = False,
    history: bool = False,
    where: Placement = ONE_DEVICE,
    rider: Rider | None = None,
) -> Program:
    """`particle_filter` as a program that draws the particles and their ancestors and returns a `FilterRun`.

    So the filter can be enumerated exactly, put inside another program, and run by another interpreter. It does not
    score its evidence. Besides a `StateSpaceModel` the model may be whatever the proposal's `propose` understands, with
    a `check_data` of its own. With a rider the program returns the `FilterRun`, the rider's last state, and what it
    found at each time.
    """
    rule = Resampling(resample, float(threshold))
    settings = Settings(int(num_particles), rule, bool(moments), bool(history), where)
    parts = (model, model.check_data(ys), proposal or Bootstrap(), settings)
    name = f"particle_filter({type(model).__name__})"
    if rider is None:
        return Program(name, _filter, Arguments.split(parts, {}))
    return Program(name, _filter_with, Arguments.split((*parts, rider), {}))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is fixed while a filter runs: N, when to resample, what to keep, and on which devices."""

    num: int
    rule: Resampling
    moments: bool
    history: bool
    where: Placement = ONE_DEVICE


FIRST_NAMES = ("x0", "y0")


class WeightedRows(NamedTuple):
    """Particles, log weights, and what is known of the weights: their log mean and effective sample size.

    Particles are an array (N, ...) or a pytree of such: what a proposal's `propose` returns, N times.
    """

    x: Any
    log_weights: jax.Array
    log_mean: jax.Array
    ess: jax.Array


def _filter(model: Any, ys: jax.Array, proposal: Proposal, settings: Settings) -> FilterRun:
    return _filter_with(model, ys, proposal, settings, None)[0]


def _filter_with(
    model: Any, ys: jax.Array, proposal: Proposal, settings: Settings, rider: Rider | None
) -> tuple[FilterRun, Any, Any]:
    num, dtype, where = settings.num, jnp.result_type(float), settings.where
    zero = jnp.zeros(num, dtype)
    first, log_weights, _ = emit_population(
        lambda _: proposal.propose(model, jnp.asarray(0), None, ys[0], FIRST_NAMES), zero, zero
    )
    index = jnp.arange(num, dtype=jnp.int32)
    start, report = weigh(first, log_weights, index, settings)
    traced = settings.history or rider is not None

    def step(carry: tuple[WeightedRows, Any], row: tuple) -> tuple[tuple[WeightedRows, Any], tuple]:
        (now, ride), (t, y) = carry, row
        by, log_mean, ess = now.log_weights, now.log_mean, now.ess
        ahead = log_lookahead(proposal, model, t, now.x, y)
        if ahead is not None:
            ahead = where.whole(ahead)
            by = by + ahead
            log_mean, ess = log_mean_exp(by), effective_sample_size(by)
        (x, ahead, ancestors), by, collected = resample_rows(
            settings.rule, (now.x, ahead, index if traced else None), by, log_mean, ess, where
        )
        moved, log_weights, _ = emit_population(lambda x: proposal.propose(model, t, x, y), x, by)
        if ahead is not None:
            log_weights = log_weights - ahead
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, x)
        new, report = weigh(moved, log_weights, ancestors, settings)
        found = None
        if rider is not None:
            ride, found = rider.step(model, t, ride, now, ancestors, new)
        return (new, ride), (collected + new.log_mean - now.log_mean, report, found)

    ride, found = (None, None) if rider is None else rider.start(model, start)
    (last, ride), later = jax.lax.scan(step, (start, ride), (jnp.arange(1, ys.shape[0]), ys[1:]))
    increments, (ess, mean, variance, kept), found = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b]), (start.log_mean, report, found), later
    )
    run = FilterRun(jnp.sum(increments), increments, ess, mean, variance, last.x, last.log_weights, kept)
    return run, ride, found


def weigh(x: Any, log_weights: jax.Array, ancestors: Any, settings: Settings) -> tuple[WeightedRows, tuple]:
    """Everything that takes the weights themselves, from one exponential of each."""
    where = settings.where
    x, log_weights = where.split(x), where.whole(log_weights)
    top = jnp.max(log_weights)
    safe = jnp.where(jnp.isfinite(top), top, 0)
    weights = jnp.exp(log_weights - safe)
    total, squares = jnp.sum(weights), jnp.sum(weights * weights)
    dead = total <= 0  # a NaN is not
    log_mean = jnp.where(dead, -jnp.inf, safe + jnp.log(jnp.where(dead, 1, total) / settings.num))
    ess = jnp.where(dead, 0, total * total / jnp.where(dead, 1, squares))
    mean = variance = None
    if settings.moments:
        weights = where.whole(weights)
        values = jax.tree.map(lambda v: v.astype(weights.dtype), x)
        mean = jax.tree.map(lambda v: jnp.tensordot(weights, v, axes=1) / total, values)
        variance = jax.tree.map(lambda v, m: jnp.tensordot(weights, (v - m[None]) ** 2, axes=1) / total, values, mean)
    kept = History(x, *where.split((log_weights, where.whole(ancestors)))) if settings.history else None
    return WeightedRows(x, log_weights, log_mean, ess), (ess, mean, variance, kept)


def resample_rows(
    rule: Resampling,
    rows: Any,
    log_weights: jax.Array,
    log_mean: jax.Array,
    ess: jax.Array,
    where: Placement = ONE_DEVICE,
) -> tuple[Any, jax.Array, jax.Array]:
    """Resample the rows if the rule says so: new rows, log weights, and the log evidence collected."""
    num = log_weights.shape[0]
    if rule.threshold <= 0:
        return rows, log_weights, jnp.zeros_like(log_mean)

    def chosen(rows: Any, log_weights: jax.Array) -> Any:
        (ancestors,) = bind_sample(Site(""), scheme(rule.scheme)(log_weights, num))
        own = where.split(where.whole(ancestors))  # every device fetches its own children from the gathered rows
        return jax.tree.map(lambda a: jnp.take(where.whole(a), own, axis=0, mode="clip"), rows)

    due = (log_mean > -jnp.inf) & (ess <= rule.threshold * num)
    rows = jax.lax.cond(due, chosen, lambda rows, _: rows, rows, log_weights)
    return rows, where.whole(jnp.where(due, 0, log_weights)), jnp.where(due, log_mean, 0)


def log_lookahead(proposal: Proposal, model: Any, t: Any, x: Any, y: jax.Array) -> jax.Array | None:
    """Look-ahead log weights of all particles (N,), nats; None where the proposal has none."""
    with standard_promotion():
        if jax.eval_shape(lambda x, y: proposal.log_lookahead(model, t, x, y), _first_row(x), y) is None:
            return None
        return jax.vmap(lambda x: proposal.log_lookahead(model, t, x, y))(x)


def _first_row(rows: Any) -> Any:
    return jax.tree.map(lambda row: row[0], rows)


def check_alive(found: Any, name: str, where: str = "particle_filter") -> None:
    """Raise `InferenceError` at the first time whose increment of the log evidence is not finite.

    The error's `.partial` is `found`, which is sound before that time.
    """
    if not is_concrete(found.log_increments):
        return
    increments = np.asarray(found.log_increments)
    wrong = ~np.isfinite(increments)
    if not wrong.any():
        return
    t = int(np.argmax(wrong))
    if np.isneginf(increments[t]):
        error = InferenceError(
            f"{where}: every particle of {name} has weight zero at t = {t}: no particle explains ys[{t}]. "
            "Likely causes: an outlier under a light-tailed observation, a hard constraint, too few particles; a "
            "proposal that looks at the observation (smc.Linearised()) or heavier tails help."
        )
        error.partial = found
        raise error
    error = InferenceError(
        f"{where}: the weights of {name} are {increments[t]} at t = {t}. Likely causes: log or sqrt of a "
        "negative number, 0/0 or an overflow in a law of the model or of the proposal; -inf is the legal zero."
    )
    error.partial = found
    raise error
