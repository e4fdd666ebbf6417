"""A particle filter of islands: resampling within each, a few particles passed on around the ring, weights kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.random import as_key
from probinf.transformations.population import Resampling
from probinf.transformations.resampling import scheme
from probinf.transformations.stepping import advance_population
from smc.filtering import FIRST_NAMES, FilterRun, check_alive, check_call, log_lookahead
from smc.proposals import Bootstrap, Proposal
from smc.sharding import Placement, check_generator, placement
from smc.state_space_model import StateSpaceModel


def island_filter(
    model: StateSpaceModel,
    ys: Any,
    key: Any = 0,
    *,
    num_particles: int = 1000,
    num_islands: int = 8,
    exchange: float = 0.25,
    proposal: Proposal | None = None,
    resample: str = "systematic",
    threshold: float = 0.5,
    moments: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> FilterRun:
    r"""Sequential Monte Carlo whose particles resample within islands, so that little travels between devices.

    An island resamples when its own effective sample size is low; its particles then carry the island's mean weight
    instead of weight one, and nothing is lost of how well islands fare against each other. Whenever an island
    resamples, or the effective sample size of all particles is low, every island passes a share of its particles, with
    their weights, on to the next one around the ring. That only permutes the weighted population.

    Claim: unbiased (evidence, for any number of islands and particles), consistent (moments, as each island grows). The
    variance is that of `particle_filter` or larger, because islands correct each other slowly: look at `ess`, which is
    that of all particles. Results depend on `num_islands` and not on the devices.

    Args:
        model: the model.
        ys: observations, (T, *observation).
        key: key or integer seed.
        num_particles: N of all islands together, a multiple of `num_islands`.
        num_islands: number of islands, a multiple of the number of devices.
        exchange: share of an island's particles that it passes on, in [0, 1); 0 leaves the islands alone.
        proposal: `Bootstrap()` by default; `Guided`, `Linearised`.
        resample: name of a resampling scheme.
        threshold: an island resamples when its effective sample size is at most this fraction of its size; 0 never.
        moments: compute filtering means and variances.
        mesh: devices over which the islands are split, of one process or of several; one device by default.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
        InferenceError: all particles have weight zero, or a weight is NaN; the time is named.

    References:
        Bolić, Djurić & Hong (2005), resampling with non-proportional allocation; Whiteley, Lee & Heine (2016), On the
        role of interaction in sequential Monte Carlo algorithms, for why any such scheme is unbiased.
    """
    check_call(model, num_particles, proposal, resample, threshold)
    islands = positive_integer("num_islands", num_islands)
    if num_particles % islands:
        raise ArgumentError(f"num_particles: expected a multiple of num_islands={islands}, found {num_particles}.")
    if isinstance(exchange, bool) or not isinstance(exchange, int | float) or not 0 <= exchange < 1:
        raise ArgumentError(f"exchange: expected a share in [0, 1), found {exchange!r}.")
    where = placement(mesh, islands, "num_islands")
    size = int(num_particles) // islands
    settings = Settings(
        islands, size, round(exchange * size), Resampling(resample, float(threshold)), bool(moments), where
    )
    key = as_key(key, argument="key")
    check_generator(key, where)
    # Parameters given as Python floats are data too: new values compile nothing.
    traced = jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, float | np.floating) else v, model)
    traced, ys, steps, key = where.put((traced, model.check_data(ys), proposal or Bootstrap(), key))
    found = _run(traced, ys, steps, key, settings)
    check_alive(found, type(model).__name__, "island_filter")
    return found


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is fixed: number of islands, particles in each, how many it passes on, when to resample, and where."""

    islands: int
    size: int
    passed: int
    rule: Resampling
    moments: bool
    where: Placement


class _Rows(NamedTuple):
    """The islands of one device: particles (L, M, ...) and log weights whose mean over all islands is one."""

    x: Array
    log_weights: Float[Array, "islands size"]


class _Summary(NamedTuple):
    """Log mean weight and effective sample size of each island here (L,), and of all islands together."""

    log_means: Array
    ess: Array
    log_mean: Array
    total_ess: Array


def _in_turn(function: Callable[..., Any], *rows: Any) -> Any:
    """One island after another: each stays in cache, and its bits do not depend on how many there are here."""
    return jax.lax.map(lambda row: function(*row), rows)


