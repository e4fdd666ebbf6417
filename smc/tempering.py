"""The compiled pieces of tempering: the start, the next inverse temperature, and one temperature with its moves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.kernels.chains import cached, counted
from probinf.kernels.flat import FlatLayout
from probinf.kernels.hmc import move_population, start_population, step_size_share
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import effective_sample_size, scheme, weights_from_log
from smc.tempered_density import log_prior_and_likelihood

#: The moves of one temperature go on until no coordinate remembers more than this of where it started.
AUTOCORRELATION_LIMIT = 0.3
_TARGET_ACCEPTANCE = 0.8  # near the optimum for trajectories of a few leapfrog steps (Beskos et al. 2013: 0.65 to 0.9)
_LONGEST_STEP, _SHORTEST_STEP = 1.5, 1e-5  # in standard deviations; 2 is the stability limit of a Gaussian
_BISECTIONS = 80


class TemperedState(NamedTuple):
    """R runs of N particles side by side.

    Attributes:
        position: (R, N, d), unconstrained.
        log_prior: (R, N) nats, Jacobians included.
        log_likelihood: (R, N) nats; -inf is a legal zero.
        inverse_temperature: (R,), 0 at the prior and 1 at the posterior.
        log_evidence: (R,) nats.
        log_step_size: (R,), in standard deviations of the particles.
    """

    position: Array
    log_prior: Array
    log_likelihood: Array
    inverse_temperature: Array
    log_evidence: Array
    log_step_size: Array


class TemperatureInfo(NamedTuple):
    """What happened at one temperature, each of shape (R,): see `smc.history`."""

    ess: Array
    acceptance: Array
    num_moves: Array
    autocorrelation: Array
    slowest: Array


def powers(log_likelihood: Array, step: Array) -> Array:
    """Log weights `step * log_likelihood` up to a constant; particles of likelihood zero stay dead for any step."""
    top = jnp.max(log_likelihood)
    dead = log_likelihood == -jnp.inf
    gap = jnp.where(dead, 0, log_likelihood - jnp.where(jnp.isfinite(top), top, 0))
    return jnp.where(dead, -jnp.inf, step * gap)


def next_inverse_temperature(
    log_likelihood: Float[Array, " particles"], inverse_temperature: Array, threshold: Array
) -> tuple[Array, Array]:
    """The inverse temperature at which the effective sample size has fallen to a share of the living particles.

    The effective sample size of L^δ falls monotonically from the number of particles with L > 0, so the step δ is found
    by bisection, on the scale of log δ: first steps may be as small as 1e-300, and the ESS must be right there too.

    Args:
        log_likelihood: (N,) nats.
        inverse_temperature: the present one.
        threshold: the share, in (0, 1).

    Returns:
        The next inverse temperature (exactly 1 where it can be reached) and the effective sample size there.
    """
    dtype = log_likelihood.dtype
    goal = threshold * jnp.sum((log_likelihood > -jnp.inf).astype(dtype))

    def ess(log_step: Array) -> Array:
        return effective_sample_size(powers(log_likelihood, jnp.exp(log_step)))

    end = jnp.log1p(-inverse_temperature)
    low, high = jnp.log(jnp.asarray(jnp.finfo(dtype).tiny, dtype)), end

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = ess(middle) >= goal
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.minimum(low, high), high))
    reached = ess(end) >= goal
    new = jnp.where(reached, jnp.ones_like(inverse_temperature), inverse_temperature + jnp.exp(low))
    return new, ess(jnp.where(reached, end, low))


def autocorrelations(
    before: Float[Array, "particles dim"], after: Float[Array, "particles dim"]
) -> Float[Array, " dim"]:
    """Correlation over the particles of each coordinate with itself before the moves; 1 where nothing varies."""
    x, y = before - jnp.mean(before, axis=0)[None], after - jnp.mean(after, axis=0)[None]
    scale = jnp.sqrt(jnp.sum(x * x, axis=0) * jnp.sum(y * y, axis=0))
    return jnp.where(scale > 0, jnp.abs(jnp.sum(x * y, axis=0)) / jnp.where(scale > 0, scale, 1), 1)


def autocorrelation_limit(num_particles: int) -> float:
    """The limit, no lower than what independent positions of so few particles show by chance (3.5 standard errors)."""
    return max(AUTOCORRELATION_LIMIT, 3.5 / num_particles**0.5)


class TemperingPrograms:
    """The compiled programs of one model and one size; data and keys are their arguments.

    Args:
        target: the program's `unconstrained()`.
        num_runs: R.
        num_particles: N.
        num_moves: trajectories of the first round of moves.
        max_moves: no further round begins at this number.
        num_leapfrog: leapfrog steps of a trajectory.
        resample: scheme.
    """

    def __init__(
        self,
        target: Any,
        num_runs: int,
        num_particles: int,
        num_moves: int,
        max_moves: int,
        num_leapfrog: int,
        resample: str,
    ) -> None:
        # The target's operands are not kept: the data of the first run must not be those of the next.
        self.layout = layout = FlatLayout(target.position_shapes)
        self.num_runs, self.num_particles = num_runs, num_particles
        self.num_moves, self.max_moves, self.num_leapfrog = num_moves, max_moves, num_leapfrog
        self._law = scheme(resample)
        self._parts = lambda operands, x: log_prior_and_likelihood(target, operands, layout.unravel(x))
        self._draw = lambda operands, key: layout.ravel(target.prior_position(operands, key))
        self.start = counted(self._start)
        self.step = counted(self._step)
        self.constrain = counted(
            lambda operands, position: jax.vmap(jax.vmap(lambda x: target.constrain(operands, layout.unravel(x))))(
                position
            )
        )

    def _start(self, operands: Any, key: Array) -> tuple[TemperedState, Array]:
        """Particles of the prior, and how many of them lie where their density cannot be computed, (R,)."""
        runs, num, dtype = self.num_runs, self.num_particles, self.layout.dtype
        x = jax.vmap(lambda k: self._draw(operands, k))(jax.random.split(key, runs * num))
        legal = jnp.all(jnp.isfinite(x), axis=1)
        x = jnp.where(legal[:, None], x, jnp.zeros_like(x))
        prior, likelihood = jax.vmap(lambda row: self._parts(operands, row))(x)
        legal = legal & jnp.isfinite(prior)
        # A draw that rounding sent to the border of its support has no density: weight zero, and counted.
        likelihood = jnp.where(legal, likelihood, -jnp.inf)
        prior = jnp.where(legal, prior, 0)
        step = jnp.log(jnp.asarray(1.2 * self.layout.dim**-0.25, dtype))
        state = TemperedState(
            x.reshape(runs, num, -1),
            prior.reshape(runs, num).astype(dtype),
            likelihood.reshape(runs, num).astype(dtype),
            jnp.zeros(runs, dtype),
            jnp.zeros(runs, dtype),
            jnp.full(runs, step),
        )
        return state, jnp.sum((~legal).reshape(runs, num).astype(jnp.int32), axis=1)

    def _step(
        self, operands: Any, state: TemperedState, threshold: Array, key: Array
    ) -> tuple[TemperedState, TemperatureInfo]:
        """One temperature: reweight, resample, move."""
        key_resample, key_moves = jax.random.split(key)
        beta, ess = jax.vmap(next_inverse_temperature, in_axes=(0, 0, None))(
            state.log_likelihood, state.inverse_temperature, threshold
        )
        delta = beta - state.inverse_temperature
        log_weights = jax.vmap(powers)(state.log_likelihood, delta)
        top = jnp.max(state.log_likelihood, axis=1)
        increment = delta * top + jax.vmap(log_mean_exp)(log_weights)
        weights = jax.vmap(weights_from_log)(log_weights)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        mean = jnp.einsum("rn,rnd->rd", weights, state.position)
        variance = jnp.einsum("rn,rnd->rd", weights, (state.position - mean[:, None, :]) ** 2)
        variance = jnp.maximum(variance, jnp.asarray(jnp.finfo(variance.dtype).tiny ** 0.5, variance.dtype))
        ancestors = self._law(log_weights, self.num_particles).sample(key_resample)
        before = jnp.take_along_axis(state.position, ancestors[:, :, None], axis=1)
        after, log_step, info = self._moves(operands, before, beta, variance, state.log_step_size, key_moves)
        prior, likelihood = jax.vmap(jax.vmap(lambda x: self._parts(operands, x)))(after)
        new = TemperedState(after, prior, likelihood, beta, state.log_evidence + increment, log_step)
        return new, TemperatureInfo(ess, *info)

    def _moves(
        self, operands: Any, before: Array, beta: Array, variance: Array, log_step: Array, key: Array
    ) -> tuple[Array, Array, tuple]:
        """Rounds of moves, each as long as all before it, until every coordinate has forgotten where it started."""
        limit = jnp.asarray(autocorrelation_limit(self.num_particles), before.dtype)

        def density(beta: Array) -> Any:
            def one(x: Array) -> Array:
                prior, likelihood = self._parts(operands, x)
                return prior + beta * likelihood

            return one

        def move(number: Array, population: Any, log_step: Array) -> tuple[Any, Array]:
            keys = jax.random.split(jax.random.fold_in(key, number), (self.num_runs, self.num_particles))
            population, rates = jax.vmap(
                lambda k, p, b, s, v: move_population(k, p, density(b), s, v, self.num_leapfrog)
            )(keys, population, beta, jnp.exp(log_step) * step_size_share(number), variance)
            return population, jnp.mean(rates, axis=1)

        def round_of_moves(carry: tuple) -> tuple:
            population, log_step, done, _, _, _ = carry
            length = jnp.where(done == 0, self.num_moves, done)

            def one(i: Array, inner: tuple) -> tuple:
                population, total = inner
                population, rate = move(done + i, population, log_step)
                return population, total + rate

            population, total = jax.lax.fori_loop(0, length, one, (population, jnp.zeros_like(log_step)))
            rate = total / length.astype(total.dtype)
            # Between rounds only, so that each round is a kernel that leaves its target unchanged.
            change = jnp.clip(2.0 * (rate - _TARGET_ACCEPTANCE), -1.0, 0.3)
            log_step = jnp.clip(log_step + change, jnp.log(_SHORTEST_STEP), jnp.log(_LONGEST_STEP)).astype(
                log_step.dtype
            )
            rho = jax.vmap(autocorrelations)(before, population.position)
            slowest = jnp.argmax(rho, axis=1).astype(jnp.int32)
            return population, log_step, done + length, rate, jnp.max(rho, axis=1), slowest

        population = jax.vmap(lambda x, b: start_population(x, density(b)))(before, beta)
        zero = jnp.zeros_like(log_step)
        carry = (population, log_step, jnp.int32(0), zero, zero + 1, jnp.zeros(self.num_runs, jnp.int32))
        carry = jax.lax.while_loop(lambda c: jnp.any(c[4] > limit) & (c[2] < self.max_moves), round_of_moves, carry)
        population, log_step, done, rate, rho, slowest = carry
        return population.position, log_step, (rate, jnp.broadcast_to(done, rate.shape), rho, slowest)


def tempering_programs(
    target: Any, num_runs: int, num_particles: int, num_moves: int, max_moves: int, num_leapfrog: int, resample: str
) -> TemperingPrograms:
    """The programs of an earlier run of the same model and sizes, if there was one."""
    sizes = (num_runs, num_particles, num_moves, max_moves, num_leapfrog, resample)
    key = ("tempering", target.signature, str(jnp.zeros(()).dtype), sizes)
    return cached(key, lambda: TemperingPrograms(target, *sizes))