@eqx.filter_jit
def _run(model: StateSpaceModel, ys: Array, proposal: Proposal, key: Array, settings: Settings) -> FilterRun:
    """The filter on this device's islands, the same program on every device."""
    mesh = settings.where.mesh
    numbers = jnp.arange(settings.islands, dtype=jnp.int32)
    run = Ring(model, ys, proposal, key, settings).run
    if mesh is not None:
        own = PartitionSpec(mesh.axis_names)
        # Every device computes the same summaries, from what all have gathered: nothing for JAX to check.
        run = jax.shard_map(run, mesh=mesh, in_specs=own, out_specs=(PartitionSpec(), own), check_vma=False)
    (increments, ess, mean, variance), (particles, log_weights) = run(numbers)
    return FilterRun(jnp.sum(increments), increments, ess, mean, variance, particles, log_weights, None)


@dataclasses.dataclass(frozen=True)
class Ring:
    """The program that every device runs on its own islands; it meets the others in two gathers and one passing on."""

    model: StateSpaceModel
    ys: Array
    proposal: Proposal
    key: Array
    settings: Settings

    def run(self, numbers: Array) -> tuple[tuple, tuple]:
        """Filter the islands with these numbers: summaries of all islands over time, and the last rows of these."""
        ys, num_here = self.ys, numbers.shape[0] * self.settings.size
        keys = jax.vmap(functools.partial(jax.random.fold_in, self.key))(numbers)
        zero = jnp.zeros((numbers.shape[0], self.settings.size), jnp.result_type(float))
        first_keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
        x, log_weights = self._moved(jnp.asarray(0), None, zero, ys[0], first_keys)
        start, report = self._weighed(x, log_weights)

        def step(now: tuple[_Rows, _Summary], row: tuple) -> tuple[tuple[_Rows, _Summary], tuple]:
            t, y = row
            own_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, t)))(keys)
            rows, summary = now
            by = rows.log_weights
            ahead = _in_turn(lambda x: log_lookahead(self.proposal, self.model, t, x, y), rows.x)
            if ahead is not None:
                by = by + ahead
                summary = self._summary(by)
            x, ahead, by = self._resampled(rows.x, ahead, by, summary, own_keys[:, 0])
            moved, log_weights = self._moved(t, x, by, y, own_keys[:, 1])
            if ahead is not None:
                log_weights = log_weights - ahead
            return self._weighed(moved.astype(x.dtype), log_weights)

        (last, _), later = jax.lax.scan(step, start, (jnp.arange(1, ys.shape[0]), ys[1:]))
        report = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), report, later)
        flat = last.x.reshape(num_here, *last.x.shape[2:])
        weights = last.log_weights.reshape(num_here)
        return report, (flat, weights)

    def _moved(self, t: Array, x: Array | None, log_weights: Array, y: Array, keys: Array) -> tuple[Array, Array]:
        names = FIRST_NAMES if x is None else ("x", "y")

        def island(x: Array, log_weights: Array, key: Array) -> tuple[Array, Array]:
            def move(row: Array) -> Array:
                return self.proposal.propose(self.model, t, None if names is FIRST_NAMES else row, y, names)

            new, log_weights, _ = advance_population(move, x, log_weights, key)
            return new, log_weights

        return _in_turn(island, log_weights if x is None else x, log_weights, keys)

    def _resampled(
        self, x: Array, ahead: Array | None, by: Array, summary: _Summary, keys: Array
    ) -> tuple[Array, Array | None, Array]:
        """Islands that are due resample and take on their mean weight; then all pass particles on."""
        rule, size = self.settings.rule, self.settings.size
        if rule.threshold <= 0:
            return x, ahead, by
        due = (summary.log_means > -jnp.inf) & (summary.ess <= rule.threshold * size)
        low = summary.total_ess <= rule.threshold * size * self.settings.islands

        def island(rows: Any, log_weights: Array, log_mean: Array, due: Array, key: Array) -> tuple[Any, Array]:
            def chosen(rows: Any) -> Any:
                ancestors = scheme(rule.scheme)(log_weights, size).sample(key)
                return jax.tree.map(lambda a: jnp.take(a, ancestors, axis=0, mode="clip"), rows)

            return jax.lax.cond(due, chosen, lambda rows: rows, rows), jnp.where(due, log_mean, log_weights)

        def act(rows: Any, by: Array) -> tuple[Any, Array]:
            return self.passed_on(_in_turn(island, rows, by, summary.log_means, due, keys))

        due_anywhere = jnp.any(self._gathered(due)) | low
        (x, ahead), by = jax.lax.cond(due_anywhere, act, lambda *rows: rows, (x, ahead), by)
        return x, ahead, by

    def passed_on(self, rows: Any) -> Any:
        """Some rows of every island, evenly spread among its own, move to the next one around the ring."""
        passed, size = self.settings.passed, self.settings.size
        if not passed:
            return rows
        mesh = self.settings.where.mesh
        which = jnp.arange(passed, dtype=jnp.int32) * size // passed

        def one(a: Array) -> Array:
            leaving = a[:, which]
            last = leaving[-1:]
            if mesh is not None:
                ring = [(d, (d + 1) % mesh.size) for d in range(mesh.size)]
                last = jax.lax.ppermute(last, mesh.axis_names, ring)
            return a.at[:, which].set(jnp.concatenate([last, leaving[:-1]]))

        return jax.tree.map(one, rows)

    def _gathered(self, x: Array) -> Array:
        """One row per island, of all islands, in their order."""
        mesh = self.settings.where.mesh
        return x if mesh is None else jax.lax.all_gather(x, mesh.axis_names, tiled=True)

    def _summary(self, log_weights: Array) -> _Summary:
        return self._summed(log_weights)[0]

    def _summed(self, log_weights: Array) -> tuple[_Summary, Array]:
        """The summary, and weights relative to the largest of each island."""
        size = self.settings.size

        def island(log_weights: Array) -> tuple[Array, Array, Array]:
            top = jnp.max(log_weights)
            safe = jnp.where(jnp.isfinite(top), top, 0)
            weights = jnp.exp(log_weights - safe)
            total, squares = jnp.sum(weights), jnp.sum(weights * weights)
            dead = total <= 0  # a NaN is not
            log_mean = jnp.where(dead, -jnp.inf, safe + jnp.log(jnp.where(dead, 1, total) / size))
            return log_mean, jnp.where(dead, 0, total * total / jnp.where(dead, 1, squares)), weights

        log_means, ess, weights = _in_turn(island, log_weights)
        all_means, all_ess = self._gathered(jnp.stack([log_means, ess], axis=1)).T
        best = jnp.max(all_means)
        base = jnp.where(jnp.isfinite(best), best, 0)
        shares = jnp.exp(all_means - base)
        mass = jnp.sum(shares)
        lost = mass <= 0
        log_mean = jnp.where(lost, -jnp.inf, base + jnp.log(jnp.where(lost, 1, mass) / self.settings.islands))
        # Sum of squares of an island's weights: (M times its mean)^2 over its effective sample size.
        all_squares = jnp.sum(jnp.where(all_ess > 0, (size * shares) ** 2 / jnp.where(all_ess > 0, all_ess, 1), 0))
        total_ess = jnp.where(lost, 0, (size * mass) ** 2 / jnp.where(lost, 1, all_squares))
        return _Summary(log_means, ess, log_mean, total_ess), weights

    def _weighed(self, x: Array, log_weights: Array) -> tuple[tuple[_Rows, _Summary], tuple]:
        """The population with its mean weight taken out, and what is reported: increment, ESS, moments."""
        summary, weights = self._summed(log_weights)
        mean = variance = None
        if self.settings.moments:
            mean, variance = self._moments(x.astype(weights.dtype), weights, summary)
        scale = jnp.where(summary.log_mean > -jnp.inf, summary.log_mean, 0)
        rows = _Rows(x, log_weights - scale)
        level = summary._replace(log_means=summary.log_means - scale, log_mean=summary.log_mean - scale)
        return (rows, level), (summary.log_mean, summary.total_ess, mean, variance)

    def _moments(self, x: Array, weights: Array, summary: _Summary) -> tuple[Array, Array]:
        """Mean and variance of the mixture of islands, from the moments within each."""
        shape = x.shape[2:]
        x = x.reshape(*x.shape[:2], -1)
        total = jnp.sum(weights, axis=1)
        within = weights / jnp.where(total > 0, total, 1)[:, None]
        means = jnp.einsum("im,imd->id", within, x)
        spreads = jnp.einsum("im,imd->id", within, (x - means[:, None]) ** 2)
        shares = jnp.exp(summary.log_means - summary.log_mean)[:, None]
        table = self._gathered(jnp.concatenate([shares, means, spreads], axis=1))
        shares, means, spreads = jnp.split(table, [1, 1 + x.shape[2]], axis=1)
        shares = shares / self.settings.islands
        mean = jnp.sum(shares * means, axis=0)
        variance = jnp.sum(shares * (spreads + (means - mean[None]) ** 2), axis=0)
        return mean.reshape(shape), variance.reshape(shape)
